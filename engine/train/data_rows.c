/* data_rows: documents to rows of ids. See data.h. */
#include "train/data_parts.h"

#include <stdlib.h>
#include <string.h>

void data_rows_free(struct data_rows *r)
{
    for (uint32_t i = 0; i < r->n_row; i++)
        free(r->row[i].block);
    free(r->row);
    *r = (struct data_rows){ 0 };
}

struct data_row *data_rows_add(struct data_rows *r, uint32_t n, uint32_t n_doc)
{
    if (r->n_row == UINT32_MAX ||
        !mem_reserve(&r->row, r->n_row + 1ull, &r->cap_row, sizeof *r->row))
        return NULL;
    struct data_row row = { .n = n, .n_doc = n_doc };
    uint64_t slot = sizeof *row.ids + sizeof *row.doc + sizeof *row.pos + sizeof *row.mask;
    uint64_t doc = sizeof *row.document + sizeof *row.doc_start + sizeof *row.doc_len;
    row.block = mem_alloc(n * slot + n_doc * doc, 1); /* below 2^37: no overflow */
    if (!row.block)
        return NULL;
    row.document = row.block; /* the widest first, so that all are aligned */
    row.doc_start = (uint32_t *)(row.document + n_doc);
    row.doc_len = row.doc_start + n_doc;
    row.pos = row.doc_len + n_doc;
    row.ids = (int32_t *)(row.pos + n);
    row.doc = row.ids + n;
    row.mask = (uint8_t *)(row.doc + n);
    r->row[r->n_row] = row;
    return &r->row[r->n_row++];
}

void data_row_finish(struct data_rows *rows, struct data_row *r)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < r->n_doc; i++)
        for (uint32_t k = 0; k < r->doc_len[i]; k++, at++) {
            r->doc[at] = (int32_t)i;
            r->pos[at] = k;
        }
    r->padding = r->n - at;
    for (; at < r->n; at++)
        r->doc[at] = -1;
    r->n_counted = 0;
    for (uint32_t i = 0; i < r->n; i++)
        r->n_counted += r->mask[i];
    rows->n_counted += r->n_counted;
}

static const struct data_doc *in_order(const struct data_set *s, const uint32_t *order, uint32_t i)
{
    return &s->doc[order ? order[i] : i];
}

/* Rows that data_pack would make; UINT32_MAX: a document is longer than a row. */
static uint32_t count_rows(const struct data_set *s, const uint32_t *order, uint32_t row_length)
{
    uint32_t n_row = 0;
    uint64_t n = row_length;
    for (uint32_t i = 0; i < s->n_doc; i++) {
        uint32_t len = in_order(s, order, i)->n;
        if (len > row_length)
            return UINT32_MAX;
        if (n + len > row_length) {
            n_row++;
            n = 0;
        }
        n += len;
    }
    return n_row;
}

uint32_t data_row_length(const struct data_set *s, const uint32_t *order, uint32_t most,
                         uint32_t n_row)
{
    enum { STEP = 32 };
    uint32_t enough = max_u32(count_rows(s, order, most), n_row);
    uint32_t too_short = 0, long_enough = most / STEP + (most % STEP != 0);
    while (long_enough - too_short > 1) { /* longer rows are never more */
        uint32_t n = too_short + (long_enough - too_short) / 2;
        *(count_rows(s, order, n * STEP) <= enough ? &long_enough : &too_short) = n;
    }
    return (uint32_t)min_u64((uint64_t)long_enough * STEP, most);
}

bool data_pack(struct data_rows *r, const struct data_set *s, const uint32_t *order,
               uint32_t row_length, int32_t pad_id, struct hlm_err *err)
{
    *r = (struct data_rows){ .row_length = row_length, .packed = row_length, .pad_id = pad_id };
    for (uint32_t i = 0, n_doc; i < s->n_doc; i += n_doc) {
        uint64_t n = 0;
        for (n_doc = 0; i + n_doc < s->n_doc; n_doc++) {
            const struct data_doc *d = in_order(s, order, i + n_doc);
            if (n_doc && (!row_length || n + d->n > row_length))
                break;
            n += d->n;
        }
        if (row_length && n > row_length) {
            data_rows_free(r);
            return fail(err, "a document of %llu tokens does not fit a row of %u",
                        (unsigned long long)n, row_length);
        }
        uint32_t slots = row_length ? row_length : (uint32_t)n, at = 0;
        struct data_row *row = data_rows_add(r, slots, n_doc);
        if (!row) {
            data_rows_free(r);
            return fail_memory(err, "no memory for rows of %u documents", s->n_doc);
        }
        for (uint32_t k = 0; k < n_doc; k++) {
            const struct data_doc *d = in_order(s, order, i + k);
            memcpy(row->ids + at, s->ids + d->at, d->n * sizeof *row->ids);
            memcpy(row->mask + at, s->mask + d->at, d->n);
            row->doc_start[k] = at;
            row->doc_len[k] = d->n;
            row->document[k] = d->line;
            at += d->n;
        }
        for (; at < slots; at++)
            row->ids[at] = pad_id;
        data_row_finish(r, row);
    }
    return true;
}
