/* tok_parts: the three parts of the tokenizer, private to tok*.c - characters, splitting, merging.
 *
 * Text runs through them in this order: tok.c cuts it at added tokens, split_text() brings each
 * part to NFC and cuts it into pieces by expressions, bpe_piece() turns a piece into ids. */
#pragma once
#include "text/tok.h"

/* ---- tok_utf8.c: bytes and characters */

/* Looks at the character that starts at p[0], n > 0. > 0: a whole one of that many bytes. < 0: no
 * character; minus the number of bytes that belong together as one error. 0: all n bytes are the
 * beginning of a character and more are needed. */
int utf8_next(const char *p, uint64_t n);

/* Grows *old to n elements of `size` bytes at least, doubling. *cap is counted in elements. */
bool tok_room(void **old, uint64_t *cap, uint64_t n, uint64_t size, struct hlm_err *err);

struct nfc {
    int32_t *cp, *sorted;
    char *out;
    uint64_t cap, sorted_cap, out_cap;
}; /* scratch */
void nfc_finish(struct nfc *s);
/* Brings valid UTF-8 to NFC. *text and *n are replaced, by scratch, until the next call. */
bool nfc_apply(struct nfc *s, const char **text, uint64_t *n, struct hlm_err *err);

/* ---- tok_split.c: the pre-tokenizers */

struct split;
struct pre;                                      /* one row of the table of pre-tokenizers */
const struct pre *pre_find(struct hlm_str name); /* NULL: unknown */
const char *pre_list(char *buf, uint64_t n);     /* "qwen2 qwen35 ..." */
bool pre_ignores_merges(const struct pre *p);
bool pre_is_nfc(const struct pre *p);
bool pre_adds_bos(const struct pre *p);

struct split *split_create(const struct pre *p, bool nfc, struct hlm_err *err);
void split_destroy(struct split *s);
/* Hands the pieces of text to fn in order. Runs that are no UTF-8 are pieces of their own. */
typedef bool piece_fn(void *user, const char *piece, uint64_t n, struct hlm_err *err);
bool split_text(struct split *s, const char *text, uint64_t n, piece_fn *fn, void *user,
                struct hlm_err *err);

/* ---- tok_bpe.c: merging */

struct bpe {
    int32_t byte_id[256]; /* the token of a single byte; -1: none */
    struct merge *table;  /* by pair of ids; open addressing */
    uint32_t shift, mask;
    struct symbol *sym; /* scratch of one piece */
    uint64_t *heap, sym_cap, heap_cap;
};
bool bpe_init(struct bpe *b, uint64_t n_merge, struct hlm_err *err);
void bpe_finish(struct bpe *b);
/* left and right become id. Of equal pairs the first stays. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* Appends the ids of a piece, which may be any bytes. */
bool bpe_piece(struct bpe *b, const char *piece, uint64_t n, struct hlm_ids *out,
               struct hlm_err *err);
