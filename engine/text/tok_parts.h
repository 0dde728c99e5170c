/* tok_parts: the three parts of the tokenizer: characters, splitting, merging. Private to tok*.c.
 *
 * tok.c cuts the text at added tokens; split_text() brings each part to NFC and cuts it into pieces
 * by the expressions; bpe_piece() turns a piece into ids. */
#pragma once
#include "text/tok.h"

/* ---- tok_utf8.c: bytes and characters */

/* The length in bytes of the character at p[0]; n > 0. Negative: the bytes are not UTF-8, and this
 * many of them are one error. 0: all n bytes are the beginning of a character that goes on. */
int utf8_next(const char *p, uint64_t n);

/* Grows *old to at least n elements of `size` bytes, by doubling. *cap counts elements. */
bool tok_room(void **old, uint64_t *cap, uint64_t n, uint64_t size, struct hlm_err *err);

struct nfc {
    int32_t *cp, *sorted;
    char *out;
    uint64_t cap, sorted_cap, out_cap;
}; /* scratch */
void nfc_finish(struct nfc *s);
/* Brings valid UTF-8 to NFC. *text and *n then refer to scratch, valid until the next call. */
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
/* Passes the pieces of text to fn in order. Runs that are not UTF-8 are separate pieces. */
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
/* Adds a merge: left and right become id. The first of equal pairs wins. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* Appends the ids of a piece, which may be any bytes. */
bool bpe_piece(struct bpe *b, const char *piece, uint64_t n, struct hlm_ids *out,
               struct hlm_err *err);
