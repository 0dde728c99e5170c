/* hlm_parts: what hlm.c and hlm_session.c share. The public
 * calls are in hlm.h; this header is what hlm.c needs to make one. */
#pragma once
#include "hlm.h"
#include "model.h"

struct hlm {
    struct gguf *file;
    struct gpu *gpu;
    struct model *model;
    struct tok *tok;
    struct err tok_err;
    char *path, *name;
    bool exact;
    uint32_t *unused;                   /* bit set of vocabulary entries that are no tokens */
};
