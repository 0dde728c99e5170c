/* data_csv: comma-separated values (RFC 4180) as rows of training data. The first record names the
 * columns; every other becomes an object with these names, whose form data_form.c finds. See
 * data.h.
 *
 * A field that begins with a quote ends with one, and two quotes in it are one; it may hold
 * separators and line ends. A quote elsewhere is a character like others, which many files have. A
 * field with nothing in it is null: the row does not use that column. The separator is a comma, a
 * semicolon, which spreadsheets write in countries where the comma is a decimal point, or a tab. */
#include "train/data_parts.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_COLUMN = 256, MAX_NAME = 200 };

struct data_csv {
    char sep;
    uint32_t n_column;
    char *column[MAX_COLUMN]; /* names in lower case, without white space around them */
};

void data_csv_free(struct data_csv *c)
{
    for (uint32_t i = 0; c && i < c->n_column; i++)
        free(c->column[i]);
    free(c);
}

/* ---- where a record ends --------------------------------------------------------------------- */

enum place { AT_START, PLAIN, QUOTED, CLOSED };

static enum place next_place(enum place p, char c, char sep)
{
    if (p == QUOTED)
        return c == '"' ? CLOSED : QUOTED;
    if (c == '"' && p != PLAIN)
        return QUOTED; /* a field begins, or a closing quote was the first of two */
    return c == sep ? AT_START : PLAIN;
}

bool data_csv_record(struct data_line *l, const char *at, const char *end, char sep, uint64_t *n,
                     struct hlm_err *err)
{
    enum place p = AT_START;
    uint64_t line = l->line, quote_line = line;
    const char *s = at;
    for (; s < end && (p == QUOTED || *s != '\n'); s++) {
        enum place next = next_place(p, *s, sep);
        quote_line = next == QUOTED && p == AT_START ? line : quote_line;
        line += *s == '\n';
        p = next;
    }
    *n = (uint64_t)(s - at);
    if (p != QUOTED)
        return true;
    l->fatal = true; /* everything after it would be skipped with it */
    return fail(err, "%.300s:%" PRIu64 ": a field begins with a quote that is not closed", l->name,
                quote_line + 1);
}

struct hlm_str data_csv_trim(struct hlm_str record)
{
    record.n -= record.n && record.p[record.n - 1] == '\r';
    return record;
}

char data_csv_separator(const char *at, const char *end)
{
    static const char seps[] = ",;\t";
    uint64_t n[3] = { 0 };
    bool quoted = false;
    for (; at < end && (quoted || *at != '\n'); at++) {
        quoted ^= *at == '"';
        const char *sep = quoted || !*at ? NULL : strchr(seps, *at);
        n[sep ? sep - seps : 0] += sep != NULL;
    }
    uint32_t most = 0;
    for (uint32_t i = 1; i < 3; i++)
        most = n[i] > n[most] ? i : most;
    return seps[most];
}

/* ---- fields ---------------------------------------------------------------------------------- */

/* A field in memory that is used again for the next one. */
struct field {
    char *text;
    uint64_t n, cap;
    bool quoted;
};

static bool bad_field(struct data_line *l, uint32_t i, const char *why, struct hlm_err *err)
{
    return fail(err, "%s: field %u %s", l->where, i + 1, why);
}

static bool is_utf8(const char *text, uint64_t n)
{
    utf8proc_int32_t c;
    for (uint64_t i = 0; i < n;) {
        utf8proc_ssize_t k =
            utf8proc_iterate((const uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
        if (k <= 0)
            return false;
        i += (uint64_t)k;
    }
    return true;
}

/* Reads field i from *at on; *at becomes NULL after the last one of the record. */
static bool take_field(struct data_line *l, const char **at, const char *end, char sep, uint32_t i,
                       struct field *f, struct hlm_err *err)
{
    const char *s = *at;
    enum place p = AT_START;
    f->n = 0;
    f->quoted = s < end && *s == '"';
    if (!mem_reserve(&f->text, (uint64_t)(end - s) + 1, &f->cap, 1))
        return data_no_memory(l, err);
    for (; s < end && (p == QUOTED || *s != sep); s++) {
        enum place next = next_place(p, *s, sep);
        bool mark = next == QUOTED ? p == AT_START : next == CLOSED;
        if (f->quoted && next == PLAIN)
            return bad_field(l, i, "goes on after its closing quote", err);
        if (!mark)
            f->text[f->n++] = *s;
        p = next;
    }
    f->text[f->n] = 0;
    *at = s < end ? s + 1 : NULL;
    if (memchr(f->text, 0, (size_t)f->n))
        return bad_field(l, i, "has a zero byte", err);
    return is_utf8(f->text, f->n) || bad_field(l, i, "is not UTF-8", err);
}

/* ---- the first record ------------------------------------------------------------------------ */

static bool add_column(struct data_line *l, struct data_csv *c, const struct field *f,
                       struct hlm_err *err)
{
    const char *name = f->text;
    name += strspn(name, " \t");
    size_t n = strlen(name);
    while (n && (name[n - 1] == ' ' || name[n - 1] == '\t'))
        n--;
    if (c->n_column == MAX_COLUMN)
        return fail(err, "%s: more than %u columns", l->where, (uint32_t)MAX_COLUMN);
    if (n > MAX_NAME)
        return fail(err, "%s: the name of column %u has %zu bytes, expected at most %u", l->where,
                    c->n_column + 1, n, (uint32_t)MAX_NAME);
    char *own = mem_text(name, n);
    if (!own)
        return data_no_memory(l, err);
    c->column[c->n_column++] = own;
    for (char *p = own; *p; p++)
        *p = (char)(*p >= 'A' && *p <= 'Z' ? *p | 0x20 : *p);
    for (uint32_t k = 0; n && k + 1 < c->n_column; k++)
        if (!strcmp(c->column[k], own))
            return fail(err, "%s: two columns are called \"%s\"", l->where,
                        show_text(own, n, 40).s);
    return true;
}

struct data_csv *data_csv_head(struct data_line *l, struct hlm_str record, char sep,
                               struct hlm_err *err)
{
    struct data_csv *c = mem_alloc(1, sizeof *c);
    struct field f = { 0 };
    json_t *row = json_object();
    const char *at = record.p, *end = record.p + record.n;
    bool ok = (c && row) || data_no_memory(l, err);
    if (ok)
        c->sep = sep;
    for (uint32_t i = 0; ok && at; i++)
        ok = take_field(l, &at, end, sep, i, &f, err) && add_column(l, c, &f, err) &&
             (json_object_set_new(row, c->column[i], json_string("")) == 0 ||
              data_no_memory(l, err));
    ok = ok && (data_has_form(row) || data_refuse_form(l, row, true, err));
    json_decref(row);
    free(f.text);
    if (!ok) {
        data_csv_free(c);
        return NULL;
    }
    return c;
}

bool data_csv_is_head(const char *at, const char *end)
{
    struct hlm_err why = { 0 };
    char where[] = "";
    struct data_line l = { .name = "", .where = where };
    char sep = data_csv_separator(at, end);
    uint64_t n = 0;
    struct data_csv *c = NULL;
    if (data_csv_record(&l, at, end, sep, &n, &why))
        c = data_csv_head(&l, data_csv_trim((struct hlm_str){ at, n }), sep, &why);
    bool is = c && c->n_column > 1; /* of one column any text could be the name */
    data_csv_free(c);
    return is;
}

/* ---- the others ------------------------------------------------------------------------------ */

static bool add_field(struct data_line *l, json_t *row, uint32_t i, const struct field *f,
                      struct hlm_err *err)
{
    if (i >= l->csv->n_column)
        return fail(err, "%s: more fields than the %u columns that the first line names", l->where,
                    l->csv->n_column);
    if (!*l->csv->column[i]) /* the numbers of rows, as some programs write them */
        return true;
    json_t *v = f->n || f->quoted ? json_stringn(f->text, (size_t)f->n) : json_null();
    return (v && json_object_set_new(row, l->csv->column[i], v) == 0) || data_no_memory(l, err);
}

bool data_csv_row(struct data_line *l, struct hlm_str record, struct hlm_err *err)
{
    json_t *row = json_object();
    struct field f = { 0 };
    const char *at = record.p, *end = record.p + record.n;
    uint32_t n = 0;
    bool ok = row || data_no_memory(l, err);
    for (; ok && at; n++)
        ok = take_field(l, &at, end, l->csv->sep, n, &f, err) && add_field(l, row, n, &f, err);
    if (ok && n < l->csv->n_column)
        ok = fail(err,
                  "%s: found %u field%s, expected one for each of the %u columns that the "
                  "first line names",
                  l->where, n, n == 1 ? "" : "s", l->csv->n_column);
    ok = ok && data_object(l, row, err);
    json_decref(row);
    free(f.text);
    return ok;
}
