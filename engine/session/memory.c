/* memory: what a session takes of memory, whether that fits, and which context would.
 *
 * There is no second book-keeping: a plan is a dry run (gpu_dry) of what hlm_session_create does,
 * so that it cannot differ from what is then allocated. Recording a session takes about a
 * millisecond, which is what a bisection over contexts pays a step. */
#include "session/session.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CTX = 1 << 24 };

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
static bool dry_run(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                    struct hlm_plan *plan, struct hlm_err *err)
{
    bool was = gpu_dry(m->gpu, true);
    hlm_session *s = session_lay_out(m, params, n_ctx, err);
    bool ok = s && session_commit(s, err);
    if (ok)
        *plan = plan_of(m, n_ctx, session_n_batch(s));
    hlm_session_destroy(s);
    gpu_dry(m->gpu, was);
    return ok;
}

uint32_t hlm_default_ctx(const hlm *m)
{
    /* No family was trained for more than 262144, whatever its files say: Nemotron's all claim
     * 1048576. A CPU device's memory is the machine's own, and every byte of a cache is touched. */
    return min_u32(m->model->n_ctx_train, gpu_caps(m->gpu)->kind == GPU_CPU ? 8192 : 262144);
}

bool session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                 struct hlm_err *err)
{
    uint32_t most = params->n_ctx ? min_u32(params->n_ctx, MAX_CTX) : hlm_default_ctx(m);
    uint32_t fits = 0, not = most + 1; /* bisection; the whole is tried first */
    for (uint32_t n = most; not -fits > 1; n = fits + (not -fits) / 2) {
        struct hlm_plan plan;
        struct hlm_err why = { 0 };
        bool ok = dry_run(m, params, n, &plan, &why);
        if (!ok && why.kind != HLM_ERR_WONT_FIT)
            return fail_from(err, &why, "");
        *(ok && plan.fits ? &fits : &not ) = n;
    }
    *n_ctx = fits;
    return true;
}

bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                     struct hlm_err *err)
{
    api_begin(&m->log, err);
    return session_fit(m, params, n_ctx, err);
}

uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    uint32_t n_ctx = params->n_ctx;
    if (n_ctx > MAX_CTX)
        return fail(err, "a context of %u tokens, expected at most %u", n_ctx, MAX_CTX);
    if (!n_ctx && !session_fit(m, params, &n_ctx, err))
        return 0;
    return max_u32(n_ctx, 1);
}

bool hlm_session_plan(hlm *m, const struct hlm_session_params *params, struct hlm_plan *plan,
                      struct hlm_err *err)
{
    api_begin(&m->log, err);
    uint32_t n_ctx = plan_ctx(m, params, err);
    return n_ctx && dry_run(m, params, n_ctx, plan, err);
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
