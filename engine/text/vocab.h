/* vocab: what hlm_vocab is - a file's tokenizer and chat format. The calls are in hlm.h. */
#pragma once
#include "text/chat.h"

struct hlm_vocab {
    struct gguf *file;
    bool owns_file;
    struct tok *tok;        /* NULL: the file has no usable tokenizer ... */
    struct hlm_err tok_err; /* ... and this says why */
    struct chat_format format;
    bool known; /* the file's template is one that hlm knows */
    struct hlm_log log;
};

/* Over a file that outlives it. NULL without memory. hlm_vocab_close frees it. */
struct hlm_vocab *vocab_of(struct gguf *file, const struct hlm_log *log, struct hlm_err *err);
/* The format of this name, or with NULL the file's own. False: there is no such name. */
bool vocab_format(const struct hlm_vocab *v, const char *name, struct chat_format *format,
                  struct hlm_err *err);
