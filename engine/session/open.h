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
    struct adapters_in_force adapters; /* in force */
    struct counting counting;
    uint32_t n_session;    /* alive */
    struct hlm_tune *tune; /* the training that is alive; NULL: none */
    uint64_t n_change;     /* counts the changes that training has made to the numbers that tokens
                              are read with. A session knows the count at which it read: when that
                              is not the present one, what it has cached is void */
    char *path, *name;
    bool f16;         /* prompts may be read with f16 operands */
    uint32_t *unused; /* one bit for each vocabulary entry that is no token */
    uint64_t hash[2]; /* of the file, once `hashed` */
    bool hashed;
    bool any_base;    /* adapters of another file give no warning */
    bool load_failed; /* a part of the weights may be on the device */
};

/* The hash of its file, computed once. NULL without memory. */
const uint64_t *model_hash(hlm *m, struct hlm_err *err);
/* hlm_load without clearing err. */
bool model_bring(hlm *m, struct hlm_err *err);
