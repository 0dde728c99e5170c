/* memory: what a session will take, and whether that fits. */
#pragma once
#include "session/session.h"

/* What all arenas cost that exist now. */
struct hlm_plan plan_of(const hlm *m, uint32_t n_ctx, uint32_t n_batch);
/* The context that a session with these params has; if params leave it open, the longest that
 * fits, but at least one token. 0 on failure. */
uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* Says what is too much, and what would fit. */
void plan_refuse(hlm *m, const struct hlm_session_params *params, const struct hlm_plan *plan,
                 struct hlm_err *err);
