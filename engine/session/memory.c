/* hlm_plan: what a session will cost, whether that fits, and which context would.
 *
 * There is no second book-keeping: a plan is a dry run (gpu_dry) of what hlm_session_create does,
 * so that it cannot differ from what is then allocated. Recording a session takes about a
 * millisecond, which is what a bisection over contexts pays a step. */
#include "session/memory.h"

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

/* Without a plan (false) it is because of the device's limits, such as the length of a binding, or
 * because something is broken; then *broken. */
static bool dry_run(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                    struct hlm_plan *plan, bool *broken, struct hlm_err *err)
{
    uint64_t n_failed = mem_n_failed();
    bool was = gpu_dry(m->gpu, true);
    hlm_session *s = session_lay_out(m, params, n_ctx, err);
    bool ok = s && session_commit(s, err);
    if (ok)
        *plan = plan_of(m, n_ctx, session_n_batch(s));
    hlm_session_destroy(s);
    gpu_dry(m->gpu, was);
    *broken = !ok && (mem_n_failed() != n_failed || !gpu_ok(m->gpu, NULL));
    return ok;
}

uint32_t hlm_default_ctx(const hlm *m)
{
    /* No family was trained for more than 262144, whatever its files say: Nemotron's all claim
     * 1048576. A CPU device's memory is the machine's own, and every byte of a cache is touched. */
    return min_u32(m->model->n_ctx_train, gpu_caps(m->gpu)->kind == GPU_CPU ? 8192 : 262144);
}

bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                     struct hlm_err *err)
{
    uint32_t most = params->n_ctx ? min_u32(params->n_ctx, MAX_CTX) : hlm_default_ctx(m);
    uint32_t fits = 0, not = most + 1; /* bisection; the whole is tried first */
    for (uint32_t n = most; not -fits > 1; n = fits + (not -fits) / 2) {
        struct hlm_plan plan;
        struct hlm_err why = { 0 };
        bool broken, ok = dry_run(m, params, n, &plan, &broken, &why);
        if (broken)
            return fail(err, "%s", why.msg);
        *(ok && plan.fits ? &fits : &not ) = n;
    }
    *n_ctx = fits;
    return true;
}

uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    uint32_t n_ctx = params->n_ctx;
    if (n_ctx > MAX_CTX)
        return fail(err, "a context of %u tokens, expected at most %u (-c)", n_ctx, MAX_CTX);
    if (!n_ctx && !hlm_session_fit(m, params, &n_ctx, err))
        return 0;
    return max_u32(n_ctx, 1);
}

bool hlm_session_plan(hlm *m, const struct hlm_session_params *params, struct hlm_plan *plan,
                      struct hlm_err *err)
{
    uint32_t n_ctx = plan_ctx(m, params, err);
    bool broken;
    return n_ctx && dry_run(m, params, n_ctx, plan, &broken, err);
}

/* What would fit, cheapest sacrifice first: a shorter context, then no snapshots, then a small
 * batch too. Nothing in out when nothing does. False: something is broken. */
static bool what_fits(hlm *m, struct hlm_session_params p, char out[96], struct hlm_err *err)
{
    static const char *const how[] = { "", "--snapshot-budget 0 and ",
                                       "--snapshot-budget 0, a batch of 8 (-b) and " };
    for (uint32_t i = 0; i < ARRAY_LEN(how); i++) {
        uint32_t n_ctx = 0;
        p.snapshot_budget = i ? 0 : p.snapshot_budget;
        p.n_batch = i == 2 ? 8 : p.n_batch;
        if (!hlm_session_fit(m, &p, &n_ctx, err))
            return false;
        if (n_ctx) {
            snprintf(out, 96, "%sa context of %u (-c) would fit", how[i], n_ctx);
            return true;
        }
    }
    return true;
}

void plan_refuse(hlm *m, const struct hlm_session_params *params, const struct hlm_plan *plan,
                 struct hlm_err *err)
{
    char all[32], may[32], one[32], parts[256] = "", would[96] = "";
    struct hlm_session_params p = *params;
    for (uint32_t i = 0; i < plan->n_row; i++)
        if (!plan->row[i].on_host && plan->row[i].bytes) {
            size_t n = strlen(parts);
            snprintf(parts + n, sizeof parts - n, "%s%s %s", n ? ", " : "", plan->row[i].purpose,
                     bytes_text(one, plan->row[i].bytes));
        }
    p.n_ctx = plan->n_ctx;
    if (!what_fits(m, p, would, err))
        return;
    bytes_text(all, plan->device_bytes);
    if (!strcmp(all, bytes_text(may, plan->memory))) {
        snprintf(all, sizeof all, "%llu bytes", (unsigned long long)plan->device_bytes);
        snprintf(may, sizeof may, "%llu", (unsigned long long)plan->memory);
    }
    fail(err, "out of memory: a context of %u needs %s (%s), of %s %s may be used: %s", plan->n_ctx,
         all, parts, gpu_caps(m->gpu)->name, may,
         would[0] ? would : "not even one token of context fits, a smaller model would");
}
