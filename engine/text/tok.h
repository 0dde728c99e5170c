/* tok: byte-level BPE with a GGUF's own vocabulary and merges: text to token ids and back.
 *
 * PCRE2 runs the published pre-tokenizer expressions. utf8proc brings text to NFC if the model's
 * own tokenizer does. Needs no GPU. After creation only the scratch memory of a `struct tok`
 * changes, so only one thread may use it at a time. */
#pragma once
#include "file/file.h"

struct tok;

/* Reads only the keys tokenizer.*, so the architecture does not matter and the file needs no
 * tensors. It may be closed afterwards. NULL with a reason that names the file. */
struct tok *tok_create(const struct gguf *g, struct hlm_err *err);
void tok_destroy(struct tok *t);

/* A part of a prompt. Merges and pre-tokenizer matches cross the borders of spans as if all were
 * one string. Control tokens are recognised only inside spans with `special`: in the template's
 * text, not in a person's. User-defined tokens are always recognised, as in the models' own
 * tokenizers. A span with ids inserts these ids, whatever its text, and cuts the string there. */
struct tok_span {
    const char *text;
    uint64_t len;
    bool special;
    const int32_t *ids;
    uint32_t n_ids;
};

/* Appends n ids. */
bool tok_ids_push(struct hlm_ids *ids, const int32_t *id, uint32_t n, struct hlm_err *err);

/* Appends the ids of the spans' text, without bos or eos. The text may be any bytes: runs that are
 * not UTF-8 become separate pieces, and the ids give all bytes back, except for changes by NFC. The
 * time is about linear in the length of any text. After a failure `out` has the ids so far. */
bool tok_encode(struct tok *t, const struct tok_span *span, uint32_t n_span, struct hlm_ids *out,
                struct hlm_err *err);
/* The same for one string. special: recognises control tokens in it. */
bool tok_encode_text(struct tok *t, const char *text, uint64_t len, bool special,
                     struct hlm_ids *out, struct hlm_err *err);

/* The bytes of a token, or the literal text of a special token. They may be part of a UTF-8
 * character, and are valid while t lives. Empty for unused ids and ids out of range. */
struct hlm_str tok_bytes(const struct tok *t, int32_t id);

uint32_t tok_n_vocab(const struct tok *t);
int32_t tok_find(const struct tok *t, const char *text); /* id of this literal text, -1 if none */
bool tok_is_eog(const struct tok *t, int32_t id);        /* ends a generation */
bool tok_is_unused(const struct tok *t, int32_t id);     /* [PADn]: must not be sampled */
bool tok_is_special(const struct tok *t, int32_t id);    /* control token: not shown to people */
bool tok_add_bos(const struct tok *t, int32_t *bos);     /* the file asks for a bos in front */
/* Puts a bos before ids->id[at] if the file asks for one and none is there. */
bool tok_lead_bos(const struct tok *t, struct hlm_ids *ids, uint32_t at, struct hlm_err *err);
