/* tok: byte-level BPE from a GGUF's own vocabulary and merges, and text out of token ids.
 *
 * Pre-tokenizer expressions are the published ones, run by PCRE2; NFC by utf8proc where the model's
 * own tokenizer has it. No GPU. A `struct tok` is immutable after creation except for its scratch
 * memory: one thread at a time. */
#pragma once
#include "file/file.h"

struct tok;

/* Reads only tokenizer.* keys, so any architecture and a file without tensors will do. The file may
 * be closed afterwards. NULL with a reason that names the file. */
struct tok *tok_create(const struct gguf *g, struct hlm_err *err);
void tok_destroy(struct tok *t);

/* A part of a prompt. Spans stand for one continuous text: merges and pre-tokenizer matches run
 * across span borders as if the text were one string, except that control tokens are recognised
 * only inside spans with `special` (template text yes, a person's text no; user-defined tokens
 * always, as the models' own tokenizers do). A span with ids inserts them as they are, whatever
 * its text, and cuts the text there. */
struct tok_span {
    const char *text;
    uint64_t len;
    bool special;
    const int32_t *ids;
    uint32_t n_ids;
};

/* Appends n ids. */
bool tok_ids_push(struct hlm_ids *ids, const int32_t *id, uint32_t n, struct hlm_err *err);

/* Appends the ids of the spans' text. No bos or eos is added. Text may be any bytes: runs that are
 * no UTF-8 become pieces of their own, and all bytes come back from the ids (but for NFC, where the
 * model has it). About linear in the text, whatever it is. After a failure out holds ids so far. */
bool tok_encode(struct tok *t, const struct tok_span *span, uint32_t n_span, struct hlm_ids *out,
                struct hlm_err *err);
/* The same for one string; special: parse control tokens in it. */
bool tok_encode_text(struct tok *t, const char *text, uint64_t len, bool special,
                     struct hlm_ids *out, struct hlm_err *err);

/* The bytes that a token stands for (a special token: its literal text). Valid while t lives. May
 * be part of a UTF-8 character. Out of range or unused ids: empty. */
struct hlm_str tok_bytes(const struct tok *t, int32_t id);

uint32_t tok_n_vocab(const struct tok *t);
int32_t tok_find(const struct tok *t, const char *text); /* id of this literal text, -1 if none */
bool tok_is_eog(const struct tok *t, int32_t id);        /* ends a generation */
bool tok_is_unused(const struct tok *t, int32_t id);     /* [PADn]: no person wants it sampled */
bool tok_is_special(const struct tok *t, int32_t id);    /* control token: not shown to a person */
bool tok_add_bos(const struct tok *t, int32_t *bos);     /* the file asks for a bos in front */
/* Puts a bos before ids->id[at] where the file asks for one and none stands there. */
bool tok_lead_bos(const struct tok *t, struct hlm_ids *ids, uint32_t at, struct hlm_err *err);
