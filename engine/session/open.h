/* open: an open model, as the modules of session/ and train/ see it. The public calls are in
 * hlm.h. */
#pragma once
#include "hlm.h"
#include "model/model.h"
#include "session/adapters.h"
#include "session/counters.h"
#include "text/vocab.h"

struct hlm {
    struct gguf *file;
    struct gpu *gpu;
    struct model *model;
    struct hlm_vocab *vocab;
    struct hlm_log log;
    struct adapters adapters;    /* in force */
    struct hlm_lora *asked_lora; /* the adapters in force, as hlm_set_lora was asked for them */
    uint32_t n_asked_lora;
    struct counting counting;
    uint32_t n_session;    /* alive */
    struct hlm_tune *tune; /* the training that is alive; NULL: none */
    char *path, *name;
    bool f16;         /* prompts may be read with f16 operands */
    uint32_t *unused; /* one bit for each vocabulary entry that is no token */
    uint64_t hash[2]; /* of the file, once `hashed` */
    bool hashed;
};

/* hlm_load and hlm_set_lora, without clearing err. */
bool model_bring(hlm *m, struct hlm_err *err);
bool set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
/* A copy, paths included, freed with lora_copy_free. NULL without memory; not NULL for n 0. */
struct hlm_lora *lora_copy(const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
void lora_copy_free(struct hlm_lora *l, uint32_t n); /* takes NULL */
