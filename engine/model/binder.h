/* binder: what model_keys.c, model_bind.c, model_upload.c and model.c share while a model is
 * loaded. Nothing else includes it. */
#pragma once
#include "model/arch.h"

/* One piece of upload: rows of a tensor to packed rows, or values to f32, or words as they are. */
struct job {
    const struct gguf_tensor *t;
    const void *words; /* t == NULL: bytes to copy */
    uint64_t offset, row0;
    uint32_t n_row, n_in;
    bool vector;
    const struct gguf_tensor *scale; /* a number for t, or one for each of its experts; NULL:
                                        none */
};

struct binder {
    struct model *m;
    struct hlm_err *err;
    const char *prefix; /* general.architecture */
    struct job *job;
    uint64_t n_job, cap_job;
    bool *used;   /* by tensor index */
    void **owned; /* copies of words that jobs point to */
    uint32_t n_owned;
    linear *open; /* between bind_begin and bind_end */
    uint64_t open_row;
    linear last;                    /* the matrix bound before */
    bool beside;                    /* the next one belongs right behind it */
    bool draft;                     /* draft blocks are wanted */
    uint64_t codebook[DTYPE_COUNT]; /* where a type's codebook lies; 0: nowhere yet */
    bool oom;
};

/* The key with the architecture in front of it. */
const char *model_key(const struct binder *b, const char *key, char *buf, size_t n);
/* Value i of an NVFP4 scale; a single one is everyone's. */
float bind_scale(const struct gguf_tensor *scale, uint64_t i);
/* Brings every job's rows to the device. */
bool upload_jobs(struct binder *b, bool (*progress)(void *, uint64_t, uint64_t), void *user);
