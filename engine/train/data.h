/* data: what is trained on - JSONL documents as ids with a loss mask, and rows of them.
 *
 * A document is one line: {"messages": [...]}, with "tools" beside them if there are any (chat.h
 * has both), {"prompt": ..., "completion": ...} or {"text": ...}, told apart by these keys; others
 * are ignored. The files are untrusted. No GPU, no threads.
 *
 * What counts is told token by token. An answer counts from where hlm-chat's prompt for it ends to
 * the token that closes it: the prompt with thinking if an answer of the document has reasoning (of
 * those that may count), else the one without. An earlier answer counts only if it stands in the
 * document as the model would have said it, which templates that drop reasoning mostly prevent.
 * Calls of tools are part of an answer; what tools say is not the model's and does not count. Of a
 * text, and a raw completion, all counts but a document's first token; control tokens in their text
 * are meant, as hlm-eval takes texts, while a message never says one. */
#pragma once
#include "hlm_train.h"
#include "text/chat.h"

#define DATA_VALID 0.05 /* the usual share of a single file that goes to validation */

struct data_params {
    struct tok *tok; /* of the model, and its chat format */
    struct chat_format format;
    int32_t eos;         /* end of text, see data_eos(); below 0: none is added */
    uint32_t max_seq;    /* ids of a document, the rest is cut off; 0: any number */
    double valid;        /* share of a single file's lines, 0: none, below 1 */
    uint64_t seed;       /* says which of them */
    bool loss_all;       /* every token but a document's first counts */
    bool turns_each;     /* one document for each assistant turn, in which that one counts */
    bool raw_completion; /* prompt and completion are two texts, not two turns */
    bool no_eos;         /* no end of text behind texts */
    bool skip_bad;       /* malformed lines are left out and told, else they fail */
};

/* The ids that a file means by end of text (a chat's end of turn only when it has no other) and by
 * padding; -1: none, and 0 for padding then. */
int32_t data_eos(const struct gguf *g, const struct tok *t);
int32_t data_pad(const struct gguf *g, const struct tok *t);

struct data_doc {
    uint64_t at; /* its ids and mask begin there in its set */
    uint32_t n, n_counted;
    uint64_t line; /* in the file, from 0; turns_each: several documents have it */
};

/* What happened to the lines of a file: empty ones are no documents. */
struct data_told {
    uint64_t n_line, n_bad;    /* documents as lines; malformed ones, not in n_line */
    uint64_t n_cut, n_ids_cut; /* documents longer than max_seq, and what that cost */
    uint64_t n_dropped;        /* without a counted token: nothing to learn from */
    uint64_t longest;          /* ids of the longest document, before it was cut */
    uint64_t bad_line, cut_line, dropped_line; /* the first of each, from 1 */
};

/* Documents in file order. A text of one token, which has no target, stays one unless it was cut to
 * that: a row without a counted token may come of it, and a step must look at n_counted. */
struct data_set {
    int32_t *ids;
    uint8_t *mask; /* 1: counts as a target; never a document's first */
    uint64_t n_id, n_counted;
    struct data_doc *doc;
    uint32_t n_doc;
    struct data_told told; /* of the file; with a single file all is told in train */
    uint64_t cap_id;
    uint32_t cap_doc;
};
void data_set_free(struct data_set *s);

struct data {
    struct data_set train, valid, test;
};

/* Reads a file, or a folder with train.jsonl and, if they are there, valid.jsonl and test.jsonl. Of
 * a file of two lines or more the params' share goes to valid, one line at least, the documents of
 * a line together. Cuts, drops and skipped lines are told with log_msg() too. False with a reason
 * that names file and line; *d is empty then. A file without any document is an error. */
bool data_load(struct data *d, const char *path, const struct data_params *p, struct hlm_err *err);
void data_free(struct data *d);
/* One file's bytes into one set; name is for messages. */
bool data_parse(struct data_set *s, const char *bytes, uint64_t n, const char *name,
                const struct data_params *p, struct hlm_err *err);

/* 0 .. n - 1 as the epoch-th pass takes them: the same for the same seed, on every machine. */
void data_shuffle(uint32_t *order, uint32_t n, uint64_t seed, uint64_t epoch);

/* One row: documents one behind the other, then padding. The arrays lie in one block. */
struct data_row {
    uint32_t n, padding, n_doc, n_counted;
    int32_t *ids;                  /* [n]; padding: the pad id */
    int32_t *doc;                  /* [n] which document of the row, -1 on padding */
    uint32_t *pos;                 /* [n] from 0 in each document; 0 on padding */
    uint8_t *mask;                 /* [n]; 0 on padding */
    uint32_t *doc_start, *doc_len; /* [n_doc] */
    uint64_t *document;            /* [n_doc] lines of the file, from 0 */
    void *block;
};

struct data_rows {
    struct data_row *row;
    uint32_t n_row, cap_row;
    uint32_t row_length; /* 0: rows as long as their one document */
    bool packed;
    int32_t pad_id;
    uint64_t n_counted;
};
void data_rows_free(struct data_rows *r);

/* Rows of a set's documents, in this order (NULL: as they stand, else n_doc indices). row_length 0:
 * a row each, without padding. Else packed: documents go into the open row as long as they fit; one
 * that does not closes it with padding and opens the next, so that their order is kept. A document
 * longer than row_length is an error: max_seq is there to cut it. */
bool data_pack(struct data_rows *r, const struct data_set *s, const uint32_t *order,
               uint32_t row_length, int32_t pad_id, struct hlm_err *err);

/* The hyper-parameters of a run that a file of rows can hold. */
struct hlm_train_options data_options_default(void);

/* Rows and options (NULL: none) as JSON, in the form of the reference data (version 2). kind says
 * what the documents were, name which case it is. The text is fresh memory. */
char *data_dump_text(const struct data_rows *r, const struct hlm_train_options *o, const char *name,
                     const char *kind, uint64_t *n, struct hlm_err *err);
bool data_dump(const char *path, const struct data_rows *r, const struct hlm_train_options *o,
               const char *name, const char *kind, struct hlm_err *err);

/* Reads such a file, or its bytes; name is for messages. All that rows say of themselves must agree
 * and ids must be below n_vocab. Options that are not there keep their defaults; *has says whether
 * there are any. */
bool data_read(const char *path, uint32_t n_vocab, struct data_rows *r, struct hlm_train_options *o,
               bool *has, struct hlm_err *err);
bool data_read_text(const char *json, uint64_t n, const char *name, uint32_t n_vocab,
                    struct data_rows *r, struct hlm_train_options *o, bool *has,
                    struct hlm_err *err);
