/* vocab: struct hlm_vocab, a file's tokenizer and chat format. Its calls are in hlm.h. */
#pragma once
#include "text/chat.h"

struct hlm_vocab {
    struct gguf *file;
    bool owns_file;
    struct tok *tok;        /* NULL: the file has no usable tokenizer ... */
    struct hlm_err tok_err; /* ... and this says why */
    struct chat_format format;
    bool known; /* hlm knows the file's template */
    struct hlm_log log;
};

/* A vocabulary of a file, which must outlive it. NULL: no memory. Freed by hlm_vocab_close. */
struct hlm_vocab *vocab_of(struct gguf *file, const struct hlm_log *log, struct hlm_err *err);
/* The format of this name; NULL: the file's own. False: no such name. */
bool vocab_format(const struct hlm_vocab *v, const char *name, struct chat_format *format,
                  struct hlm_err *err);
