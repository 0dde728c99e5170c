/* lora_make: chooses targets, makes and writes adapters; see lora_make.h. */
#define _POSIX_C_SOURCE 200809L
#include "lora/lora_make.h"
#include "lora/lora_parts.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { MAX_WORD = 96 };

/* ---- groups ---------------------------------------------------------------------------------- */

enum lora_group_id { ATTN, LINEAR, FFN, SHARED, EXPERTS, ROUTER, MTP, OTHER };

const struct lora_group lora_groups[] = {
    [ATTN] = { "attn", "attention: query, key, value, output, Step's head gate" },
    [LINEAR] = { "linear", "Gated DeltaNet (qkv, z, alpha and beta or ba, out), Mamba (in, out)" },
    [FFN] = { "ffn", "dense feed-forward: gate, up, down" },
    [SHARED] = { "shared", "the shared expert: gate, up, down" },
    [EXPERTS] = { "experts", "routed experts: gate, up, down, and the matrices of a latent width" },
    [ROUTER] = { "router", "the router of experts, and the shared expert's gate" },
    [MTP] = { "mtp", "everything in the draft blocks except routers" },
};
const uint32_t n_lora_group = ARRAY_LEN(lora_groups);

/* clang-format off */
static const struct target_stem { const char *name; enum lora_group_id group; } stems[] = {
    { "attn_q", ATTN }, { "attn_k", ATTN }, { "attn_v", ATTN }, { "attn_output", ATTN },
    { "attn_qkv", ATTN }, { "attn_gate", ATTN },        /* LINEAR in a block with ssm_out */
    { "ssm_in", LINEAR }, { "ssm_ba", LINEAR }, { "ssm_alpha", LINEAR }, { "ssm_beta", LINEAR },
    { "ssm_out", LINEAR },
    { "ffn_gate", FFN }, { "ffn_up", FFN }, { "ffn_down", FFN },
    { "ffn_gate_shexp", SHARED }, { "ffn_up_shexp", SHARED }, { "ffn_down_shexp", SHARED },
    { "ffn_gate_exps", EXPERTS }, { "ffn_up_exps", EXPERTS }, { "ffn_gate_up_exps", EXPERTS },
    { "ffn_down_exps", EXPERTS }, { "ffn_latent_down", EXPERTS }, { "ffn_latent_up", EXPERTS },
    { "ffn_gate_inp", ROUTER }, { "ffn_gate_inp_shexp", ROUTER }, { "nextn.eh_proj", MTP },
};
/* clang-format on */

/* The name of a tensor within its block; n 0: it belongs to no block. */
struct block_name {
    unsigned layer;
    const char *name;
    int n;
};

static struct block_name name_in_block(const struct gguf_tensor *t)
{
    struct block_name p = { 0 };
    int at = 0;
    size_t tail = strlen(".weight");
    if (sscanf(t->name, "blk.%u.%n", &p.layer, &at) != 1 || !at || !ends_with(t->name, ".weight"))
        return (struct block_name){ 0 };
    p.name = t->name + at;
    p.n = (int)(strlen(p.name) - tail);
    return p;
}

static bool is_block_name(struct block_name p, const char *name)
{
    return p.n > 0 && strlen(name) == (size_t)p.n && !memcmp(p.name, name, (size_t)p.n);
}

static enum lora_group_id group_of(const struct lora_base *b, const struct gguf_tensor *t)
{
    struct block_name p = name_in_block(t);
    char out[64];
    for (uint32_t i = 0; i < ARRAY_LEN(stems); i++) {
        if (!is_block_name(p, stems[i].name))
            continue;
        if (stems[i].group == ROUTER)
            return ROUTER;
        if (p.layer >= b->n_layer)
            return MTP;
        snprintf(out, sizeof out, "blk.%u.ssm_out.weight", p.layer);
        return stems[i].group == ATTN && gguf_tensor(b->file, out) ? LINEAR : stems[i].group;
    }
    return OTHER;
}

/* ---- words ----------------------------------------------------------------------------------- */

static bool may_adapt(const uint8_t *use, const struct gguf_tensor *t)
{
    return use[t->index] == IN_A_MATRIX && strcmp(t->name, "token_embd.weight") != 0;
}

static bool word_matches(const struct lora_base *b, const char *word, const struct gguf_tensor *t)
{
    struct block_name p = name_in_block(t);
    for (uint32_t g = 0; g < n_lora_group; g++)
        if (!strcmp(word, lora_groups[g].name))
            return group_of(b, t) == g && (g == MTP || p.layer < b->n_layer);
    if (p.layer < b->n_layer && is_block_name(p, word))
        return true;
    return fnmatch(word, t->name, 0) == 0;
}

/* Marks in `chosen` the tensors that a word selects, and returns their number. */
static uint64_t choose_word(const struct lora_base *b, const uint8_t *use, const char *word,
                            uint8_t *chosen)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(b->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(b->file, i);
        if (may_adapt(use, t) && word_matches(b, word, t)) {
            chosen[i] = 1;
            n++;
        }
    }
    return n;
}

/* The groups that the base has, and their matrices: "attn (attn_q attn_k), ffn (...)". */
static void list_choices(const struct lora_base *b, const uint8_t *use, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
    for (uint32_t g = 0; g < n_lora_group; g++) {
        bool opened = false;
        for (uint32_t k = 0; k < ARRAY_LEN(stems); k++) {
            bool there = false;
            for (uint64_t i = 0; !there && i < gguf_n_tensor(b->file); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(b->file, i);
                there = may_adapt(use, t) && group_of(b, t) == g &&
                        is_block_name(name_in_block(t), stems[k].name);
            }
            if (!there || at >= size)
                continue;
            int n = opened ? snprintf(text + at, size - at, " %s", stems[k].name)
                           : snprintf(text + at, size - at, "%s%s (%s", at ? ", " : "",
                                      lora_groups[g].name, stems[k].name);
            at += n > 0 ? (size_t)n : 0;
            opened = true;
        }
        if (opened && at < size)
            at += (size_t)snprintf(text + at, size - at, ")");
    }
}

static bool refuse_word(const struct lora_base *b, const uint8_t *use, const char *word,
                        struct hlm_err *err)
{
    char what[360];
    list_choices(b, use, what, sizeof what);
    return fail(err, "target '%s' matches no matrix of %.100s; these would: %s", word,
                gguf_path(b->file), what);
}

static bool choose_words(const struct lora_base *b, const uint8_t *use, const char *words,
                         uint8_t *chosen, struct hlm_err *err)
{
    for (const char *p = words;; p++) {
        char word[MAX_WORD];
        size_t n = strcspn(p, ",");
        if (n == 0 || n >= sizeof word)
            return fail(err, "targets '%.200s': %s, expected words with commas between them", words,
                        n ? "a word is too long" : "a word is empty");
        memcpy(word, p, n);
        word[n] = 0;
        if (!choose_word(b, use, word, chosen))
            return refuse_word(b, use, word, err);
        p += n;
        if (!*p)
            return true;
    }
}

bool lora_find_targets(const struct lora_base *b, const char *words, struct lora_targets *out,
                       struct hlm_err *err)
{
    static const char *const usual[] = { "attn", "linear", "ffn", "shared" };
    uint64_t n = gguf_n_tensor(b->file), n_chosen = 0;
    uint8_t *use = lora_base_uses(b), *chosen = mem_alloc(n + 1, 1);
    *out = (struct lora_targets){ .t = mem_alloc(n + 1, sizeof *out->t) };
    bool ok = (use && chosen && out->t) ||
              fail_memory(err, "out of memory: targets of %" PRIu64 " tensors", n);
    if (ok && words)
        ok = choose_words(b, use, words, chosen, err);
    for (uint32_t i = 0; ok && !words && i < ARRAY_LEN(usual); i++)
        n_chosen += choose_word(b, use, usual[i], chosen);
    ok = ok && (words || n_chosen || refuse_word(b, use, "attn,linear,ffn,shared", err));
    for (uint64_t i = 0; ok && i < n; i++)
        if (chosen[i])
            out->t[out->n++] = gguf_tensor_at(b->file, i);
    free(use);
    free(chosen);
    if (!ok) {
        free(out->t);
        *out = (struct lora_targets){ 0 };
    }
    return ok;
}

/* ---- the container --------------------------------------------------------------------------- */

float lora_file_alpha(float alpha, uint32_t rank, bool rslora)
{
    return rslora ? (float)((double)alpha * sqrt((double)rank)) : alpha;
}

static void begin_adapter(struct gguf_out *o, const char *arch, float alpha, uint64_t n_tensor,
                          uint32_t n_text)
{
    o->alignment = 32;
    gguf_out_begin(o, n_tensor, 4 + n_text);
    gguf_out_str(o, "general.type", "adapter");
    gguf_out_str(o, "general.architecture", arch);
    gguf_out_str(o, "adapter.type", "lora");
    gguf_out_f32(o, "adapter.lora.alpha", alpha);
}

/* ---- fresh adapters -------------------------------------------------------------------------- */

struct file_in_memory {
    uint8_t *p;
    uint64_t n, cap;
};

static bool put_memory(void *user, const void *bytes, uint64_t n, struct hlm_err *err)
{
    struct file_in_memory *m = user;
    if (!mem_reserve(&m->p, m->n + n, &m->cap, 1))
        return fail_memory(err, "out of memory: a new adapter of more than %" PRIu64 " bytes",
                           m->n + n);
    memcpy(m->p + m->n, bytes, n);
    m->n += n;
    return true;
}

static bool check_new(const struct lora_base *b, const struct lora_targets *t,
                      const struct lora_fresh *how, struct hlm_err *err)
{
    uint64_t n_small = 0;
    const struct gguf_tensor *small = NULL;
    if (how->rank < 1 || how->rank > MAX_RANK)
        return fail(err, "rank %u, expected 1 to %d", how->rank, MAX_RANK);
    if (!isfinite(how->alpha) || how->alpha == 0)
        return fail(err, "alpha %g, expected a number that is not 0", (double)how->alpha);
    for (uint64_t i = 0; i < t->n; i++) {
        const struct gguf_tensor *x = t->t[i];
        if (strlen(x->name) + strlen(".lora_a") >= 64)
            return fail(err, "%.200s: the name of %s is too long for an adapter on it",
                        gguf_path(b->file), x->name);
        if (how->rank > min_u64(x->dim[0], x->dim[1]))
            small = n_small++ ? small : x;
    }
    if (small)
        log_msg(HLM_LOG_WARN,
                "rank %u exceeds the size of %" PRIu64 " of %" PRIu64 " matrices (%s is %" PRIu64
                " x %" PRIu64 "): this does no harm, but they gain nothing from it",
                how->rank, n_small, t->n, small->name, small->dim[0], small->dim[1]);
    return true;
}

static bool put_uniform(struct gguf_out *o, struct rng *r, uint64_t n, double bound)
{
    float v[1024];
    for (uint64_t at = 0; at < n; at += ARRAY_LEN(v)) {
        uint64_t k = min_u64(ARRAY_LEN(v), n - at);
        for (uint64_t i = 0; i < k; i++)
            v[i] = (float)((2 * rng_unit(r) - 1) * bound);
        gguf_out_bytes(o, v, k * sizeof *v);
    }
    return gguf_out_pad(o);
}

static bool put_zeros(struct gguf_out *o, uint64_t n)
{
    static const float zero[1024];
    for (uint64_t at = 0; at < n; at += ARRAY_LEN(zero))
        gguf_out_bytes(o, zero, min_u64(ARRAY_LEN(zero), n - at) * sizeof *zero);
    return gguf_out_pad(o);
}

uint8_t *lora_make(const struct lora_base *b, const struct lora_targets *t,
                   const struct lora_fresh *how, uint64_t *n_bytes, struct hlm_err *err)
{
    struct file_in_memory m = { 0 };
    struct gguf_out o = { .put = put_memory, .user = &m, .err = err };
    if (!check_new(b, t, how, err))
        return NULL;
    begin_adapter(&o, b->arch, lora_file_alpha(how->alpha, how->rank, how->rslora), 2 * t->n, 0);
    for (uint64_t i = 0; i < t->n; i++) {
        const struct gguf_tensor *x = t->t[i];
        char name[80];
        uint32_t n_dim = x->dim[2] > 1 ? 3 : 2;
        snprintf(name, sizeof name, "%s.lora_a", x->name);
        gguf_out_tensor(&o, name, F32, n_dim, (uint64_t[]){ x->dim[0], how->rank, x->dim[2] });
        snprintf(name, sizeof name, "%s.lora_b", x->name);
        gguf_out_tensor(&o, name, F32, n_dim, (uint64_t[]){ how->rank, x->dim[1], x->dim[2] });
    }
    bool ok = gguf_out_pad(&o);
    for (uint64_t i = 0; ok && i < t->n; i++) {
        const struct gguf_tensor *x = t->t[i];
        struct rng r = { XXH3_64bits_withSeed(x->name, strlen(x->name), how->seed) };
        uint64_t n_each = how->rank * x->dim[2];
        ok = put_uniform(&o, &r, x->dim[0] * n_each, 1 / sqrt((double)x->dim[0])) &&
             put_zeros(&o, n_each * x->dim[1]);
    }
    if (!ok) {
        free(m.p);
        return NULL;
    }
    *n_bytes = m.n;
    return m.p;
}

/* ---- files ----------------------------------------------------------------------------------- */

static uint64_t n_number(const struct lora_tensor *t)
{
    return (uint64_t)t->dim[0] * t->dim[1] * t->dim[2];
}

static bool hash_of(const void *p, uint64_t n, struct lora_hash *out, struct hlm_err *err)
{
    struct sum *s = sum_begin(err);
    if (!s)
        return false;
    sum_add(s, p, n);
    uint64_t h[2];
    sum_end(s, h);
    *out = (struct lora_hash){ h[0], h[1] };
    return true;
}

static bool put_values(struct gguf_out *o, const struct lora_write *w, float *v,
                       struct lora_hash *hash)
{
    for (uint64_t i = 0; i < w->n_tensor; i++) {
        uint64_t n = n_number(&w->tensor[i]);
        if (!w->values(w->user, i, v, o->err) || !hash_of(v, n * sizeof *v, &hash[i], o->err))
            return false;
        gguf_out_bytes(o, v, n * sizeof *v);
        if (!gguf_out_pad(o))
            return false;
    }
    return true;
}

static bool same_adapter_keys(const struct gguf *g, const struct lora_write *w)
{
    struct hlm_str s = { 0 };
    float alpha = 0;
    return gguf_str(g, "general.architecture", REQUIRED, &s, NULL) && s.n == strlen(w->arch) &&
           !memcmp(s.p, w->arch, s.n) &&
           gguf_f32(g, "adapter.lora.alpha", REQUIRED, &alpha, NULL) &&
           !memcmp(&alpha, &w->alpha, sizeof alpha);
}

/* Reads the file back and compares it with what was written. */
static bool check_written_adapter(struct file_out *out, const char *path,
                                  const struct lora_write *w, const struct lora_hash *hash,
                                  struct hlm_err *err)
{
    const char *tmp = file_out_flush(out, err);
    struct gguf *g = tmp ? gguf_open(tmp, err) : NULL;
    bool ok =
        g && ((same_adapter_keys(g, w) && gguf_n_tensor(g) == w->n_tensor) ||
              fail_system(err, "%.300s: its keys, read back, differ from what was written", path));
    for (uint64_t i = 0; ok && i < w->n_tensor; i++) {
        const struct lora_tensor *t = &w->tensor[i];
        const struct gguf_tensor *got = gguf_tensor(g, t->name);
        struct lora_hash h = { 0 };
        ok = got && got->type == F32 && got->n_dim == t->n_dim && got->dim[0] == t->dim[0] &&
             got->dim[1] == t->dim[1] && got->dim[2] == t->dim[2] &&
             hash_of(got->data, got->n_bytes, &h, err) && !memcmp(&h, &hash[i], sizeof h);
        if (!ok)
            fail_system(err, "%.300s: tensor %s, read back, differs from what was written", path,
                        t->name);
    }
    gguf_close(g);
    return ok;
}

bool lora_write(const char *path, const struct lora_write *w, struct hlm_err *err)
{
    uint64_t most = 1;
    for (uint64_t i = 0; i < w->n_tensor; i++)
        most = max_u64(most, n_number(&w->tensor[i]));
    float *v = mem_alloc(most, sizeof *v);
    struct lora_hash *hash = mem_alloc(w->n_tensor + 1, sizeof *hash);
    struct file_out *out = v && hash ? file_out_begin(path, err) : NULL;
    if (!v || !hash)
        fail_memory(err, "%.300s: no memory to write it", path);
    bool ok = out != NULL;
    if (ok) {
        struct gguf_out o = { .put = gguf_out_to_file, .user = out, .err = err };
        begin_adapter(&o, w->arch, w->alpha, w->n_tensor, w->n_text);
        for (uint32_t i = 0; i < w->n_text; i++)
            gguf_out_str(&o, w->text[i].key, w->text[i].value);
        for (uint64_t i = 0; i < w->n_tensor; i++) {
            const struct lora_tensor *t = &w->tensor[i];
            gguf_out_tensor(&o, t->name, F32, t->n_dim,
                            (uint64_t[]){ t->dim[0], t->dim[1], t->dim[2] });
        }
        ok = gguf_out_pad(&o) && put_values(&o, w, v, hash) &&
             check_written_adapter(out, path, w, hash, err);
    }
    free(v);
    free(hash);
    if (ok)
        return file_out_end(out, err);
    file_out_drop(out);
    return false;
}
