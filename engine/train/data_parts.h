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
    const char *where;             /* file:line, for messages */
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

/* Appends the documents of a line that is not only white space. After a failure the set may have
 * some of them. */
bool data_line(struct data_line *l, const char *json, uint64_t n, struct hlm_err *err);

/* The same of a row that is read already (data_form.c). Its keys say which of the three it is,
 * which are in data_doc.c. */
bool data_object(struct data_line *l, struct json_t *row, struct hlm_err *err);
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
