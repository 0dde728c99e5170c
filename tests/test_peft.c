/* test_peft: adapters exported for PEFT. Every number that an export adds to a matrix is compared
 * with the adapter's own product in double, brought into the order of the checkpoint here, row by
 * row and in reverse. Also gates; ranks and scales as PEFT looks them up; and that a failure leaves
 * nothing behind.
 *
 * bench/adapter.sh loads exports into transformers' own modules. */
#include "file/file.h"
#include "gguf_build.h"
#include "hlm_test.h"
#include "json.h"
#include "ssm_in.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_MODULE = 256, MAX_GATE = 32 };

/* The largest error, relative to the largest element of a module. Measured where joined matrices
 * have different ranks. */
static const struct bound module_off = { .most = 2e-7, .measured = 5.8e-8 };

/* The key by which a file of qwen35 says how it orders V heads. */
#define V_ORDER "qwen35.ssm.v_head_reordered"

/* ---- an adapter of many ranks --------------------------------------------------------------- */

/* An adapter for everything that takes one, with a different rank for every tensor of a layer, and
 * gates. */
static struct gguf_build *make_adapter(const struct gguf *base, const char *arch, float alpha)
{
    static const char *const not [] = { "_norm.weight", "token_embd.weight", "ssm_conv1d.weight",
                                        "rope_freqs.weight" };
    static const char *const gates[] = { ".ssm_a", ".ssm_dt.bias", ".ssm_d" };
    struct gguf_build *b = gb_new();
    struct rng rng = { 11 };
    char name[96];
    gb_str(b, "general.type", "adapter");
    gb_str(b, "general.architecture", arch);
    gb_str(b, "adapter.type", "lora");
    gb_f32(b, "adapter.lora.alpha", alpha);
    for (uint64_t i = 0; i < gguf_n_tensor(base); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(base, i);
        bool takes = test_has_tail(x->name, ".weight"), gate = false;
        uint64_t r = 1 + i % 5;
        for (uint32_t k = 0; k < ARRAY_LEN(not ); k++)
            takes = takes && !test_has_tail(x->name, not [k]) && strcmp(x->name, not [k]) != 0;
        takes = takes && !test_has_tail(x->name, "enorm.weight") &&
                !test_has_tail(x->name, "hnorm.weight");
        for (uint32_t k = 0; k < ARRAY_LEN(gates); k++)
            gate = gate || test_has_tail(x->name, gates[k]);
        for (uint32_t k = 0; k < 2 && (takes || gate); k++) {
            uint64_t dim[3] = { k ? r : x->dim[0], k ? x->dim[1] : r, x->dim[2] };
            uint64_t n = gate ? x->n_elem : dim[0] * dim[1] * dim[2];
            float *v = test_room(n, sizeof *v);
            for (uint64_t j = 0; j < n; j++)
                v[j] = (float)rng_normal(&rng);
            snprintf(name, sizeof name, "%s.%s", x->name, gate ? "delta" : k ? "lora_b" : "lora_a");
            gb_tensor(b, name, F32, gate ? 1 : x->dim[2] > 1 ? 3 : 2, gate ? &n : dim, v);
            free(v);
            if (gate)
                break;
        }
    }
    return b;
}

/* ---- the export, read ----------------------------------------------------------------------- */

struct safe {
    json_t *head;
    uint8_t *bytes;
    uint64_t data, n;
};

static struct safe safe_open(const char *dir, const char *file)
{
    struct safe s = { 0 };
    struct hlm_err err = { 0 };
    char path[256];
    uint64_t n = 0;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    s.bytes = (uint8_t *)file_read(path, 1 << 26, &s.n, &err);
    if (!s.bytes)
        return s;
    memcpy(&n, s.bytes, sizeof n);
    if (CHECK(n % 8 == 0 && n < s.n))
        s.head = json_loadb((const char *)s.bytes + 8, n, 0, NULL);
    s.data = 8 + n;
    CHECK(s.head);
    return s;
}

static void safe_close(struct safe *s)
{
    json_decref(s->head);
    free(s->bytes);
}

/* The numbers of a tensor in the file; NULL: it does not exist. */
static const float *safe_get(const struct safe *s, const char *name, uint64_t shape[2])
{
    const json_t *t = json_object_get(s->head, name), *dim = json_object_get(t, "shape");
    const json_t *at = json_object_get(t, "data_offsets");
    uint64_t n = sizeof(float), from = (uint64_t)json_integer_value(json_array_get(at, 0));
    shape[0] = shape[1] = 1;
    if (!t)
        return NULL;
    for (size_t i = 0; i < json_array_size(dim) && i < 2; i++)
        n *= shape[i] = (uint64_t)json_integer_value(json_array_get(dim, i));
    bool ok = CHECK(!strcmp(json_string_value(json_object_get(t, "dtype")), "F32")) &&
              CHECK((uint64_t)json_integer_value(json_array_get(at, 1)) == from + n &&
                    s->data + from + n <= s->n && from % 4 == 0);
    return ok ? (const float *)(const void *)(s->bytes + s->data + from) : NULL;
}

/* ---- the product, put into the checkpoint's order ------------------------------------------- */

struct want {
    char name[128];
    uint64_t n_in, n_out;
    double *d;
    bool seen;
};

struct peft_rig {
    struct gguf *base, *lora;
    const char *arch;
    uint32_t nk, nv, s, n_layer;
    bool tiled;
    struct want want[MAX_MODULE];
    uint32_t n_want;
};

/* The place in the checkpoint of V head j of the file. */
static uint64_t to_head(const struct peft_rig *g, uint64_t j)
{
    return g->tiled ? j % g->nk * (g->nv / g->nk) + j / g->nk : j;
}

static uint64_t to_item(const struct peft_rig *g, uint64_t i, uint64_t each)
{
    return to_head(g, i / each) * each + i % each;
}

/* The module of a tensor that it has whole, row by row. */
static const char *plain_module(const char *arch, const char *stem)
{
    /* clang-format off */
    static const struct { const char *arch, *stem, *module; } plain[] = {
        { "q", "attn_q", "self_attn.q_proj" }, { "q", "attn_k", "self_attn.k_proj" },
        { "q", "attn_v", "self_attn.v_proj" }, { "q", "attn_output", "self_attn.o_proj" },
        { "q", "ssm_ba", "linear_attn.in_proj_ba" }, { "q", "ssm_in", "linear_attn.in_proj_qkvz" },
        { "q", "ssm_out", "linear_attn.out_proj" },
        { "q", "ffn_gate", "mlp.gate_proj" }, { "q", "ffn_up", "mlp.up_proj" },
        { "q", "ffn_down", "mlp.down_proj" }, { "q", "ffn_gate_inp", "mlp.gate" },
        { "q", "ffn_gate_inp_shexp", "mlp.shared_expert_gate" },
        { "q", "ffn_gate_shexp", "mlp.shared_expert.gate_proj" },
        { "q", "ffn_up_shexp", "mlp.shared_expert.up_proj" },
        { "q", "ffn_down_shexp", "mlp.shared_expert.down_proj" },
        { "q", "ffn_down_exps", "mlp.experts.%u.down_proj" },
        { "qwen3n", "ffn_gate_exps", "mlp.experts.%u.gate_proj" },
        { "qwen3n", "ffn_up_exps", "mlp.experts.%u.up_proj" },
        { "n", "ssm_in", "mixer.in_proj" }, { "n", "ssm_out", "mixer.out_proj" },
        { "n", "attn_q", "mixer.q_proj" }, { "n", "attn_k", "mixer.k_proj" },
        { "n", "attn_v", "mixer.v_proj" }, { "n", "attn_output", "mixer.o_proj" },
        { "n", "ffn_up", "mixer.up_proj" }, { "n", "ffn_down", "mixer.down_proj" },
        { "n", "ffn_gate_inp", "mixer.gate" }, { "n", "ffn_up_exps", "mixer.experts.%u.up_proj" },
        { "n", "ffn_down_exps", "mixer.experts.%u.down_proj" },
        { "n", "ffn_up_shexp", "mixer.shared_experts.up_proj" },
        { "n", "ffn_down_shexp", "mixer.shared_experts.down_proj" },
        { "s", "attn_q", "self_attn.q_proj" }, { "s", "attn_k", "self_attn.k_proj" },
        { "s", "attn_v", "self_attn.v_proj" }, { "s", "attn_output", "self_attn.o_proj" },
        { "s", "attn_gate", "self_attn.g_proj" }, { "s", "ffn_gate", "mlp.gate_proj" },
        { "s", "ffn_up", "mlp.up_proj" }, { "s", "ffn_down", "mlp.down_proj" },
        { "s", "ffn_gate_inp", "moe.gate" }, { "s", "ffn_gate_exps", "moe.%u.gate_proj" },
        { "s", "ffn_up_exps", "moe.%u.up_proj" }, { "s", "ffn_down_exps", "moe.%u.down_proj" },
        { "s", "ffn_gate_shexp", "share_expert.gate_proj" },
        { "s", "ffn_up_shexp", "share_expert.up_proj" },
        { "s", "ffn_down_shexp", "share_expert.down_proj" },
        { "q", "nextn.eh_proj", "fc" }, { "n", "nextn.eh_proj", "eh_proj" },
        { "s", "nextn.eh_proj", "eh_proj" },
        { "s", "nextn.shared_head_head", "transformer.shared_head.output" },
    };
    /* clang-format on */
    for (uint32_t i = 0; i < ARRAY_LEN(plain); i++)
        if (!strncmp(arch, plain[i].arch, strlen(plain[i].arch)) && !strcmp(plain[i].stem, stem))
            return plain[i].module;
    return NULL;
}

/* Row o of a tensor: its module (without the layer) and the row there, of n_out. */
struct peft_place {
    const char *module;
    uint64_t row, n_out;
};

static struct peft_place place_of(const struct peft_rig *g, const char *stem,
                                  const struct gguf_tensor *x, uint64_t o)
{
    uint64_t kd = (uint64_t)g->nk * g->s, vd = (uint64_t)g->nv * g->s, n = x->dim[1];
    uint64_t r = g->nv ? g->nv / g->nk : 0, rs = r * g->s, per = 2 * g->s + 2 * rs, v;
    bool next = !strcmp(g->arch, "qwen3next"), qwen = g->arch[0] == 'q';
    if (qwen && !strcmp(stem, "attn_qkv") && !next)
        return (struct peft_place){ "linear_attn.in_proj_qkv",
                                    o < 2 * kd ? o : 2 * kd + to_item(g, o - 2 * kd, g->s), n };
    if (qwen && !strcmp(stem, "attn_qkv")) {
        v = o < 2 * kd ? 0 : to_item(g, o - 2 * kd, g->s);
        return (struct peft_place){ "linear_attn.in_proj_qkvz",
                                    o < kd       ? o / g->s * per + o % g->s
                                    : o < 2 * kd ? (o - kd) / g->s * per + g->s + o % g->s
                                                 : v / rs * per + 2 * g->s + v % rs,
                                    2 * kd + 2 * vd };
    }
    if (qwen && !strcmp(stem, "attn_gate")) {
        v = to_item(g, o, g->s);
        return next ? (struct peft_place){ "linear_attn.in_proj_qkvz",
                                           v / rs * per + 2 * g->s + rs + v % rs, 2 * kd + 2 * vd }
                    : (struct peft_place){ "linear_attn.in_proj_z", v, n };
    }
    if (qwen && !strcmp(stem, "ssm_alpha"))
        return (struct peft_place){ "linear_attn.in_proj_a", to_head(g, o), n };
    if (qwen && !strcmp(stem, "ssm_beta"))
        return (struct peft_place){ "linear_attn.in_proj_b", to_head(g, o), n };
    if (!strncmp(g->arch, "qwen35", 6) && !strcmp(stem, "ffn_gate_exps"))
        return (struct peft_place){ "mlp.experts.%u.gate_up_proj", o, 2 * n };
    if (!strncmp(g->arch, "qwen35", 6) && !strcmp(stem, "ffn_up_exps"))
        return (struct peft_place){ "mlp.experts.%u.gate_up_proj", n + o, 2 * n };
    if (!strncmp(g->arch, "qwen35", 6) && !strcmp(stem, "ffn_gate_up_exps"))
        return (struct peft_place){ "mlp.experts.%u.gate_up_proj", o, n };
    if (!strcmp(stem, "ffn_gate_up_exps") && o < n / 2)
        return (struct peft_place){ qwen ? "mlp.experts.%u.gate_proj" : "moe.%u.gate_proj", o,
                                    n / 2 };
    if (!strcmp(stem, "ffn_gate_up_exps"))
        return (struct peft_place){ qwen ? "mlp.experts.%u.up_proj" : "moe.%u.up_proj", o - n / 2,
                                    n / 2 };
    const char *module = plain_module(g->arch, stem);
    return module ? (struct peft_place){ module, o, n } : (struct peft_place){ 0 };
}

static void layer_of(const struct peft_rig *g, uint32_t layer, const char *stem, char *to,
                     size_t size)
{
    bool draft = layer >= g->n_layer, first = !strncmp(stem, "attn", 4) || !strncmp(stem, "nex", 3);
    const char *top = !strncmp(g->arch, "qwen35", 6) ? "model.language_model.layers."
                      : g->arch[0] == 'n'            ? "backbone.layers."
                                                     : "model.layers.";
    if (!draft || g->arch[0] == 's')
        snprintf(to, size, "%s%u.", top, layer);
    else if (g->arch[0] == 'n')
        snprintf(to, size, "mtp.layers.%u.", first ? 0 : 1);
    else
        snprintf(to, size, "mtp.%s", strncmp(stem, "nextn", 5) ? "layers.0." : "");
}

static struct want *want_of(struct peft_rig *g, const char *name, uint64_t n_in, uint64_t n_out)
{
    for (uint32_t i = 0; i < g->n_want; i++)
        if (!strcmp(g->want[i].name, name))
            return &g->want[i];
    struct want *w = &g->want[g->n_want++];
    HLM_ASSERT(g->n_want <= MAX_MODULE);
    *w = (struct want){ .n_in = n_in, .n_out = n_out, .d = test_room(n_in * n_out, sizeof *w->d) };
    snprintf(w->name, sizeof w->name, "%s", name);
    return w;
}

static void add_product(struct peft_rig *g, const struct gguf_tensor *a, float alpha)
{
    char name[128], stem[64] = "", layer[64] = "", module[64];
    unsigned n = 0;
    int at = 0;
    snprintf(name, sizeof name, "%.*s", (int)(strlen(a->name) - 7), a->name);
    const struct gguf_tensor *x = gguf_tensor(g->base, name);
    snprintf(name, sizeof name, "%s.lora_b", x->name);
    const struct gguf_tensor *b = gguf_tensor(g->lora, name);
    if (sscanf(x->name, "blk.%u.%n", &n, &at) == 1 && at)
        snprintf(stem, sizeof stem, "%.*s", (int)(strlen(x->name + at) - 7), x->name + at);
    layer_of(g, n, stem, layer, sizeof layer);
    float *va = test_floats(a), *vb = test_floats(b);
    uint64_t rank = a->dim[1], n_in = x->dim[0];
    bool cols = g->nv && !strcmp(stem, "ssm_out");
    for (uint64_t e = 0; e < x->dim[2]; e++)
        for (uint64_t o = 0; o < x->dim[1]; o++) {
            struct peft_place p = place_of(g, stem, x, o);
            if (!strcmp(x->name, "output.weight"))
                p = (struct peft_place){ "lm_head", o, x->dim[1] };
            if (!CHECK_MSG(p.module, "%s: the test knows no place for it", x->name))
                break;
            const char *expert = strstr(p.module, "%u");
            snprintf(module, sizeof module, "%.*s", expert ? (int)(expert - p.module) : 60,
                     p.module);
            if (expert)
                snprintf(module + (expert - p.module), 40, "%u%s", (unsigned)e, expert + 2);
            snprintf(name, sizeof name, "%s%s", at ? layer : "", module);
            struct want *w = want_of(g, name, n_in, p.n_out);
            for (uint64_t k = 0; k < rank; k++)
                for (uint64_t c = 0; c < n_in; c++)
                    w->d[p.row * n_in + (cols ? to_item(g, c, g->s) : c)] +=
                        (alpha != 0 ? (double)alpha / (double)rank : 1) *
                        (double)vb[(e * x->dim[1] + o) * rank + k] *
                        (double)va[(e * rank + k) * n_in + c];
        }
    free(va);
    free(vb);
}

/* ---- comparing ------------------------------------------------------------------------------ */

/* PEFT matches a key with the end of a name that begins after a dot. */
static double looked_up(const json_t *patterns, const char *name, double usual)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, v)
    {
        char dotted[128];
        snprintf(dotted, sizeof dotted, ".%s", key);
        if (!strcmp(key, name) || test_has_tail(name, dotted))
            return json_number_value(v);
    }
    return usual;
}

static json_t *text_of(const json_t *metadata, const char *key)
{
    return json_loads(json_string_value(json_object_get(metadata, key)), JSON_DECODE_ANY, NULL);
}

/* The modules of one file. */
static double compare(struct peft_rig *g, const struct safe *s, const json_t *config,
                      const char *prefix)
{
    double worst = 0, alpha = json_number_value(json_object_get(config, "lora_alpha"));
    double r = json_number_value(json_object_get(config, "r"));
    const char *key;
    json_t *t;
    json_object_foreach(s->head, key, t)
    {
        char name[160], other[240];
        uint64_t sa[2], sb[2];
        struct want *w = NULL;
        if (!test_has_tail(key, ".lora_A.weight"))
            continue;
        if (!CHECK_MSG(!strncmp(key, prefix, strlen(prefix)), "%s", key))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(strlen(key) - strlen(prefix) - 14),
                 key + strlen(prefix));
        snprintf(other, sizeof other, "%s%s.lora_B.weight", prefix, name);
        for (uint32_t i = 0; i < g->n_want; i++)
            w = !strcmp(g->want[i].name, name) ? &g->want[i] : w;
        const float *a = safe_get(s, key, sa), *b = safe_get(s, other, sb);
        if (!CHECK_MSG(w && a && b, "%s: expected by nobody, or half of it", name) ||
            !CHECK_MSG(sa[1] == w->n_in && sb[0] == w->n_out && sa[0] == sb[1], "%s", name))
            continue;
        double rank = looked_up(json_object_get(config, "rank_pattern"), name, r);
        double scale = looked_up(json_object_get(config, "alpha_pattern"), name, alpha) / rank;
        CHECK_MSG(rank == (double)sa[0], "%s: rank %g, its tensors have %g", name, rank,
                  (double)sa[0]);
        double most = 0, off = 0;
        for (uint64_t o = 0; o < w->n_out; o++)
            for (uint64_t c = 0; c < w->n_in; c++) {
                double d = 0;
                for (uint64_t k = 0; k < sa[0]; k++)
                    d += scale * (double)b[o * sa[0] + k] * (double)a[k * w->n_in + c];
                most = fmax(most, fabs(w->d[o * w->n_in + c]));
                off = fmax(off, fabs(w->d[o * w->n_in + c] - d));
            }
        CHECK_MSG(most > 0 && off <= module_off.most * most, "%s: %g off, the largest is %g", name,
                  off, most);
        worst = fmax(worst, off / most);
        CHECK(!w->seen);
        w->seen = true;
    }
    return worst;
}

static void compare_gates(const struct peft_rig *g, const struct safe *s, uint32_t *n)
{
    for (uint64_t i = 0; i < gguf_n_tensor(g->lora); i++) {
        const struct gguf_tensor *d = gguf_tensor_at(g->lora, i);
        char name[128], stem[64], layer[64];
        unsigned at_layer = 0;
        if (!test_has_tail(d->name, ".delta"))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(strlen(d->name) - 6), d->name);
        const struct gguf_tensor *x = gguf_tensor(g->base, name);
        CHECK(sscanf(name, "blk.%u.%63s", &at_layer, stem) == 2);
        layer_of(g, at_layer, stem, layer, sizeof layer);
        bool decay = !strcmp(stem, "ssm_a");
        snprintf(name, sizeof name, "%s%s.%s", layer, g->nv ? "linear_attn" : "mixer",
                 decay                    ? "A_log"
                 : !strcmp(stem, "ssm_d") ? "D"
                                          : "dt_bias");
        uint64_t shape[2];
        const float *got = safe_get(s, name, shape);
        float *w = test_floats(x), *add = test_floats(d);
        if (CHECK_MSG(got && shape[0] == x->n_elem && shape[1] == 1, "%s", name))
            for (uint64_t j = 0; j < x->n_elem; j++) {
                double v = decay ? log(-(double)w[j]) : (double)w[j];
                double is = (double)got[g->nv ? to_head(g, j) : j];
                CHECK_MSG(fabs(is - v - (double)add[j]) <= 1e-6, "%s: %g, expected %g", name, is,
                          v + (double)add[j]);
            }
        ++*n;
        free(w);
        free(add);
    }
}

static uint32_t key_of(const struct gguf *g, const char *arch, const char *name)
{
    char key[96];
    uint32_t v = 0;
    snprintf(key, sizeof key, "%s.%s", arch, name);
    gguf_u32(g, key, OPTIONAL, &v, NULL);
    return v;
}

/* What an adapter adds to a tensor of the base, in new memory. */
static double *product_of(const struct gguf *g, const struct gguf_tensor *x)
{
    char name[2][100];
    float alpha = 0;
    double *d = test_room(x->n_elem, sizeof *d);
    for (int k = 0; k < 2; k++)
        snprintf(name[k], sizeof name[k], "%s.lora_%c", x->name, k ? 'b' : 'a');
    const struct gguf_tensor *a = gguf_tensor(g, name[0]), *b = gguf_tensor(g, name[1]);
    if (!CHECK_MSG(a && b, "%s is missing", name[0]))
        return d;
    float *va = test_floats(a), *vb = test_floats(b);
    uint64_t rank = a->dim[1], n_in = x->dim[0];
    gguf_f32(g, "adapter.lora.alpha", REQUIRED, &alpha, NULL);
    for (uint64_t r = 0; r < x->dim[1] * x->dim[2]; r++)
        for (uint64_t k = 0; k < rank; k++)
            for (uint64_t c = 0; c < n_in; c++)
                d[r * n_in + c] += (alpha != 0 ? (double)alpha / (double)rank : 1) *
                                   (double)vb[r * rank + k] *
                                   (double)va[(r / x->dim[1] * rank + k) * n_in + c];
    free(va);
    free(vb);
    return d;
}

/* What was exported and is imported again adds the same to every tensor. */
static void compare_import(const struct peft_rig *g, const char *model, const char *folder)
{
    struct hlm_err err = { 0 };
    const char *again = test_scratch("peft_again.gguf");
    struct hlm_peft_import_params p = { .model = model, .folder = folder, .out = again };
    struct gguf *got = hlm_peft_import(&p, NULL, &err) ? gguf_open(again, &err) : NULL;
    double worst = 0;
    for (uint64_t i = 0; CHECK_OK(got, err) && i < gguf_n_tensor(g->base); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(g->base, i);
        char name[100];
        unsigned layer = 0;
        snprintf(name, sizeof name, "%s.lora_a", x->name);
        bool draft = sscanf(x->name, "blk.%u.", &layer) == 1 && layer >= g->n_layer;
        CHECK_MSG(!draft || !gguf_tensor(got, name), "%s is of a draft block", name);
        if (draft || !gguf_tensor(g->lora, name))
            continue;
        double *was = product_of(g->lora, x), *is = product_of(got, x), most = 1e-30, off = 0;
        for (uint64_t k = 0; k < x->n_elem; k++) {
            most = fmax(most, fabs(was[k]));
            off = fmax(off, fabs(is[k] - was[k]));
        }
        worst = fmax(worst, off / most);
        free(was);
        free(is);
    }
    CHECK_WITHIN("import", worst, module_off);
    gguf_close(got);
}

/* What the file says about the heads and the layers of the model. */
static void read_shape(struct peft_rig *g)
{
    struct hlm_err err = { 0 };
    const char *arch = g->arch;
    if (arch[0] == 'q') {
        g->nk = key_of(g->base, arch, "ssm.group_count");
        g->nv = key_of(g->base, arch, "ssm.time_step_rank");
        g->s = key_of(g->base, arch, "ssm.state_size");
        g->tiled = strcmp(arch, "qwen3next") != 0;
        CHECK_OK(gguf_bool(g->base, V_ORDER, OPTIONAL, &g->tiled, &err), err);
    }
    g->n_layer =
        key_of(g->base, arch, "block_count") - key_of(g->base, arch, "nextn_predict_layers");
}

/* The modules of the draft block, in the file of what PEFT does not know. */
static double compare_draft(struct peft_rig *g, const struct safe *rest)
{
    const json_t *meta = json_object_get(rest->head, "__metadata__");
    json_t *c =
        json_pack("{s:o, s:o, s:o, s:o}", "r", text_of(meta, "r"), "lora_alpha",
                  text_of(meta, "lora_alpha"), "rank_pattern", text_of(meta, "rank_pattern"),
                  "alpha_pattern", text_of(meta, "alpha_pattern"));
    double worst = compare(g, rest, c, "");
    json_decref(c);
    return worst;
}

static void test_export(const char *model, const char *arch, float alpha, bool mtp)
{
    struct hlm_err err = { 0 };
    struct peft_rig *g = test_room(1, sizeof *g);
    const char *lora = test_scratch("peft_lora.gguf"), *out = test_scratch("peft");
    struct hlm_peft_sum sum;
    test_case("%s: exported, alpha %g", model, (double)alpha);
    *g = (struct peft_rig){ .base = gguf_open(model, &err), .arch = arch };
    struct gguf_build *b = g->base ? make_adapter(g->base, arch, alpha) : NULL;
    bool ok = CHECK_OK(b && gb_write(b, lora, &err), err);
    gb_free(b);
    g->lora = ok ? gguf_open(lora, &err) : NULL;
    struct hlm_peft_params p = { .model = model, .adapter = lora, .out = out };
    ok = CHECK_OK(g->lora && hlm_peft_export(&p, &sum, &err), err);
    if (ok) {
        uint32_t n_gate = 0;
        read_shape(g);
        for (uint64_t i = 0; i < gguf_n_tensor(g->lora); i++)
            if (test_has_tail(gguf_tensor_at(g->lora, i)->name, ".lora_a"))
                add_product(g, gguf_tensor_at(g->lora, i), alpha);
        struct safe main = safe_open(out, "adapter_model.safetensors"),
                    rest = safe_open(out, "hlm_extra.safetensors");
        char path[256];
        snprintf(path, sizeof path, "%s/adapter_config.json", out);
        uint64_t n;
        char *text = file_read(path, 1 << 24, &n, &err);
        json_t *config = text ? json_loads(text, 0, NULL) : NULL;
        if (CHECK(main.head && config)) {
            double worst = compare(g, &main, config, "base_model.model.");
            if (rest.head && mtp)
                worst = fmax(worst, compare_draft(g, &rest));
            for (uint32_t i = 0; i < g->n_want; i++)
                CHECK_MSG(g->want[i].seen, "%s is missing", g->want[i].name);
            compare_gates(g, &rest, &n_gate);
            compare_import(g, model, out);
            test_note("  %u modules, %u gates, %.2g off", g->n_want, n_gate, worst);
            CHECK(sum.n_module + sum.n_draft == g->n_want && sum.n_gate == n_gate);
            CHECK((sum.n_draft > 0) == mtp && (rest.head != NULL) == (mtp || n_gate));
        }
        json_decref(config);
        free(text);
        safe_close(&main);
        safe_close(&rest);
    }
    folder_remove(out);
    for (uint32_t i = 0; i < g->n_want; i++)
        free(g->want[i].d);
    gguf_close(g->lora);
    gguf_close(g->base);
    free(g);
}

/* Puts gate and up rows of experts into one tensor, as some files have them. */
static bool fuse(const char *from, const char *to)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(from, &err);
    struct gguf_build *b = g ? gb_from(from, &err) : NULL;
    bool any = false;
    for (uint32_t i = 0; b && i < 8; i++) {
        char name[2][64], both[64];
        snprintf(name[0], sizeof name[0], "blk.%u.ffn_gate_exps.weight", i);
        snprintf(name[1], sizeof name[1], "blk.%u.ffn_up_exps.weight", i);
        snprintf(both, sizeof both, "blk.%u.ffn_gate_up_exps.weight", i);
        const struct gguf_tensor *x = gguf_tensor(g, name[0]);
        if (!x)
            continue;
        uint64_t dim[3] = { x->dim[0], 2 * x->dim[1], x->dim[2] };
        gb_drop_tensor(b, name[0]);
        gb_drop_tensor(b, name[1]);
        gb_tensor(b, both, F32, 3, dim, NULL);
        any = true;
    }
    bool ok = CHECK_OK(any && gb_write(b, to, &err), err);
    gb_free(b);
    gguf_close(g);
    return ok;
}

/* ---- nothing left behind -------------------------------------------------------------------- */

static void count(void *user, const char *name) { *(uint32_t *)user += !strncmp(name, "none", 4); }

static void test_faults(void)
{
    struct hlm_err err = { 0 };
    struct hlm_peft_sum sum;
    const char *out = test_scratch("none");
    test_case("a full disk leaves nothing behind");
    struct hlm_peft_params p = { .model = fixture("train/qwen35/model.gguf"),
                                 .adapter = fixture("train/qwen35/init-lora.gguf"),
                                 .out = out };
    for (uint32_t nth = 1, left = 0; !left && nth < 100; nth++) {
        uint32_t n = 0;
        err = (struct hlm_err){ 0 };
        file_test_fault(nth, nth % 2);
        bool ok = hlm_peft_export(&p, &sum, &err);
        left = file_test_left();
        file_test_fault(0, false);
        CHECK_MSG(ok == (left > 0) && ok == !err.kind, "with the disk full at call %u: %s", nth,
                  err.msg);
        folder_each(test_tmp(), count, &n, NULL);
        CHECK_MSG(n == (ok ? 1u : 0u), "with the disk full at call %u: %u things left", nth, n);
    }
    test_case("a folder that is there is left alone");
    CHECK_REFUSED(hlm_peft_export(&p, &sum, &err), err, "not empty");
    folder_remove(out);
    CHECK_OK(folder_make(out, &err), err); /* but an empty one is taken */
    CHECK_OK(hlm_peft_export(&p, &sum, &err), err);
    folder_remove(out);
    CHECK(file_write_atomic(out, "x", 1, &err));
    CHECK_REFUSED(hlm_peft_export(&p, &sum, &err), err, "none|a file");

    test_case("an adapter of another model");
    p.out = test_scratch("other");
    p.adapter = fixture("train/step35/init-lora.gguf");
    CHECK_REFUSED(hlm_peft_export(&p, &sum, &err), err,
                  "init-lora.gguf|general.architecture|step35|qwen35");
}

void test_peft(void)
{
    char path[160]; /* outlives the calls that reuse scratch paths */
    struct hlm_err err = { 0 };
    snprintf(path, sizeof path, "%s", test_scratch("peft_model.gguf"));
    test_export(fixture("train/qwen35/model.gguf"), "qwen35", 8, false);
    test_export(fixture("train/qwen35moe-mtp/model.gguf"), "qwen35moe", 7, true);
    test_export(fixture("qwen3next/base/model-f32.gguf"), "qwen3next", 8, false);
    test_export(fixture("nemotron_h/base/model-f32.gguf"), "nemotron_h", 8, false);
    test_export(fixture("nemotron_h_moe/base/model-f32.gguf"), "nemotron_h_moe", 0, true);
    test_export(fixture("step35/base/model-f32.gguf"), "step35", 8, true);
    if (fuse(fixture("train/qwen35moe-mtp/model.gguf"), path))
        test_export(path, "qwen35moe", 8, true);
    if (fuse(fixture("train/qwen3next/model.gguf"), path))
        test_export(path, "qwen3next", 8, false);
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/base/model-f32.gguf"), &err);
    if (CHECK_OK(b && gb_write(b, path, &err), err))
        test_export(path, "qwen3next", 8, false);
    gb_free(b);
    b = gb_from(fixture("train/qwen35/model.gguf"), &err);
    if (b)
        gb_bool(b, V_ORDER, false);
    if (CHECK_OK(b && gb_write(b, path, &err), err))
        test_export(path, "qwen35", 8, false);
    gb_free(b);
    test_faults();
}
