/* memory: laying a context out, what that costs, and allocating it. */
#pragma once
#include "session/session.h"

/* Makes a context without its memory: all its arenas have their sizes, because the largest of its
 * lists are recorded. context_commit then allocates them. For plans too; those are made while the
 * gpu is dry. NULL with a reason. */
hlm_context *context_lay_out(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                             struct hlm_err *err);
bool context_commit(hlm_context *x, struct hlm_err *err);
void context_destroy(hlm_context *x); /* with its sessions; takes NULL */

/* What all arenas cost that exist now, whether or not they are allocated. */
struct hlm_plan plan_of(const hlm *m, uint32_t n_ctx, uint32_t n_batch);
/* The context that a session with these params has: if they leave it open, the longest that fits,
 * but at least one token. 0 on failure. */
uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* hlm_session_fit without clearing err, of params that were checked. */
bool session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                 struct hlm_err *err);
/* What the plan needs on the device and what there is: HLM_ERR_WONT_FIT, without what would fit.
 * Always false. */
bool plan_refuse(const hlm *m, const struct hlm_plan *plan, struct hlm_err *err);
const char *plan_parts(const struct hlm_plan *plan, char out[256]); /* its rows, in words */
