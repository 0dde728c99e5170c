/* binder: shared by model_keys.c, model_bind.c, model_upload.c and model.c while a model is loaded.
 * Nothing else includes it. */
#pragma once
#include "model/arch.h"

/* A unit of upload: rows of a tensor, which are packed; values, which become F32; or words, which
 * are copied. */
struct upload_job {
    const struct gguf_tensor *t;
    const void *words; /* if t is NULL */
    uint64_t offset, row0;
    uint32_t n_row, n_in;
    bool vector;
    const struct gguf_tensor *scale; /* factors for t: one, or one for each expert; NULL: none */
};

struct binder {
    struct model *m;
    struct hlm_err *err;
    const char *prefix; /* general.architecture */
    bool draft;         /* loads draft blocks */
    struct upload_job *job;
    uint64_t n_job, cap_job;
    bool *used;   /* by tensor: something was bound to it */
    void **owned; /* words that jobs point to */
    uint64_t n_owned, cap_owned;
    linear *open; /* the matrix between bind_begin and bind_end */
    uint64_t open_row;
    const linear *last;             /* the matrix bound last */
    uint64_t codebook[DTYPE_COUNT]; /* where a type's codebook lies; 0: it has no place yet */
    bool oom;                       /* memory ran out where no err could be returned */
};

/* The key with the architecture in front of it. */
const char *model_key(const struct binder *b, const char *key, char *buf, size_t n);
/* The name with i_layer instead of %u. */
const char *model_tensor_name(const char *fmt, uint32_t i_layer, char *buf, size_t n);
/* Factor i of an NVFP4 scale; if it has only one value, that one. */
float bind_scale(const struct gguf_tensor *scale, uint64_t i);
/* Uploads the rows of every job. HLM_ERR_STOPPED if progress returns false. */
bool upload_jobs(struct binder *b, bool (*progress)(void *, uint64_t, uint64_t), void *user);
