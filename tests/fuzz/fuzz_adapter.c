/* fuzz_adapter: libFuzzer harness of adapters: reading, checking against a base, and the rows that
 * would go to a device (there is none). `make fuzz` runs it for long, test_fuzz.c on
 * tests/corpus/adapter. The base is made here: one matrix from one tensor, two from an interleaved
 * one, stacked experts from two tensors, a gate, and a draft block. */
#include "lora/lora.h"
#include "gguf_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { N_IN = 8, N_OUT = 6, N_EXPERT = 3 };

static struct lora_base base;
static linear matrix[4];

static void bind(linear *w, uint32_t n_in, uint32_t n_out, uint32_t n_expert, bool beside)
{
    *w = (linear){ .dtype = F32, .n_in = n_in, .n_out = n_out, .n_expert = n_expert };
    HLM_ASSERT(lora_base_matrix(&base, w, beside));
}

static const struct gguf_tensor *tensor_of(struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = gguf_tensor(g, name);
    HLM_ASSERT(t);
    return t;
}

static void make_base(void)
{
    struct hlm_err err = { 0 };
    uint64_t size, exps[3] = { N_IN, N_OUT, N_EXPERT };
    struct gguf_build *b = gb_new();
    gb_tensor(b, "token_embd.weight", F32, 2, (uint64_t[]){ N_IN, 10 }, NULL);
    gb_tensor(b, "blk.0.attn_q.weight", F32, 2, (uint64_t[]){ N_IN, N_OUT }, NULL);
    gb_tensor(b, "blk.0.ssm_ba.weight", F32, 2, (uint64_t[]){ N_IN, 4 }, NULL);
    gb_tensor(b, "blk.0.ffn_gate_exps.weight", F32, 3, exps, NULL);
    gb_tensor(b, "blk.0.ffn_up_exps.weight", F32, 3, exps, NULL);
    gb_tensor(b, "blk.0.ssm_a", F32, 1, (uint64_t[]){ 2 }, NULL);
    gb_tensor(b, "blk.0.attn_norm.weight", F32, 1, (uint64_t[]){ N_IN }, NULL);
    gb_tensor(b, "blk.1.attn_q.weight", F32, 2, (uint64_t[]){ N_IN, N_OUT }, NULL);
    uint8_t *bytes = gb_bytes(b, &size); /* stays open, as the base does */
    struct gguf *g = gguf_parse(bytes, size, "base.gguf", &err);
    HLM_ASSERT(g);
    gb_free(b);
    base = (struct lora_base){ .file = g, .arch = "qwen35", .n_layer = 1, .n_mtp = 1 };
    bind(&matrix[0], N_IN, N_OUT, 1, false);
    lora_base_rows(&base, tensor_of(g, "blk.0.attn_q.weight"), 0, N_OUT);
    const struct gguf_tensor *ba = tensor_of(g, "blk.0.ssm_ba.weight");
    for (uint32_t k = 0; k < 2; k++) {
        bind(&matrix[1 + k], N_IN, 2, 1, true);
        lora_base_rows(&base, ba, k, 1);
        lora_base_rows(&base, ba, 2 + k, 1);
    }
    bind(&matrix[3], N_IN, 2 * N_OUT, N_EXPERT, false);
    for (uint32_t e = 0; e < N_EXPERT; e++) {
        lora_base_rows(&base, tensor_of(g, "blk.0.ffn_gate_exps.weight"), e * N_OUT, N_OUT);
        lora_base_rows(&base, tensor_of(g, "blk.0.ffn_up_exps.weight"), e * N_OUT, N_OUT);
    }
    lora_base_gate(&base, (tensor){ 0 }, tensor_of(g, "blk.0.ssm_a"));
}

/* Makes every row that would be uploaded: each is written exactly once, and nothing else is. */
static void read_rows(const struct lora_set *s)
{
    for (uint64_t i = 0; i < base.n_matrix; i++) {
        const linear *w = base.matrix[i].w;
        uint32_t rank = lora_rank(s, i);
        float *a = malloc(w->n_in * sizeof *a), *b = malloc((rank + 1u) * sizeof *b);
        HLM_ASSERT(a && b && rank % 4 == 0);
        for (uint32_t r = 0; rank && r < rank * w->n_expert; r++) {
            lora_row_a(s, i, r, a);
            for (uint32_t k = 0; k < w->n_in; k++)
                HLM_ASSERT(isfinite(a[k]));
        }
        for (uint32_t r = 0; rank && r < w->n_out * w->n_expert; r++)
            lora_row_b(s, i, r, b);
        free(a);
        free(b);
    }
}

/* Every number of an adapter that is trained is where the stacks have it. */
static void check_params(const struct lora_set *s)
{
    for (uint64_t i = 0; i < lora_n_param(s); i++) {
        struct lora_param p = lora_param(s, i);
        HLM_ASSERT(p.n == p.dim[0] && p.n_row == (uint64_t)p.dim[1] * p.dim[2]);
        for (uint64_t row = 0; row < p.n_row; row++)
            HLM_ASSERT(lora_param_at(s, i, row) % 16 == 0);
    }
    float delta[2];
    lora_gate_delta(s, gguf_tensor(base.file, "blk.0.ssm_a"), delta);
    HLM_ASSERT(isfinite(delta[0]) && isfinite(delta[1]));
    HLM_ASSERT(lora_rank(s, 1) == lora_rank(s, 2)); /* one pair, both matrices */
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct hlm_err err = { 0 };
    if (!base.file)
        make_base();
    /* twice, as two adapters at once */
    struct lora_file *f[2] = { 0 };
    for (uint32_t k = 0; k < 2; k++)
        f[k] =
            lora_file_check(gguf_parse(bytes, n, "fuzz.gguf", &err), k ? -0.5f : 1.0f, &base, &err);
    HLM_ASSERT(!f[0] == !f[1]);
    if (!f[0]) {
        HLM_ASSERT(err.kind && !strncmp(err.msg, "fuzz.gguf: ", 11) && !strchr(err.msg, '\n'));
        return 0;
    }
    struct lora_set *s = lora_set_create(NULL, &base, f, 2, false, &err);
    HLM_ASSERT(s);
    read_rows(s);
    lora_set_destroy(s);
    f[0] = lora_file_check(gguf_parse(bytes, n, "fuzz.gguf", &err), 1, &base, &err);
    HLM_ASSERT(f[0]);
    s = lora_set_create(NULL, &base, f, 1, true, &err);
    HLM_ASSERT(s);
    read_rows(s);
    check_params(s);
    lora_set_destroy(s);
    return 0;
}
