/* model: loads and runs models: the part that all architectures share. See model.h. */
#include "model/binder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool model_commit(struct arena *a, const char *hint, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    return arena_commit(a, &why) || fail_size(err, why.kind, &why, "%s: %s", why.msg, hint);
}

/* ---- load ------------------------------------------------------------------------------------ */

static bool is_draft_block(struct binder *b, uint32_t i)
{
    return model_has(b, "blk.%u.nextn.eh_proj.weight", i) ||
           model_has(b, "blk.%u.nextn.enorm.weight", i) ||
           model_has(b, "blk.%u.nextn.hnorm.weight", i);
}

/* Finds how many draft blocks there are. A key says it, and so do their tensors. Where the key is
 * missing, the tensors decide; otherwise the two must agree, because a draft block that runs as a
 * layer, or a layer that is left out as a draft block, gives plausible nonsense. (A file may count
 * draft blocks and have nothing of them.) */
static bool find_drafts(struct binder *b, uint32_t n_block)
{
    struct model *m = b->m;
    char key[256];
    bool counted = model_has_key(b, "nextn_predict_layers");
    model_key(b, "nextn_predict_layers", key, sizeof key);
    while (!counted && m->n_mtp + 1 < n_block && is_draft_block(b, n_block - m->n_mtp - 1))
        m->n_mtp++;
    for (uint32_t i = 0; i < n_block; i++) {
        bool draft = is_draft_block(b, i);
        if (draft && i < n_block - m->n_mtp)
            return model_refuse(b,
                                "%s is %u of %u blocks, but block %u is a draft block too: it has "
                                "tensors blk.%u.nextn",
                                key, m->n_mtp, n_block, i, i);
        if (!draft && i >= n_block - m->n_mtp && model_has(b, "blk.%u.attn_norm.weight", i))
            return model_refuse(b,
                                "%s is %u of %u blocks, but block %u is a layer: it has no tensor "
                                "blk.%u.nextn.eh_proj.weight",
                                key, m->n_mtp, n_block, i, i);
    }
    return true;
}

/* Positions of longer contexts are scaled, in ways that hlm does not know. A factor of 1 is none.
 */
static bool check_rope_scaling(struct binder *b)
{
    struct hlm_str type = { "none", 4 };
    float factor = 1;
    char key[256];
    if (!gguf_str(b->m->file, model_key(b, "rope.scaling.type", key, sizeof key), OPTIONAL, &type,
                  b->err) ||
        !model_f32(b, "rope.scaling.factor", OPTIONAL, &factor))
        return false;
    bool plain = false;
    static const char *const words[] = { "", "none", "default", "linear" };
    for (uint32_t i = 0; i < ARRAY_LEN(words); i++)
        plain = plain || (type.n == strlen(words[i]) && !memcmp(type.p, words[i], type.n));
    if (plain && (factor == 1 || factor == 0))
        return true;
    return fail_as(
        b->err, HLM_ERR_UNSUPPORTED,
        "%s: %s is \"%s\" with a factor of %g: extended-context scaling is not supported",
        gguf_path(b->m->file), key, show_text(type.p, type.n, 40).s, (double)factor);
}

static bool load_common(struct binder *b)
{
    struct model *m = b->m;
    uint32_t n_block = 0;
    const struct gguf_kv *tokens = gguf_kv(m->file, "tokenizer.ggml.tokens");
    bool listed = tokens && tokens->type == GGUF_ARRAY && tokens->n < UINT32_MAX;
    m->n_vocab = listed ? (uint32_t)tokens->n : 0;
    if (!model_u32(b, "block_count", REQUIRED, &n_block) ||
        !model_range(b, "block_count", n_block, 1, 512) ||
        !model_u32(b, "nextn_predict_layers", OPTIONAL, &m->n_mtp) ||
        !model_range(b, "nextn_predict_layers", m->n_mtp, 0, n_block - 1) ||
        !find_drafts(b, n_block) || !check_rope_scaling(b) ||
        !model_u32(b, "embedding_length", REQUIRED, &m->n_embd) ||
        !model_range(b, "embedding_length", m->n_embd, 4, 1u << 18) ||
        !model_u32(b, "context_length", REQUIRED, &m->n_ctx_train) ||
        !model_range(b, "context_length", m->n_ctx_train, 1, 1u << 28) ||
        !model_u32(b, "vocab_size", OPTIONAL, &m->n_vocab) ||
        !model_range(b, "vocab_size", m->n_vocab, 1, 1u << 24) ||
        !model_f32(b, "attention.layer_norm_epsilon", OPTIONAL, &m->eps) ||
        !model_f32(b, "attention.layer_norm_rms_epsilon", m->eps == 0 ? REQUIRED : OPTIONAL,
                   &m->eps))
        return false;
    if (m->n_embd % 4)
        return model_refuse(b, "%s.embedding_length is %u, expected a multiple of 4", b->prefix,
                            m->n_embd);
    if (!(m->eps > 0) || !isfinite(m->eps))
        return model_refuse(b,
                            "%s.attention.layer_norm_rms_epsilon is %g, "
                            "expected a positive number",
                            b->prefix, m->eps);
    m->n_layer = n_block - m->n_mtp;
    model_mtp(b, m->n_mtp);

    if (!bind_linear(b, &m->token_embd, "token_embd.weight", 0, m->n_embd, m->n_vocab) ||
        !bind_vector(b, &m->output_norm, "output_norm.weight", 0, m->n_embd, 1))
        return false;
    if (!model_has(b, "output.weight", 0)) {
        m->output = m->token_embd; /* tied to the embedding */
        return true;
    }
    return bind_linear(b, &m->output, "output.weight", 0, m->n_embd, m->n_vocab);
}

void *model_own(struct binder *b, uint64_t bytes, uint64_t block_bytes)
{
    uint32_t n = model_n_block(b->m);
    b->m->own = mem_alloc(1, bytes + n * block_bytes);
    if (!b->m->own)
        fail_memory(b->err, "out of memory: %u layers", n);
    return b->m->own;
}

/* A file may declare draft blocks that it does not have. */
void model_mtp(struct binder *b, uint32_t n)
{
    struct model *m = b->m;
    m->n_layer = m->n_layer + m->n_mtp - n;
    m->n_mtp = n;
    bool here = n && b->draft && model_has(b, "blk.%u.nextn.eh_proj.weight", m->n_layer);
    m->n_draft = here ? n : 0;
    m->base.n_layer = m->n_layer;
    m->base.n_mtp = n - m->n_draft;
}

static bool bind_draft(struct binder *b, struct draft *d, uint32_t i)
{
    struct model *m = b->m;
    d->token_embd = &m->token_embd;
    d->output = &m->output;
    d->norm = m->output_norm;
    if (!bind_linear(b, &d->eh_proj, "blk.%u.nextn.eh_proj.weight", i, 2 * m->n_embd, m->n_embd) ||
        !bind_vector(b, &d->enorm, "blk.%u.nextn.enorm.weight", i, m->n_embd, 1) ||
        !bind_vector(b, &d->hnorm, "blk.%u.nextn.hnorm.weight", i, m->n_embd, 1))
        return false;
    if (model_has(b, "blk.%u.nextn.shared_head_norm.weight", i) &&
        !bind_vector(b, &d->norm, "blk.%u.nextn.shared_head_norm.weight", i, m->n_embd, 1))
        return false;
    if (model_has(b, "blk.%u.nextn.embed_tokens.weight", i)) {
        d->token_embd = &d->own_embd;
        if (!bind_linear(b, &d->own_embd, "blk.%u.nextn.embed_tokens.weight", i, m->n_embd,
                         m->n_vocab))
            return false;
    }
    if (!model_has(b, "blk.%u.nextn.shared_head_head.weight", i))
        return true;
    d->output = &d->own_output;
    return bind_linear(b, &d->own_output, "blk.%u.nextn.shared_head_head.weight", i, m->n_embd,
                       m->n_vocab);
}

static bool bind_drafts(struct binder *b)
{
    struct model *m = b->m;
    m->draft = m->n_draft ? mem_alloc(m->n_draft, sizeof *m->draft) : NULL;
    if (m->n_draft && !m->draft)
        return fail_memory(b->err, "out of memory: %u draft blocks", m->n_draft);
    for (uint32_t i = 0; i < m->n_draft; i++)
        if (!bind_draft(b, &m->draft[i], m->n_layer + i))
            return false;
    return true;
}

/* Warns about tensors that were not bound, except draft blocks and vision towers. */
static void warn_unused(const struct binder *b)
{
    const struct gguf *g = b->m->file;
    uint64_t n = 0, first = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const char *name = gguf_tensor_at(g, i)->name;
        unsigned layer = 0;
        bool mtp = sscanf(name, "blk.%u.", &layer) == 1 && layer >= b->m->n_layer &&
                   layer < b->m->n_layer + b->m->n_mtp;
        if (b->used[i] || mtp || !strncmp(name, "v.", 2) || !strncmp(name, "mm.", 3) ||
            !strncmp(name, "mtp.", 4))
            continue;
        if (n++ == 0)
            first = i;
    }
    if (n)
        log_msg(HLM_LOG_WARN, "%s: %" PRIu64 " tensor%s not used by %s, the first is %s",
                gguf_path(g), n, n == 1 ? " is" : "s are", b->prefix,
                gguf_tensor_at(g, first)->name);
}

const struct arch *model_arch(const struct gguf *g, struct hlm_err *err)
{
    static const struct arch *const archs[] = {
#define ARCH(name) &arch_##name,
#include "models/models.def"
#undef ARCH
    };
    struct hlm_str s = { 0 };
    if (!gguf_str(g, "general.architecture", REQUIRED, &s, err))
        return NULL;
    char known[256] = "";
    for (size_t i = 0; s.p && i < ARRAY_LEN(archs); i++) {
        if (strlen(archs[i]->name) == s.n && !memcmp(archs[i]->name, s.p, s.n))
            return archs[i];
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 archs[i]->name);
    }
    fail_as(err, HLM_ERR_UNSUPPORTED, "%s: architecture \"%s\" is not supported (known: %s)",
            gguf_path(g), show_text(s.p, s.n, 60).s, known);
    return NULL;
}

static void binder_free(struct binder *b)
{
    if (!b)
        return;
    for (uint64_t i = 0; i < b->n_owned; i++)
        free(b->owned[i]);
    free(b->owned);
    free(b->used);
    free(b->job);
    free(b);
}

struct model *model_load(struct gpu *g, const struct gguf *file, bool draft, struct hlm_err *err)
{
    const struct arch *arch = model_arch(file, err);
    struct model *m = arch ? mem_alloc(1, sizeof *m) : NULL;
    struct binder *b = m ? m->binder = mem_alloc(1, sizeof *b) : NULL;
    bool ok = b != NULL;
    if (ok) {
        m->arch = arch;
        m->file = file;
        m->gpu = g;
        m->base.file = file;
        m->base.arch = arch->name;
        *b = (struct binder){ .m = m, .err = err, .prefix = arch->name, .draft = draft };
        b->used = mem_alloc(gguf_n_tensor(file) + 1, sizeof *b->used);
        m->weights = arena_create(g, "weights", MEM_DEVICE, err);
        ok = b->used && m->weights && load_common(b) && arch->load(m, b) && bind_drafts(b) &&
             !b->oom;
    }
    if (!ok) {
        fail_memory(err, "%s: out of memory while reading the tensor list", gguf_path(file));
        model_unload(m);
        return NULL;
    }
    return m;
}

bool model_upload(struct model *m, bool (*progress)(void *, uint64_t, uint64_t), void *user,
                  struct hlm_err *err)
{
    m->binder->err = err;
    bool ok = model_commit(m->weights, "a smaller quantisation of the model needs less", err) &&
              upload_jobs(m->binder, progress, user);
    if (ok)
        warn_unused(m->binder);
    binder_free(m->binder);
    m->binder = NULL;
    return ok;
}

void model_unload(struct model *m)
{
    if (!m)
        return;
    binder_free(m->binder);
    arena_destroy(m->weights);
    lora_base_free(&m->base);
    free(m->own);
    free(m->draft);
    free(m);
}

/* ---- run ------------------------------------------------------------------------------------- */

static void keep_rows(struct cmd *c, const tensor *dst, uint32_t group, tensor x)
{
    if (dst)
        cmd_copy(c, tensor_rows(*dst, group * x.n_row, x.n_row), x, 4ull * x.n * x.n_row);
}

tensor model_forward(struct cmd *c, const struct model *m, struct kv *kv, const struct batch *b,
                     const tensor *hidden)
{
    cmd_begin_block(c);
    tensor x = op_embed(c, &m->token_embd, b);
    keep_rows(c, hidden, 0, x);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        cmd_begin_block(c);
        cmd_set_layer(c, i);
        x = m->arch->block(c, m, i, &kv->layer[i], b, x);
        keep_rows(c, hidden, i + 1, x);
    }
    cmd_set_layer(c, NO_LAYER);
    return x;
}

tensor model_head(struct cmd *c, const struct model *m, tensor x, const tensor *norm)
{
    cmd_begin_block(c);
    if (!norm)
        return op_norm_linear(c, x, m->output_norm, m->eps, LINEARS(&m->output));
    tensor h = op_norm(c, x, m->output_norm, m->eps);
    keep_rows(c, norm, 0, h);
    return op_linear(c, h, LINEARS(&m->output));
}

tensor model_draft(struct cmd *c, const struct model *m, uint32_t i, struct layer_cache *cache,
                   const struct batch *b, struct draft_input in)
{
    const struct draft *d = &m->draft[i];
    tensor en = op_norm(c, in.e, d->enorm, m->eps);
    tensor hn = op_norm(c, in.h, d->hnorm, m->eps);
    tensor x = op_linear(c, op_beside(c, en, hn), LINEARS(&d->eh_proj));
    return m->arch->block(c, m, m->n_layer + i, cache, b, x);
}
