/* common_plan: --plan and --fit - what a session costs, by purpose, and what would cost less. Both
 * print to standard output; the model may be dry. */
#pragma once
#include "hlm.h"

/* The plan, to the byte. False with the reason when it does not fit, after printing it. */
bool plan_print(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* What was asked for and what would be cheaper, each with its cost and the longest context that
 * fits that way. */
bool plan_print_fit(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* Adds to a session that is refused for its size what would fit, with the flags that ask for it.
 * Leaves other errors alone. */
void plan_explain(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* Why a session whose plan does not fit is refused, with that explanation. Always false. */
bool plan_refusal(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* hlm_session_create, with that explanation. */
hlm_session *plan_create(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
hlm_context *plan_create_context(hlm *m, const struct hlm_session_params *params,
                                 struct hlm_err *err);
const char *kv_name(enum hlm_kv kv);
