/* common_plan: see common_plan.h. */
#include "common_plan.h"
#include "common.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

const char *kv_name(enum hlm_kv kv)
{
    return kv == HLM_KV_F32 ? "f32" : kv == HLM_KV_Q8_0 ? "q8_0" : "f16";
}

/* ---- what would fit -------------------------------------------------------------------------- */

/* Cheapest sacrifice first: a shorter context, then no snapshots, then a small batch too. Empty
 * when nothing helps. */
static void what_fits(hlm *m, struct hlm_session_params p, uint64_t fits, char *out, size_t size)
{
    static const char *const how[] = { "", "--snapshot-budget 0 and ",
                                       "--snapshot-budget 0, a batch of 8 (-b) and " };
    out[0] = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(how); i++) {
        uint32_t n_ctx = (uint32_t)fits;
        p.snapshot_budget = i ? HLM_SNAPSHOT_NONE : p.snapshot_budget;
        p.n_batch = i == 2 ? 8 : p.n_batch;
        if (i && !hlm_session_fit(m, &p, &n_ctx, NULL))
            return;
        if (n_ctx) {
            snprintf(out, size, "%sa context of %u (-c) would fit", how[i], n_ctx);
            return;
        }
    }
}

void plan_explain(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    char would[96];
    struct hlm_session_params p = *params;
    size_t n = strlen(err->msg);
    if (err->kind != HLM_ERR_WONT_FIT)
        return;
    p.n_ctx = p.n_ctx ? p.n_ctx : 1; /* where the context was open, not even one token fits */
    what_fits(m, p, err->fits, would, sizeof would);
    snprintf(err->msg + n, sizeof err->msg - n, ": %s",
             would[0] ? would : "not even one token of context fits, a smaller model would");
}

hlm_session *plan_create(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    hlm_session *s = hlm_session_create(m, params, err);
    if (!s)
        plan_explain(m, params, err);
    return s;
}

hlm_context *plan_create_context(hlm *m, const struct hlm_session_params *params,
                                 struct hlm_err *err)
{
    hlm_context *x = hlm_context_create(m, params, err);
    if (!x)
        plan_explain(m, params, err);
    return x;
}

bool plan_refusal(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    hlm_session_destroy(plan_create(m, params, err));
    return false;
}

/* ---- one plan -------------------------------------------------------------------------------- */

static void print_row(const char *what, uint64_t bytes)
{
    printf("  %-16s %18llu  %10s\n", what, (unsigned long long)bytes, num_bytes(bytes).s);
}

static void print_rows(const struct hlm_plan *plan, bool on_host)
{
    for (uint32_t i = 0; i < plan->n_row; i++)
        if (plan->row[i].on_host == on_host && plan->row[i].bytes)
            print_row(plan->row[i].purpose, plan->row[i].bytes);
}

static void log_plan(const struct hlm_plan *plan, const struct hlm_info *i)
{
    json_t *device = json_object(), *host = json_object();
    for (uint32_t k = 0; k < plan->n_row; k++)
        json_object_set_new(plan->row[k].on_host ? host : device, plan->row[k].purpose,
                            json_integer((json_int_t)plan->row[k].bytes));
    ui_event("plan", "{s:s, s:i, s:i, s:o, s:o, s:I, s:I, s:I, s:b}", "device", i->device, "n_ctx",
             (int)plan->n_ctx, "n_batch", (int)plan->n_batch, "device_bytes_by", device,
             "host_bytes_by", host, "device_bytes", (json_int_t)plan->device_bytes, "host_bytes",
             (json_int_t)plan->host_bytes, "may_be_used", (json_int_t)plan->memory, "fits",
             (int)plan->fits);
}

bool plan_print(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    struct hlm_plan plan;
    struct hlm_info i = hlm_get_info(m);
    if (!hlm_session_plan(m, params, &plan, err))
        return false;
    printf("%s: context %u, batch %u, cache %s\n", i.name, plan.n_ctx, plan.n_batch,
           kv_name(params->kv));
    printf("on %s, bytes\n", i.device);
    print_rows(&plan, false);
    print_row("all", plan.device_bytes);
    print_row("may be used", plan.memory);
    if (plan.host_bytes) {
        printf("in the memory of the host, bytes\n");
        print_rows(&plan, true);
        print_row("all", plan.host_bytes);
    }
    log_plan(&plan, &i);
    if (plan.fits)
        return true;
    return plan_refusal(m, params, err);
}

/* ---- what would cost less -------------------------------------------------------------------- */

static bool print_option(hlm *m, const char *what, const struct hlm_session_params *p,
                         struct hlm_err *err)
{
    struct hlm_plan plan;
    struct hlm_err why = { 0 };
    uint32_t longest = 0;
    if (!hlm_session_plan(m, p, &plan, &why)) { /* a limit of the device, mostly */
        printf("%-22s %8u  %-5s %s\n", what, p->n_ctx, kv_name(p->kv), why.msg);
        return true;
    }
    if (!plan.fits && !hlm_session_fit(m, p, &longest, err))
        return false;
    char fits[48] = "yes";
    if (!plan.fits && longest)
        snprintf(fits, sizeof fits, "no; -c %u would", longest);
    else if (!plan.fits)
        snprintf(fits, sizeof fits, "no, with no context");
    uint64_t snapshots = 0;
    for (uint32_t i = 0; i < plan.n_row; i++)
        if (!strcmp(plan.row[i].purpose, "snapshots"))
            snapshots = plan.row[i].bytes;
    printf("%-22s %8u  %-5s %6u %10s %10s %10s  %s\n", what, plan.n_ctx, kv_name(p->kv),
           plan.n_batch, num_bytes(snapshots).s, num_bytes(plan.device_bytes).s,
           num_bytes(plan.host_bytes).s, fits);
    return true;
}

bool plan_print_fit(hlm *m, const struct hlm_session_params *params, struct hlm_err *err)
{
    struct hlm_info i = hlm_get_info(m);
    struct hlm_session_params base = *params, all;
    if (!base.n_ctx)
        base.n_ctx = hlm_default_ctx(m);
    all = base;
    printf("%s on %s: %s may be used\n", i.name, i.device, num_bytes(i.memory).s);
    printf("%-22s %8s  %-5s %6s %10s %10s %10s  %s\n", "", "context", "cache", "batch", "snapshots",
           "device", "host", "fits");
    bool ok = print_option(m, params->n_ctx ? "as asked" : "as it would be", &base, err);
    if (ok && base.kv == HLM_KV_F32) {
        all.kv = HLM_KV_F16;
        struct hlm_session_params p = base;
        p.kv = HLM_KV_F16;
        ok = print_option(m, "--kv f16", &p, err);
    }
    if (ok && base.kv != HLM_KV_Q8_0) {
        struct hlm_session_params p = base;
        all.kv = p.kv = HLM_KV_Q8_0;
        ok = print_option(m, "--kv q8_0", &p, err);
    }
    if (ok && base.snapshot_budget != HLM_SNAPSHOT_NONE) {
        struct hlm_session_params p = base;
        all.snapshot_budget = p.snapshot_budget = HLM_SNAPSHOT_NONE;
        ok = print_option(m, "--snapshot-budget 0", &p, err);
    }
    if (ok && (!base.n_batch || base.n_batch > 64)) {
        struct hlm_session_params p = base;
        all.n_batch = p.n_batch = 64;
        ok = print_option(m, "-b 64", &p, err);
    }
    ok = ok && print_option(m, "all of these", &all, err);
    for (uint32_t n = base.n_ctx / 2; ok && n >= 1024; n /= 2) {
        char what[24];
        struct hlm_session_params p = base;
        p.n_ctx = n;
        snprintf(what, sizeof what, "-c %u", n);
        ok = print_option(m, what, &p, err);
    }
    return ok;
}
