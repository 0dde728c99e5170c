/* adapters: the LoRA adapters in force on a model, and what identifies them in a saved session.
 *
 * This is the one place that puts adapters in force and takes them out: for hlm_set_lora and for
 * training. */
#pragma once
#include "hlm.h"
#include "lora/lora.h"

/* Part of struct hlm. */
struct adapters {
    struct lora_set *set;  /* in force; NULL: none */
    struct lora_hash hash; /* of what their files hold; zero without adapters */
};

/* Puts files[0 .. n) in force together, in place of the adapters before; n 0: none. Takes the
 * files. train: one adapter, which a trainer will change. On a dry gpu nothing is brought to the
 * device: adapters_upload does it later.
 *
 * False: the adapters before are still in force. If it was the device that failed, none are. */
bool adapters_set(hlm *m, struct lora_file **file, uint32_t n, bool train, struct hlm_err *err);
/* Brings the adapters that were put in force on a dry gpu to the device. True without adapters. */
bool adapters_upload(hlm *m, struct hlm_err *err);
/* From here on the model is without adapters, also after a failure; its gates are those of its
 * file, unless the device is lost (false). */
bool adapters_clear(hlm *m, struct hlm_err *err);

/* What a session saved now in the file `path` would have to be loaded with. False while a training
 * is alive: what it trains has no identity that a file could name, for every step changes it. A
 * session beside a training may even have read its tokens before several different steps. So such
 * a session is not saved, and none is loaded beside a training. */
bool adapters_identity(const hlm *m, const char *path, struct lora_hash *hash, struct hlm_err *err);
