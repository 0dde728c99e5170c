/* memory: what a context consists of, what that costs, whether it fits, and allocating it. So this
 * is where contexts and sessions are made and ended.
 *
 * There is no second book-keeping: a plan is a dry run (gpu_dry) of what hlm_context_create does,
 * so it cannot differ from what is then allocated. Laying out a context takes about a millisecond,
 * which is what one step of the search for a context that fits costs. */
#include "session/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CTX = 1 << 24 };
#define SLICE_BYTES (64u << 20) /* of the logits of many tokens */

/* ---- laying out and ending ------------------------------------------------------------------- */

/* Tokens of a batch: few enough that the scratch memory is small beside the weights. A mixture of
 * many experts has more work for each of them in a larger batch. */
static uint32_t default_batch(const struct gpu_caps *caps)
{
    return caps->kind == GPU_CPU ? 256 : 512;
}

static void choose_sizes(hlm_context *x, const struct hlm_session_params *p, uint32_t n_ctx)
{
    const hlm *m = x->m;
    uint32_t batch = p->n_batch ? p->n_batch : default_batch(gpu_caps(m->gpu));
    x->kv_type = p->kv;
    x->keep_logits = p->keep_logits;
    x->keep_hidden = p->keep_hidden;
    x->n_ctx = n_ctx;
    x->n_seq = max_u32(p->n_seq, 1);
    x->goes_ahead = gpu_caps(m->gpu)->kind != GPU_CPU;
    x->n_batch = min_u32(min_u32(batch, MAX_BATCH), n_ctx);
    uint32_t slice = max_u32(1, min_u32(x->n_batch, SLICE_BYTES / (4 * m->model->n_vocab)));
    x->n_eval = p->keep_logits ? slice : p->keep_hidden ? x->n_batch : 0;
    x->n_nll = p->keep_nll ? slice : 0;
}

static bool make_arenas(hlm_context *x, struct hlm_err *err)
{
    struct gpu *g = x->m->gpu;
    return (x->scratch = arena_create(g, "scratch", MEM_DEVICE, err)) &&
           (x->io = arena_create(g, "io", MEM_DEVICE, err)) &&
           (x->host = arena_create(g, "host", MEM_HOST, err));
}

static void take_io(hlm_context *x)
{
    const struct model *m = x->m->model;
    uint32_t stride = (uint32_t)align_up(m->n_vocab, 4);
    uint32_t n_hidden = x->keep_hidden ? x->n_eval * (m->n_layer + 2) : 1;
    x->step = arena_tensor(x->io, I32, sizeof(struct segment) / 4, x->n_seq);
    x->ids = arena_tensor(x->io, I32, x->n_ctx + 1, x->n_seq);
    x->logits = arena_tensor(x->io, F32, stride, SLOTS_OF_SEQ * x->n_seq);
    x->logits.n = m->n_vocab;
    x->all_logits = arena_tensor(x->io, F32, stride, x->n_eval ? x->n_eval : 1);
    x->hidden = arena_tensor(x->io, F32, m->n_embd, n_hidden);
    x->nll_rows = arena_tensor(x->io, F32, x->n_nll ? m->n_embd : 1, x->n_nll ? x->n_batch : 1);
    x->nll_parts = arena_tensor(x->io, F32, NLL_PARTS, x->n_nll ? x->n_batch : 1);
    x->sampler.unused = arena_tensor(x->io, I32, div_up(m->n_vocab, 32), 1);
    x->sampler.work = arena_tensor(x->io, F32, m->n_vocab, x->n_seq);
    x->sampler.count = arena_tensor(x->io, I32, m->n_vocab, x->n_seq);
    x->sampler.bias = arena_tensor(x->io, I32, 1 + 2 * MAX_BIAS, x->n_seq);
    x->sampler.chosen = arena_tensor(x->host, I32, 4, x->n_seq);
}

/* The shapes of the layers, in new memory. */
static struct layer_shape *shapes_of(const struct model *m, struct hlm_err *err)
{
    struct layer_shape *shape = mem_alloc(m->n_layer, sizeof *shape);
    for (uint32_t i = 0; shape && i < m->n_layer; i++)
        shape[i] = m->arch->shape(m, i);
    if (!shape)
        fail_memory(err, "out of memory: %u layers", m->n_layer);
    return shape;
}

bool context_show_layers(hlm_context *x, bool on, struct hlm_err *err)
{
    const struct model *m = x->m->model;
    struct layer_shape *shape = shapes_of(m, err);
    const struct kv_layers layers = { m->n_layer, shape, x->kv.layer };
    bool ok = shape != NULL;
    if (ok && on) {
        ok = kv_stats_open(&x->layers, x->m->gpu, &layers, x->step, x->scratch, err);
    } else if (ok) {
        count_leave(x->m, &x->layers);
        kv_stats_close(&x->layers, &layers);
    }
    free(shape);
    context_drop_ahead(x);
    if (ok)
        recordings_finish(&x->recordings);
    return ok;
}

/* The sequences: their ids and snapshots. */
static bool take_sequences(hlm_context *x, uint64_t snapshot_budget, struct hlm_err *err)
{
    if (!(x->seq = mem_alloc(x->n_seq, sizeof *x->seq)))
        return fail_memory(err, "out of memory: %u sequences", x->n_seq);
    bool none = snapshot_budget == HLM_SNAPSHOT_NONE;
    uint64_t budget = none ? HLM_SNAPSHOT_NONE : snapshot_budget / x->n_seq;
    if (snapshot_budget && !budget)
        budget = HLM_SNAPSHOT_NONE;
    for (uint32_t i = 0; i < x->n_seq; i++) {
        hlm_session *s = &x->seq[i];
        s->m = x->m;
        s->x = x;
        s->seq = i;
        s->id = mem_alloc(x->n_ctx + 1u, sizeof *s->id);
        if (!s->id)
            return fail_memory(err, "out of memory: %u token ids", x->n_ctx);
        if (!snapshots_init(&s->snaps, x->m->gpu, &x->kv, i, x->logits, budget, err))
            return false;
    }
    return true;
}

/* Gives every arena its size but for the scratch arena, which grows as lists are recorded. */
static bool take_memory(hlm_context *x, uint64_t snapshot_budget, struct hlm_err *err)
{
    static const enum dtype type[] = {
        [HLM_KV_F16] = F16, [HLM_KV_F32] = F32, [HLM_KV_Q8_0] = Q8_0
    };
    const struct model *m = x->m->model;
    struct gpu *g = x->m->gpu;
    struct layer_shape *shape = shapes_of(m, err);
    if (!shape)
        return false;
    const struct kv_params kv = { .n_layer = m->n_layer,
                                  .shape = shape,
                                  .n_ctx = x->n_ctx,
                                  .n_batch = x->n_batch,
                                  .n_seq = x->n_seq,
                                  .n_slot = SLOTS_OF_SEQ * x->n_seq,
                                  .type = type[x->kv_type] };
    bool ok = kv_init(&x->kv, g, &kv, err) && make_arenas(x, err);
    const struct kv_layers layers = { m->n_layer, shape, x->kv.layer };
    if (ok)
        take_io(x);
    ok = ok && take_sequences(x, snapshot_budget, err);
    if (ok && x->m->counting.layers)
        ok = kv_stats_init(&x->layers, g, x->io, &layers, err) &&
             kv_stats_states(&x->layers, &layers, x->step, x->scratch, err);
    free(shape);
    return ok;
}

hlm_context *context_lay_out(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                             struct hlm_err *err)
{
    hlm_context *x = mem_alloc(1, sizeof *x);
    if (!x) {
        fail_memory(err, "out of memory: a context");
        return NULL;
    }
    x->m = m;
    x->n_change = m->n_change;
    m->n_session++;
    choose_sizes(x, params, n_ctx);
    bool ok = take_memory(x, params->snapshot_budget, err);
    if (ok)
        context_init_recordings(x);
    ok = ok && context_lay_out_recordings(x, err);
    if (!ok) {
        context_destroy(x);
        return NULL;
    }
    return x;
}

bool context_commit(hlm_context *x, struct hlm_err *err)
{
    const char *shorter = "a shorter context needs less";
    const char *smaller = "a smaller batch or a shorter context needs less";
    bool ok = model_commit(x->kv.kv, shorter, err) && arena_commit(x->kv.state, err) &&
              model_commit(x->scratch, smaller, err) && arena_commit(x->io, err) &&
              arena_commit(x->host, err);
    for (uint32_t i = 0; ok && i < x->n_seq; i++)
        ok = model_commit(x->seq[i].snaps.arena, "a smaller budget for snapshots needs less", err);
    return ok;
}

void context_destroy(hlm_context *x)
{
    if (!x)
        return;
    log_to(&x->m->log);
    for (uint32_t i = 0; x->seq && i < x->n_seq; i++)
        session_close(&x->seq[i]);
    count_leave(x->m, &x->layers);
    if (x->m->counting.session && x->m->counting.session->x == x)
        x->m->counting.session = NULL;
    x->m->n_session--;
    recordings_finish(&x->recordings);
    for (uint32_t i = 0; x->seq && i < x->n_seq; i++) {
        snapshots_finish(&x->seq[i].snaps);
        free(x->seq[i].id);
    }
    kv_stats_finish(&x->layers);
    kv_finish(&x->kv);
    arena_destroy(x->scratch);
    arena_destroy(x->io);
    arena_destroy(x->host);
    free(x->seq);
    free(x);
}

/* ---- what it costs --------------------------------------------------------------------------- */

struct hlm_plan plan_of(const hlm *m, uint32_t n_ctx, uint32_t n_batch)
{
    struct hlm_plan plan = { .n_ctx = n_ctx, .n_batch = n_batch, .memory = gpu_budget(m->gpu) };
    struct gpu_memory row[ARRAY_LEN(plan.row)];
    plan.n_row = gpu_plan(m->gpu, row, ARRAY_LEN(row));
    HLM_ASSERT(plan.n_row <= ARRAY_LEN(row));
    for (uint32_t i = 0; i < plan.n_row; i++) {
        struct hlm_memory *to = &plan.row[i];
        *to = (struct hlm_memory){ .on_host = row[i].on_host, .bytes = row[i].bytes };
        snprintf(to->purpose, sizeof to->purpose, "%.*s", (int)sizeof to->purpose - 1,
                 row[i].purpose);
        *(to->on_host ? &plan.host_bytes : &plan.device_bytes) += to->bytes;
    }
    plan.fits = plan.device_bytes <= plan.memory;
    return plan;
}

/* The plan of a session with this context. False with HLM_ERR_WONT_FIT: a limit of the device, such
 * as the length of a binding, is in the way; with another kind no context would do. */
static bool dry_session(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                        struct hlm_plan *plan, struct hlm_err *err)
{
    bool was = gpu_dry(m->gpu, true);
    hlm_context *x = context_lay_out(m, params, n_ctx, err);
    bool ok = x && context_commit(x, err);
    if (ok)
        *plan = plan_of(m, n_ctx, x->n_batch);
    context_destroy(x);
    gpu_dry(m->gpu, was);
    return ok;
}

uint32_t hlm_default_ctx(const hlm *m)
{
    /* No family was trained on more than 262144 tokens, although all files of Nemotron say 1048576.
     * The memory of a CPU device is the machine's own, and every byte of a cache is touched. */
    return min_u32(m->model->n_ctx_train, gpu_caps(m->gpu)->kind == GPU_CPU ? 8192 : 262144);
}

bool session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                 struct hlm_err *err)
{
    uint32_t most = params->n_ctx ? min_u32(params->n_ctx, MAX_CTX) : hlm_default_ctx(m);
    uint32_t fits = 0, too_long = most + 1; /* a bisection that tries `most` first */
    for (uint32_t n = most; too_long - fits > 1; n = fits + (too_long - fits) / 2) {
        struct hlm_plan plan;
        struct hlm_err why = { 0 };
        bool ok = dry_session(m, params, n, &plan, &why);
        if (!ok && why.kind != HLM_ERR_WONT_FIT)
            return fail_from(err, &why, "");
        *(ok && plan.fits ? &fits : &too_long) = n;
    }
    *n_ctx = fits;
    return true;
}

static bool check_params(const struct hlm_session_params *params, struct hlm_err *err)
{
    if (params->n_seq > MAX_SEGMENT)
        return fail(err, "%u sequences, expected at most %u", params->n_seq, MAX_SEGMENT);
    return (uint32_t)params->kv <= HLM_KV_Q8_0 || fail(err, "a cache of type %u, expected 0 to %u",
                                                       (uint32_t)params->kv, (uint32_t)HLM_KV_Q8_0);
}

bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                     struct hlm_err *err)
{
    api_begin(&m->log, err);
    return check_params(params, err) && session_fit(m, params, n_ctx, err);
}

uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    uint32_t n_ctx = params->n_ctx;
    if (n_ctx > MAX_CTX)
        return fail(err, "a context of %u tokens, expected at most %u", n_ctx, MAX_CTX);
    if (!check_params(params, err) || (!n_ctx && !session_fit(m, params, &n_ctx, err)))
        return 0;
    return max_u32(n_ctx, 1);
}

bool hlm_session_plan(hlm *m, const struct hlm_session_params *params, struct hlm_plan *plan,
                      struct hlm_err *err)
{
    api_begin(&m->log, err);
    uint32_t n_ctx = plan_ctx(m, params, err);
    return n_ctx && dry_session(m, params, n_ctx, plan, err);
}

/* "kv 1.5 GiB, scratch 20.1 MiB": what the device would hold, by purpose. */
const char *plan_parts(const struct hlm_plan *plan, char out[256])
{
    char one[32];
    size_t n = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < plan->n_row && n < 256; i++)
        if (!plan->row[i].on_host && plan->row[i].bytes)
            n += (size_t)snprintf(out + n, 256 - n, "%s%s %s", n ? ", " : "", plan->row[i].purpose,
                                  bytes_text(one, plan->row[i].bytes));
    return out;
}

bool plan_refuse(const hlm *m, const struct hlm_plan *plan, struct hlm_err *err)
{
    char all[32], may[32], parts[256];
    bytes_text(all, plan->device_bytes);
    if (!strcmp(all, bytes_text(may, plan->memory))) { /* the difference would not be seen */
        snprintf(all, sizeof all, "%llu bytes", (unsigned long long)plan->device_bytes);
        snprintf(may, sizeof may, "%llu", (unsigned long long)plan->memory);
    }
    return fail_size(err, HLM_ERR_WONT_FIT,
                     &(struct hlm_err){ .need = plan->device_bytes, .have = plan->memory },
                     "out of memory: a context of %u needs %s (%s), of %s %s may be used",
                     plan->n_ctx, all, plan_parts(plan, parts), gpu_caps(m->gpu)->name, may);
}

/* ---- making ---------------------------------------------------------------------------------- */

static hlm_context *make_context(hlm *m, const struct hlm_session_params *params,
                                 struct hlm_err *err)
{
    uint32_t n_ctx = plan_ctx(m, params, err);
    hlm_context *x = n_ctx ? context_lay_out(m, params, n_ctx, err) : NULL;
    if (!x)
        return NULL;
    struct hlm_plan plan = plan_of(m, x->n_ctx, x->n_batch);
    if (!plan.fits) {
        context_destroy(x);
        plan_refuse(m, &plan, err);
        return NULL;
    }
    if (!context_commit(x, err) || !context_ready(x, err) ||
        (x->layers.states && !cmd_end(x->layers.states, err)) ||
        !gpu_write(m->gpu, x->sampler.unused, 0, m->unused, 4ull * div_up(m->model->n_vocab, 32),
                   err)) {
        context_destroy(x);
        return NULL;
    }
    return x;
}

static hlm_context *create_context(hlm *m, const struct hlm_session_params *params,
                                   struct hlm_err *err)
{
    struct hlm_err why = { 0 }, broken = { 0 };
    uint32_t fits;
    hlm_context *x = make_context(m, params, &why);
    if (!x && why.kind == HLM_ERR_WONT_FIT) {
        if (session_fit(m, params, &fits, &broken))
            why.fits = fits;
        else
            why = broken;
    }
    if (!x)
        fail_from(err, &why, "");
    return x;
}

hlm_context *hlm_context_create(hlm *m, const struct hlm_session_params *params,
                                struct hlm_err *err)
{
    api_begin(&m->log, err);
    return create_context(m, params, err);
}

void hlm_context_destroy(hlm_context *x) { context_destroy(x); }

hlm_session *hlm_context_open(hlm_context *x, struct hlm_err *err)
{
    api_begin(&x->m->log, err);
    hlm_session *s = context_free_session(x);
    if (!s) {
        fail_size(err, HLM_ERR_FULL, &(struct hlm_err){ .need = x->n_seq + 1, .have = x->n_seq },
                  "the context has %u sequences, all of them are open", x->n_seq);
        return NULL;
    }
    return session_open(s, err) ? s : NULL;
}

hlm_session *hlm_session_create(hlm *m, const struct hlm_session_params *params,
                                struct hlm_err *err)
{
    struct hlm_session_params one = *params;
    api_begin(&m->log, err);
    one.n_seq = 1;
    hlm_context *x = create_context(m, &one, err);
    if (!x || !session_open(&x->seq[0], err)) {
        context_destroy(x);
        return NULL;
    }
    x->of_session = true;
    return &x->seq[0];
}

void hlm_session_destroy(hlm_session *s)
{
    if (!s)
        return;
    log_to(&s->m->log);
    if (s->x->of_session)
        context_destroy(s->x);
    else
        session_close(s);
}
