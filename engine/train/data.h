/* data: training data - documents of files as ids with a loss mask, and training rows of them.
 *
 * A file has lines of JSON, one list of JSON objects, or columns (CSV: commas, semicolons or tabs)
 * whose names are in its first line. A document is one row of it. Its keys show which form it has:
 *
 *     {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
 *         with "tools" and "system" beside them if there are any; chat.h describes messages
 *     {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
 *         ShareGPT; also system, tool or observation, and function_call
 *     {"instruction": "a", "input": "c", "output": "b"}
 *         Alpaca; the input, if it is not empty, follows the instruction after a line end
 *     {"prompt": "a", "completion": "b"}
 *         also "question" or "input" for the prompt; "response", "output" or "answer" for the
 *         completion; "system" or "system_prompt" beside them
 *     {"text": "a b"}
 *
 * An answer beside which "weight" is 0, or "train", "training" or "loss" is false, is not learnt.
 * Other keys that trainers obey are passed over, and a warning names them once for each file. The
 * files are untrusted. No GPU, no threads.
 *
 * Which tokens count is decided token by token. An answer counts from the end of the prompt that
 * hlm-chat would send for it to the token that closes it. That prompt opens a block of reasoning if
 * an answer of the document has reasoning (with turns_each, the answer that counts). An earlier
 * answer counts only if it stands in the document as the model would have said it, which templates
 * that drop reasoning mostly prevent. Calls of tools are part of an answer; the results of tools
 * are not the model's and do not count. In plain text and raw completions every token after the
 * first counts. Control tokens are recognised there, as hlm-eval does, and never inside messages.
 */
#pragma once
#include "hlm_train.h"
#include "text/chat.h"

/* The share of a single file that validation takes by default. Of a file of fewer than DATA_FEW
 * lines it takes none: all of them are needed for training. */
#define DATA_VALID 0.05
#define DATA_FEW 100

struct data_params {
    struct tok *tok; /* of the model, and its chat format */
    struct chat_format format;
    int32_t eos;         /* end of text (data_eos); below 0: none is added */
    uint32_t max_seq;    /* ids of a document; the rest is cut off; 0: no limit */
    double valid;        /* share of a single file's lines for validation, below 1; below 0: the
                            default */
    uint64_t seed;       /* decides which lines */
    bool loss_all;       /* every token but a document's first counts */
    bool turns_each;     /* a document for each assistant turn, in which only that turn counts */
    bool raw_completion; /* prompt and completion are two texts, not two turns */
    bool no_eos;         /* no end of text after texts */
    bool skip_bad;       /* malformed lines are skipped with a warning, else they are errors */
};

/* A file's ids of end of text and of padding. A chat's end of turn is its end of text only if there
 * is no other. None: -1, and 0 for padding. */
int32_t data_eos(const struct gguf *g, const struct tok *t);
int32_t data_pad(const struct gguf *g, const struct tok *t);

struct data_doc {
    uint64_t at; /* its ids and mask begin there in its set */
    uint32_t n, n_counted;
    uint64_t line; /* in the file, from 0; with turns_each several documents have it */
};

/* What became of the lines of a file. Empty lines are no documents. */
struct data_counts {
    uint64_t n_line, n_bad;      /* lines that are documents; malformed lines, not in n_line */
    uint64_t n_cut, n_ids_cut;   /* documents longer than max_seq, and the ids that were cut off */
    uint64_t n_dropped;          /* documents that no counted token is in */
    uint64_t n_answer, n_unsaid; /* answers that are to be learnt; those that do not count, because
                                    they stand otherwise than the model says them */
    uint64_t longest;            /* ids of the longest document, before it was cut */
    uint64_t bad_line, cut_line, dropped_line, unsaid_line; /* the first of each, from 1 */
};

/* Documents in the order of the file. A text of one token, which has no target, stays unless it was
 * cut to that. So a row may have no counted token: a step has to look at n_counted. */
struct data_set {
    int32_t *ids;
    uint8_t *mask; /* 1: counts as a target; never a document's first */
    uint64_t n_id, n_counted;
    struct data_doc *doc;
    uint32_t n_doc;
    struct data_counts
        counts; /* of the file; the train set has it for a single file that was split */
    uint64_t cap_id, cap_mask, cap_doc;
};
void data_set_free(struct data_set *s);

struct data {
    struct data_set train, valid, test;
};

struct data_files {
    const char *const *train, *const *valid;
    uint32_t n_train, n_valid; /* n_train: 1 or more */
};
/* Reads files, or a folder with train.jsonl and, if they exist, valid.jsonl and test.jsonl; they
 * may be .json, .csv or .tsv instead. Lines of several files are numbered through. Without files of
 * validation the share `valid` of two lines or more goes there: at least one line, and all
 * documents of a line together. Cuts, drops and skipped lines are logged too. False: the message
 * names file and line, and *d is empty. A file without any document is an error. */
bool data_load(struct data *d, const struct data_files *f, const struct data_params *p,
               struct hlm_err *err);
void data_free(struct data *d);
/* Reads the bytes of one file into one set; name is for messages, and its ending helps to find
 * which form the file has. */
bool data_parse(struct data_set *s, const char *bytes, uint64_t n, const char *name,
                const struct data_params *p, struct hlm_err *err);

/* Writes 0 .. n - 1 in the order of pass `epoch`: the same for the same seed on every machine. */
void data_shuffle(uint32_t *order, uint32_t n, uint64_t seed, uint64_t epoch);

/* A training row: documents one after the other, then padding. The arrays are in one block. */
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
    uint32_t n_row;
    uint64_t cap_row;
    uint32_t row_length; /* 0: rows as long as their one document */
    bool packed;
    int32_t pad_id;
    uint64_t n_counted;
};
void data_rows_free(struct data_rows *r);
/* Slots of a row without the padding at its end. */
static inline uint32_t data_row_used(const struct data_row *r) { return r->n - r->padding; }

/* Makes rows of a set's documents. order: n_doc indices; NULL: the order of the set. row_length 0:
 * each document is a row, without padding. Else rows are packed, in order: documents go into the
 * open row while they fit; a document that does not fit closes the row with padding and opens the
 * next. A document longer than row_length is an error: max_seq is there to cut it. data_row_length
 * chooses a length. */
bool data_pack(struct data_rows *r, const struct data_set *s, const uint32_t *order,
               uint32_t row_length, int32_t pad_id, struct hlm_err *err);

/* The shortest length, a multiple of 32 or `most`, with which these documents in this order make no
 * more rows than with the length `most`, and no more than n_row if that is more. So the rows of a
 * pass are about equally full, and a small set can have more of them than one. */
uint32_t data_row_length(const struct data_set *s, const uint32_t *order, uint32_t most,
                         uint32_t n_row);

/* The hyper-parameters of a run that a file of rows can hold. */
struct hlm_train_options data_options_default(void);

/* Rows and options (NULL: none) as JSON, in the form of the reference data (version 2). kind is
 * what the documents were, name the name of the case. The caller frees the text. */
char *data_dump_text(const struct data_rows *r, const struct hlm_train_options *o, const char *name,
                     const char *kind, uint64_t *n, struct hlm_err *err);
bool data_dump(const char *path, const struct data_rows *r, const struct hlm_train_options *o,
               const char *name, const char *kind, struct hlm_err *err);

/* Reads such a file, or its bytes; name is for messages. What rows say of their documents must
 * agree, and ids must be below n_vocab. Options that the file does not have keep their defaults;
 * *has: whether it has any. */
bool data_read(const char *path, uint32_t n_vocab, struct data_rows *r, struct hlm_train_options *o,
               bool *has, struct hlm_err *err);
bool data_read_text(const char *json, uint64_t n, const char *name, uint32_t n_vocab,
                    struct data_rows *r, struct hlm_train_options *o, bool *has,
                    struct hlm_err *err);
