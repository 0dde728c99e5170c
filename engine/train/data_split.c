/* data_split: where the rows of a file of training data begin and end: lines of JSON, the objects
 * of one JSON list, or the records of columns. See data.h. What is in a row is read elsewhere, so
 * that one that is malformed is reported by its line and can be skipped. */
#include "train/data_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Moves past white space, over the ends of lines too. */
static void skip_blank(struct data_line *l, struct data_text *t)
{
    for (; t->at < t->end && is_blank(*t->at); t->at++)
        l->line += *t->at == '\n';
}

static void set_where(struct data_line *l)
{
    snprintf(l->where, l->where_bytes, "%.300s:%" PRIu64, l->name, l->line + 1);
}

/* ---- which form ------------------------------------------------------------------------------ */

static bool has_ending(const char *name, const char *ending)
{
    size_t n = strlen(name), m = strlen(ending);
    for (size_t i = 0; n > m && i < m; i++) {
        char c = name[n - m + i];
        if ((c >= 'A' && c <= 'Z' ? c | 0x20 : c) != ending[i])
            return false;
    }
    return n > m;
}

bool data_text_open(struct data_line *l, struct data_text *t, const char *bytes, uint64_t n,
                    struct hlm_err *err)
{
    *t = (struct data_text){ .at = bytes, .end = bytes + n };
    if (n >= 2 && (!memcmp(bytes, "\xff\xfe", 2) || !memcmp(bytes, "\xfe\xff", 2)))
        return fail(err, "%.300s: is UTF-16, expected UTF-8", l->name);
    if (n >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3)) /* a byte order mark of some editors */
        t->at += 3;
    const char *first = t->at;
    while (first < t->end && is_blank(*first))
        first++;
    char c = first < t->end ? *first : '{';
    bool named = has_ending(l->name, ".csv") || has_ending(l->name, ".tsv");
    if (c == '[')
        t->form = DATA_LIST;
    else if (c != '{' && (named || data_csv_is_head(first, t->end)))
        t->form = DATA_CSV;
    if (t->form == DATA_CSV)
        t->sep = data_csv_separator(first, t->end);
    return true;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* What is to stand in a list between its objects. */
static bool list_broken(struct data_line *l, const char *what, struct hlm_err *err)
{
    l->fatal = true;
    set_where(l);
    return fail(err, "%s: %s", l->where, what);
}

/* The bytes of the value at t->at, up to a comma or a bracket of the list's own. */
static uint64_t value_bytes(const struct data_text *t)
{
    const char *s = t->at;
    uint64_t depth = 0;
    for (bool quoted = false; s < t->end; s++) {
        if (quoted && *s == '\\' && s + 1 < t->end)
            s++;
        else if (*s == '"')
            quoted = !quoted;
        else if (!quoted && !depth && (*s == ',' || *s == ']'))
            break;
        else if (!quoted && (*s == '{' || *s == '['))
            depth++;
        else if (!quoted && depth && (*s == '}' || *s == ']'))
            depth--;
    }
    return (uint64_t)(s - t->at);
}

/* The next value of a list; none after its end, after which nothing may follow. */
static bool next_of_list(struct data_line *l, struct data_text *t, struct hlm_str *row,
                         struct hlm_err *err)
{
    bool first = !t->inside;
    t->inside = true;
    skip_blank(l, t);
    t->at += first; /* its bracket, which data_text_open has seen */
    skip_blank(l, t);
    if (t->at < t->end && *t->at == ']') {
        t->at++;
        skip_blank(l, t);
        return t->at == t->end || list_broken(l, "text after the end of the list", err);
    }
    if (t->at < t->end && !first) {
        HLM_ASSERT(*t->at == ','); /* value_bytes ends there */
        t->at++;
        skip_blank(l, t);
    }
    *row = (struct hlm_str){ t->at, value_bytes(t) };
    return t->at + row->n < t->end || list_broken(l, "the list does not end", err);
}

static bool next_of_lines(struct data_line *l, struct data_text *t, struct hlm_str *row,
                          struct hlm_err *err)
{
    uint64_t n = 0;
    for (const char *s = t->at; s < t->end && is_blank(*s); s++)
        if (*s == '\n') { /* blank up to here; other blanks may be fields */
            l->line++;
            t->at = s + 1;
        }
    if (t->form == DATA_CSV && !data_csv_record(l, t->at, t->end, t->sep, &n, err))
        return false;
    const char *stop = memchr(t->at, '\n', (size_t)(t->end - t->at));
    if (t->form != DATA_CSV)
        n = (uint64_t)((stop ? stop : t->end) - t->at);
    bool blank = true;
    for (uint64_t i = 0; blank && i < n; i++)
        blank = is_blank(t->at[i]);
    if (!blank) /* blank only at the end of the file */
        *row = data_csv_trim((struct hlm_str){ t->at, n });
    return true;
}

bool data_text_next(struct data_line *l, struct data_text *t, struct hlm_str *row,
                    struct hlm_err *err)
{
    for (const char *s = t->row; s && s < t->at; s++) /* those of the row before */
        l->line += *s == '\n';
    *row = (struct hlm_str){ 0 };
    if (!(t->form == DATA_LIST ? next_of_list(l, t, row, err) : next_of_lines(l, t, row, err)))
        return false;
    set_where(l);
    t->row = row->p;
    t->at += row->n;
    return true;
}
