/* data_parts: shared by the data*.c files. See data.h. */
#pragma once
#include "train/data.h"

struct json_t; /* jansson's */

enum { MAX_PASSED = 16 };

/* What is in a set's mask until the document ends: loss_all does not reach what never counts. */
enum { MARK_NO, MARK_COUNTS, MARK_NEVER };

/* A line of a file that is read into a set. A line that fails can be skipped, unless `fatal`. */
struct data_line {
    const struct data_params *p;
    struct data_set *set;
    uint64_t line;                 /* from 0 */
    const char *name;              /* of the file, for messages */
    char *where;                   /* file:line of the row */
    size_t where_bytes;            /* its room */
    struct data_csv *csv;          /* the columns of a file that has them, or NULL */
    struct json_t *tools;          /* of its messages, or NULL */
    struct chat_prompt tools_text; /* of tools */
    struct hlm_ids scratch;
    const uint8_t *skip; /* by message: an answer that is not to be learnt; NULL: none */
    struct data_passed {
        char key[48];
        bool beside; /* a message; else it is a key of the row */
        uint64_t line;
    } passed[MAX_PASSED]; /* keys that the file has and that hlm does not obey */
    uint32_t n_passed;
    bool fatal;
};

/* ---- the rows of a file (data_split.c) ------------------------------------------------------- */

/* A file as text. Rows of every form come one after the other; each begins in a line. */
struct data_text {
    const char *at, *end, *row; /* row: the last one that was found */
    enum { DATA_LINES, DATA_LIST, DATA_CSV } form;
    char sep;    /* of columns */
    bool inside; /* a list: its bracket is open */
};
/* Which of the forms this is: by what it begins with, and by the file's name. False: the file is of
 * a kind that cannot be read. */
bool data_text_open(struct data_line *l, struct data_text *t, const char *bytes, uint64_t n,
                    struct hlm_err *err);
/* Finds the next row that is not only white space: l->line is then the line in which it begins.
 * row->p NULL: there is none. */
bool data_text_next(struct data_line *l, struct data_text *t, struct hlm_str *row,
                    struct hlm_err *err);

/* ---- columns (data_csv.c) -------------------------------------------------------------------- */

char data_csv_separator(const char *at, const char *end); /* of the record that is there */
/* The bytes of the record at `at`, without its line end. */
bool data_csv_record(struct data_line *l, const char *at, const char *end, char sep, uint64_t *n,
                     struct hlm_err *err);
struct hlm_str data_csv_trim(struct hlm_str record); /* without a carriage return at its end */
/* The columns that a record names; NULL with a reason, also when rows with these names have no
 * form. */
struct data_csv *data_csv_head(struct data_line *l, struct hlm_str record, char sep,
                               struct hlm_err *err);
void data_csv_free(struct data_csv *c); /* takes NULL */
/* Does a text begin with such a record? */
bool data_csv_is_head(const char *at, const char *end);
/* As data_line, for a record. */
bool data_csv_row(struct data_line *l, struct hlm_str record, struct hlm_err *err);

/* ---- documents ------------------------------------------------------------------------------- */

/* Appends the documents of a line that is not only white space. After a failure the set may have
 * some of them. */
bool data_line(struct data_line *l, const char *json, uint64_t n, struct hlm_err *err);

/* The same of a row that is read already (data_form.c). Its keys say which of the three it is,
 * which are in data_doc.c. */
bool data_object(struct data_line *l, struct json_t *row, struct hlm_err *err);
bool data_has_form(struct json_t *row); /* do its keys make one of the forms? */
/* Says which keys were found. none: no form fits, else more than one. Always false. */
bool data_refuse_form(struct data_line *l, struct json_t *row, bool none, struct hlm_err *err);
bool data_messages(struct data_line *l, struct json_t *list, struct json_t *tools,
                   struct hlm_err *err);
struct data_pair {
    const char *system; /* NULL: none */
    const char *question, *answer;
};
bool data_pair(struct data_line *l, const struct data_pair *p, struct hlm_err *err);
bool data_text(struct data_line *l, const struct json_t *text, struct hlm_err *err);
/* Writes skip[i] for each message. False: all answers are to be learnt. */
bool data_marks(struct data_line *l, struct json_t *list, uint8_t *skip);
/* One warning of all keys of a file that were passed over. */
void data_warn_passed(const struct data_line *l, const char *name);
/* Both return false. */
bool data_bad(struct data_line *l, struct hlm_err *err, const char *why);
bool data_no_memory(struct data_line *l, struct hlm_err *err);

/* Appends a row of n slots and n_doc documents, all zero. NULL: no memory. */
struct data_row *data_rows_add(struct data_rows *r, uint32_t n, uint32_t n_doc);
/* Computes doc, pos and the counts from the starts and lengths, which must be right. */
void data_row_finish(struct data_rows *rows, struct data_row *r);
