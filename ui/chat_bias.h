/* chat_bias: --logit-bias TOKEN=BIAS, what is added to the logits of single tokens. */
#pragma once
#include "common_flags.h"

/* Fills the biases of a sampling. TOKEN is an id or the text of one token, BIAS a number or -inf.
 * False with a reason. */
bool bias_read(hlm_vocab *v, const struct flag_list *list, struct hlm_sampling *s,
               struct hlm_err *err);
