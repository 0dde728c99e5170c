/* memory: what a session consists of, what that costs, whether it fits, and allocating it. So this
 * is where sessions are made and ended.
 *
 * There is no second book-keeping: a plan is a dry run (gpu_dry) of what hlm_session_create does,
 * so it cannot differ from what is then allocated. Laying out a session takes about a millisecond,
 * which is what one step of the search for a context that fits costs. */
#include "session/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CTX = 1 << 24 };
#define SLICE_BYTES (64u << 20) /* of the logits of many tokens */

/* ---- laying out and ending ------------------------------------------------------------------- */

/* Tokens of a batch: few enough that the loops of every shader are short (delta_scan takes the
 * tokens one by one) and that the scratch memory is small beside the weights. */
static uint32_t default_batch(const struct gpu_caps *caps)
{
    return caps->kind == GPU_CPU ? 256 : MAX_BATCH;
}

static void choose_sizes(hlm_session *s, const struct hlm_session_params *p, uint32_t n_ctx)
{
    const hlm *m = s->m;
    uint32_t batch = p->n_batch ? p->n_batch : default_batch(gpu_caps(m->gpu));
    s->kv_type = p->kv;
    s->keep_logits = p->keep_logits;
    s->keep_hidden = p->keep_hidden;
    s->n_ctx = n_ctx;
    s->n_batch = min_u32(min_u32(batch, MAX_BATCH), n_ctx);
    uint32_t slice = max_u32(1, min_u32(s->n_batch, SLICE_BYTES / (4 * m->model->n_vocab)));
    s->n_eval = p->keep_logits ? slice : p->keep_hidden ? s->n_batch : 0;
    s->n_nll = p->keep_nll ? slice : 0;
}

static bool make_arenas(hlm_session *s, struct hlm_err *err)
{
    struct gpu *g = s->m->gpu;
    return (s->scratch = arena_create(g, "scratch", MEM_DEVICE, err)) &&
           (s->io = arena_create(g, "io", MEM_DEVICE, err)) &&
           (s->host = arena_create(g, "host", MEM_HOST, err));
}

static void take_io(hlm_session *s)
{
    const struct model *m = s->m->model;
    uint32_t stride = (uint32_t)align_up(m->n_vocab, 4);
    uint32_t n_hidden = s->keep_hidden ? s->n_eval * (m->n_layer + 2) : 1;
    s->step = arena_tensor(s->io, I32, sizeof(struct step) / 4, 1);
    s->ids = arena_tensor(s->io, I32, 1, s->n_ctx + 1);
    s->logits = arena_tensor(s->io, F32, stride, 1);
    s->logits.n = m->n_vocab;
    s->all_logits = arena_tensor(s->io, F32, stride, s->n_eval ? s->n_eval : 1);
    s->hidden = arena_tensor(s->io, F32, m->n_embd, n_hidden);
    s->nll_rows = arena_tensor(s->io, F32, s->n_nll ? m->n_embd : 1, s->n_nll ? s->n_batch : 1);
    s->nll_parts = arena_tensor(s->io, F32, NLL_PARTS, s->n_nll ? s->n_batch : 1);
    s->sampler.unused = arena_tensor(s->io, I32, div_up(m->n_vocab, 32), 1);
    s->sampler.work = arena_tensor(s->io, F32, m->n_vocab, 1);
    s->sampler.count = arena_tensor(s->io, I32, m->n_vocab, 1);
    s->sampler.bias = arena_tensor(s->io, I32, 1 + 2 * MAX_BIAS, 1);
    s->sampler.chosen = arena_tensor(s->host, I32, 2, 1);
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

bool session_show_layers(hlm_session *s, bool on, struct hlm_err *err)
{
    const struct model *m = s->m->model;
    struct layer_shape *shape = shapes_of(m, err);
    const struct kv_layers layers = { m->n_layer, shape, s->kv.layer };
    bool ok = shape != NULL;
    if (ok && on) {
        ok = kv_stats_open(&s->layers, s->m->gpu, &layers, s->scratch, err);
    } else if (ok) {
        count_leave(s->m, &s->layers);
        kv_stats_close(&s->layers, &layers);
    }
    free(shape);
    if (ok)
        recordings_finish(&s->recordings);
    return ok;
}

/* Gives every arena its size but for the scratch arena, which grows as lists are recorded. */
static bool take_memory(hlm_session *s, uint64_t snapshot_budget, struct hlm_err *err)
{
    static const enum dtype type[] = {
        [HLM_KV_F16] = F16, [HLM_KV_F32] = F32, [HLM_KV_Q8_0] = Q8_0
    };
    const struct model *m = s->m->model;
    struct gpu *g = s->m->gpu;
    struct layer_shape *shape = shapes_of(m, err);
    if (!shape)
        return false;
    const struct kv_params kv = { .n_layer = m->n_layer,
                                  .shape = shape,
                                  .n_ctx = s->n_ctx,
                                  .n_batch = s->n_batch,
                                  .type = type[s->kv_type] };
    bool ok = kv_init(&s->kv, g, &kv, err) && make_arenas(s, err);
    const struct kv_layers layers = { m->n_layer, shape, s->kv.layer };
    if (ok)
        take_io(s);
    ok = ok && snapshots_init(&s->snaps, g, s->kv.state, s->logits, snapshot_budget, err);
    if (ok && s->m->counting.layers)
        ok = kv_stats_init(&s->layers, g, s->io, &layers, err) &&
             kv_stats_states(&s->layers, &layers, s->scratch, err);
    free(shape);
    return ok;
}

hlm_session *session_lay_out(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                             struct hlm_err *err)
{
    hlm_session *s = mem_alloc(1, sizeof *s);
    if (!s) {
        fail_memory(err, "out of memory: a session");
        return NULL;
    }
    s->m = m;
    s->n_change = m->n_change;
    m->n_session++;
    choose_sizes(s, params, n_ctx);
    s->id = mem_alloc(n_ctx + 1u, sizeof *s->id);
    bool ok = (s->id || fail_memory(err, "out of memory: %u token ids", n_ctx)) &&
              take_memory(s, params->snapshot_budget, err);
    if (ok)
        session_init_recordings(s);
    ok = ok && session_lay_out_recordings(s, err);
    if (!ok) {
        hlm_session_destroy(s);
        return NULL;
    }
    return s;
}

bool session_commit(hlm_session *s, struct hlm_err *err)
{
    const char *shorter = "a shorter context needs less";
    const char *smaller = "a smaller batch or a shorter context needs less";
    return model_commit(s->kv.kv, shorter, err) && arena_commit(s->kv.state, err) &&
           model_commit(s->scratch, smaller, err) && arena_commit(s->io, err) &&
           arena_commit(s->host, err) &&
           model_commit(s->snaps.arena, "a smaller budget for snapshots needs less", err);
}

void hlm_session_destroy(hlm_session *s)
{
    if (!s)
        return;
    log_to(&s->m->log);
    count_end(s);
    count_leave(s->m, &s->layers);
    s->m->n_session--;
    recordings_finish(&s->recordings);
    snapshots_finish(&s->snaps);
    kv_stats_finish(&s->layers);
    kv_finish(&s->kv);
    arena_destroy(s->scratch);
    arena_destroy(s->io);
    arena_destroy(s->host);
    free(s->id);
    free(s);
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
    hlm_session *s = session_lay_out(m, params, n_ctx, err);
    bool ok = s && session_commit(s, err);
    if (ok)
        *plan = plan_of(m, n_ctx, s->n_batch);
    hlm_session_destroy(s);
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

static bool check_kv(const struct hlm_session_params *params, struct hlm_err *err)
{
    return (uint32_t)params->kv <= HLM_KV_Q8_0 || fail(err, "a cache of type %u, expected 0 to %u",
                                                       (uint32_t)params->kv, (uint32_t)HLM_KV_Q8_0);
}

bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                     struct hlm_err *err)
{
    api_begin(&m->log, err);
    return check_kv(params, err) && session_fit(m, params, n_ctx, err);
}

uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    uint32_t n_ctx = params->n_ctx;
    if (n_ctx > MAX_CTX)
        return fail(err, "a context of %u tokens, expected at most %u", n_ctx, MAX_CTX);
    if (!check_kv(params, err) || (!n_ctx && !session_fit(m, params, &n_ctx, err)))
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

static hlm_session *make_session(hlm *m, const struct hlm_session_params *params,
                                 struct hlm_err *err)
{
    uint32_t n_ctx = plan_ctx(m, params, err);
    hlm_session *s = n_ctx ? session_lay_out(m, params, n_ctx, err) : NULL;
    if (!s)
        return NULL;
    struct hlm_plan plan = plan_of(m, s->n_ctx, s->n_batch);
    if (!plan.fits) {
        hlm_session_destroy(s);
        plan_refuse(m, &plan, err);
        return NULL;
    }
    if (!session_commit(s, err) || !session_ready(s, err) ||
        (s->layers.states && !cmd_end(s->layers.states, err)) ||
        !gpu_write(m->gpu, s->sampler.unused, 0, m->unused, 4ull * div_up(m->model->n_vocab, 32),
                   err)) {
        hlm_session_destroy(s);
        return NULL;
    }
    s->stats.weight_bytes = arena_cost(m->model->weights);
    s->stats.adapter_bytes = lora_set_bytes(m->adapters.set);
    s->stats.kv_bytes = arena_cost(s->kv.kv);
    s->stats.state_bytes = arena_cost(s->kv.state);
    s->stats.scratch_bytes = arena_cost(s->scratch);
    s->stats.snapshot_bytes = arena_cost(s->snaps.arena);
    s->stats.other_bytes = arena_cost(s->io) + arena_cost(s->host);
    return s;
}

hlm_session *hlm_session_create(hlm *m, const struct hlm_session_params *params,
                                struct hlm_err *err)
{
    struct hlm_err why = { 0 }, broken = { 0 };
    uint32_t fits;
    api_begin(&m->log, err);
    hlm_session *s = make_session(m, params, &why);
    if (!s && why.kind == HLM_ERR_WONT_FIT) {
        if (session_fit(m, params, &fits, &broken))
            why.fits = fits;
        else
            why = broken;
    }
    if (!s)
        fail_from(err, &why, "");
    return s;
}
