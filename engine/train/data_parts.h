/* data_parts: shared by the data*.c files. See data.h. */
#pragma once
#include "train/data.h"

/* A line of a file that is read into a set. A line that fails can be skipped, unless `fatal`. */
struct data_line {
    const struct data_params *p;
    struct data_set *set;
    uint64_t line;                 /* from 0 */
    const char *where;             /* file:line, for messages */
    struct json_t *tools;          /* of its messages, or NULL */
    struct chat_prompt tools_text; /* of tools */
    struct hlm_ids scratch;
    bool fatal;
};

/* Appends the documents of a line that is not only white space. After a failure the set may have
 * some of them. */
bool data_line(struct data_line *l, const char *json, uint64_t n, struct hlm_err *err);

/* Appends a row of n slots and n_doc documents, all zero. NULL: no memory. */
struct data_row *data_rows_add(struct data_rows *r, uint32_t n, uint32_t n_doc);
/* Computes doc, pos and the counts from the starts and lengths, which must be right. */
void data_row_finish(struct data_rows *rows, struct data_row *r);
