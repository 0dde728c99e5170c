/* adapters: the LoRA adapters in force on a model, and what identifies them in a saved session.
 *
 * This is the one place that puts adapters in force and takes them out: for hlm_set_lora and for
 * training. */
#pragma once
#include "hlm.h"
#include "lora/lora.h"

/* Part of struct hlm. */
struct adapters_in_force {
    struct lora_set *set;   /* in force; NULL: none */
    struct lora_hash hash;  /* of what their files hold; zero without adapters */
    struct hlm_lora *asked; /* [n_asked] as hlm_set_lora was asked for them */
    uint32_t n_asked;
};
void adapters_finish(struct adapters_in_force *a); /* when the model goes; takes a zeroed one */

/* Puts files[0 .. n) in force together, in place of the adapters before; n 0: none. Takes the
 * files. train: one adapter, which a trainer will change. On a dry gpu nothing is brought to the
 * device: adapters_upload does it later.
 *
 * False: the adapters before are still in force; if they could not be put back either (the device
 * is lost, or there is no memory at all), none are. */
bool adapters_set(hlm *m, struct lora_file **file, uint32_t n, bool train, struct hlm_err *err);
/* Brings the adapters that were put in force on a dry gpu to the device. True without adapters. */
bool adapters_upload(hlm *m, struct hlm_err *err);
/* From here on the model is without adapters, also after a failure. Its gates are those of its
 * file, or, when false is returned, will be once adapters are set. */
bool adapters_clear(hlm *m, struct hlm_err *err);

/* What a session saved now in the file `path` would have to be loaded with. False while a training
 * is alive: what it trains has no identity that a file could name, for every step changes it. A
 * session beside a training may even have read its tokens before several different steps. So such
 * a session is not saved, and none is loaded beside a training. */
bool adapters_identity(const hlm *m, const char *path, struct lora_hash *hash, struct hlm_err *err);

/* Warns of an adapter that was trained on another file, unless the model was opened for any. */
void adapters_warn_of_base(hlm *m, const struct lora_file *f);

/* hlm_set_lora without clearing err. */
bool adapters_change(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
/* A copy of such a list, with its paths, freed with adapters_copy_free. NULL: no memory; for n 0 it
 * is not NULL. */
struct hlm_lora *adapters_copy(const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
void adapters_copy_free(struct hlm_lora *l, uint32_t n); /* takes NULL */
