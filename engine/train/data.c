/* data: files of training data to sets of documents. See data.h; lines are data_doc.c's. */
#define _POSIX_C_SOURCE 200809L
#include "train/data_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_REPORTED = 5 }; /* skipped lines that get a message of their own */

/* ---- ids that a file names ------------------------------------------------------------------- */

static int32_t key_id(const struct gguf *g, const struct tok *t, const char *key)
{
    uint32_t id = UINT32_MAX;
    gguf_u32(g, key, OPTIONAL, &id, NULL);
    return id < tok_n_vocab(t) ? (int32_t)id : -1;
}

/* The eos key of a chat model is the end of a turn, but its vocabulary still has an end of text. */
int32_t data_eos(const struct gguf *g, const struct tok *t)
{
    static const char *const text[] = { "<|endoftext|>", "<|end_of_text|>", "</s>",
                                        "<｜end▁of▁sentence｜>" };
    for (uint32_t i = 0; i < ARRAY_LEN(text); i++) {
        int32_t id = tok_find(t, text[i]);
        if (id >= 0 && tok_is_special(t, id) && tok_is_eog(t, id))
            return id;
    }
    return key_id(g, t, "tokenizer.ggml.eos_token_id");
}

int32_t data_pad(const struct gguf *g, const struct tok *t)
{
    int32_t id = key_id(g, t, "tokenizer.ggml.padding_token_id");
    if (id < 0)
        id = data_eos(g, t);
    return id < 0 ? 0 : id;
}

/* ---- one file -------------------------------------------------------------------------------- */

void data_set_free(struct data_set *s)
{
    free(s->ids);
    free(s->mask);
    free(s->doc);
    *s = (struct data_set){ 0 };
}

/* Takes a row whole or not at all. False: reading ends with an error. */
static bool take_row(struct data_line *l, struct hlm_str row, struct hlm_err *err)
{
    struct data_set *s = l->set, was = *s;
    struct hlm_err why = { 0 };
    s->counts.n_line++;
    if (l->csv ? data_csv_row(l, row, &why) : data_line(l, row.p, row.n, &why))
        return true;
    if (l->fatal || !l->p->skip_bad)
        return fail_from(err, &why, "");
    s->n_id = was.n_id;
    s->n_counted = was.n_counted;
    s->n_doc = was.n_doc;
    s->counts = was.counts;
    if (!s->counts.n_bad)
        s->counts.bad_line = l->line + 1;
    if (s->counts.n_bad++ < MAX_REPORTED)
        log_msg(HLM_LOG_WARN, "%s; skipped", why.msg);
    return true;
}

static void warn_of_lines(const struct data_set *s, const char *name, const struct data_params *p)
{
    const struct data_counts *t = &s->counts;
    if (t->n_bad > MAX_REPORTED)
        log_msg(HLM_LOG_WARN, "%s: %" PRIu64 " malformed lines skipped", name,
                t->n_bad); /* more than five */
    if (t->n_cut)
        log_msg(HLM_LOG_WARN,
                "%s: %" PRIu64 " document%s cut to %u tokens, which lost %" PRIu64
                " token%s; the longest had %" PRIu64 ", the first is line %" PRIu64,
                name, t->n_cut, t->n_cut == 1 ? "" : "s", p->max_seq, t->n_ids_cut,
                t->n_ids_cut == 1 ? "" : "s", t->longest, t->cut_line);
    if (t->n_dropped)
        log_msg(HLM_LOG_WARN,
                "%s: %" PRIu64
                " document%s dropped, without a token that counts; the first is line %" PRIu64,
                name, t->n_dropped, t->n_dropped == 1 ? "" : "s", t->dropped_line);
}

/* The first record of columns names them; it is no row. */
static bool take_next(struct data_line *l, struct data_text *t, struct hlm_str *row,
                      struct hlm_err *err)
{
    if (!data_text_next(l, t, row, err))
        return false;
    if (t->form != DATA_CSV || l->csv || !row->p)
        return true;
    return (l->csv = data_csv_head(l, *row, t->sep, err)) && data_text_next(l, t, row, err);
}

bool data_parse(struct data_set *s, const char *bytes, uint64_t n, const char *name,
                const struct data_params *p, struct hlm_err *err)
{
    char where[400];
    struct data_line l = {
        .p = p, .set = s, .name = name, .where = where, .where_bytes = sizeof where
    };
    struct data_text t;
    struct hlm_str row = { 0 };
    *s = (struct data_set){ 0 };
    bool ok = data_text_open(&l, &t, bytes, n, err);
    while (ok && (ok = take_next(&l, &t, &row, err)) && row.p)
        ok = take_row(&l, row, err);
    hlm_ids_free(&l.scratch);
    data_csv_free(l.csv);
    if (ok && !s->n_doc)
        ok = fail(err,
                  "%.300s: no document to learn from: %" PRIu64 " %s, %" PRIu64
                  " malformed, %" PRIu64 " without a token that counts",
                  name, s->counts.n_line + s->counts.n_bad, t.form == DATA_LINES ? "lines" : "rows",
                  s->counts.n_bad, s->counts.n_dropped);
    if (ok) {
        warn_of_lines(s, name, p);
        data_warn_passed(&l, name);
    } else {
        data_set_free(s);
    }
    return ok;
}

static bool load_file(struct data_set *s, const char *path, const struct data_params *p,
                      struct hlm_err *err)
{
    uint64_t n = 0;
    char *bytes = file_read(path, UINT64_MAX / 4, &n, err);
    bool ok = bytes && data_parse(s, bytes, n, path, p, err);
    free(bytes);
    return ok;
}

/* ---- validation ------------------------------------------------------------------------------ */

/* A random number below n; all are equally likely. */
static uint32_t random_below(struct rng *r, uint32_t n)
{
    uint64_t top = UINT64_MAX - UINT64_MAX % n, v;
    do
        v = rng_u64(r);
    while (v >= top);
    return (uint32_t)(v % n);
}

void data_shuffle(uint32_t *order, uint32_t n, uint64_t seed, uint64_t epoch)
{
    struct rng r = { seed };
    r.s = rng_u64(&r) + epoch;
    r.s = rng_u64(&r);
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t k = random_below(&r, i), v = order[i - 1];
        order[i - 1] = order[k];
        order[k] = v;
    }
}

/* How many lines have documents. */
static uint32_t count_lines(const struct data_set *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_doc; i++)
        n += !i || s->doc[i].line != s->doc[i - 1].line;
    return n;
}

/* Copies the documents whose line is chosen (want) or is not. chosen[i]: of the i-th line that has
 * documents. */
static bool copy_lines(const struct data_set *all, const uint8_t *chosen, bool want,
                       struct data_set *s)
{
    uint32_t line = 0;
    *s = (struct data_set){ .counts = all->counts };
    s->doc = mem_alloc(all->n_doc, sizeof *s->doc);
    s->ids = mem_alloc(all->n_id, sizeof *s->ids);
    s->mask = mem_alloc(all->n_id, 1);
    if (!s->doc || !s->ids || !s->mask)
        return false;
    s->cap_doc = all->n_doc;
    s->cap_id = s->cap_mask = all->n_id;
    for (uint32_t i = 0; i < all->n_doc; i++) {
        struct data_doc d = all->doc[i];
        line += i && d.line != all->doc[i - 1].line;
        if ((chosen[line] != 0) != want)
            continue;
        memcpy(s->ids + s->n_id, all->ids + d.at, d.n * sizeof *s->ids);
        memcpy(s->mask + s->n_id, all->mask + d.at, d.n);
        d.at = s->n_id;
        s->n_id += d.n;
        s->n_counted += d.n_counted;
        s->doc[s->n_doc++] = d;
    }
    return true;
}

static bool split_off_valid(struct data *d, const char *path, const struct data_params *p,
                            struct hlm_err *err)
{
    uint32_t n = count_lines(&d->train);
    double share = p->valid >= 0 ? p->valid : n < DATA_FEW ? 0 : DATA_VALID;
    if (share <= 0 || n < 2)
        return true;
    uint32_t k = (uint32_t)(share * n + 0.5);
    k = max_u32(1, min_u32(k, n - 1));
    struct data_set all = d->train;
    uint32_t *order = mem_alloc(n, sizeof *order);
    uint8_t *chosen = mem_alloc(n, 1);
    d->train = (struct data_set){ 0 };
    bool ok = order && chosen;
    if (ok) {
        data_shuffle(order, n, p->seed, UINT64_MAX); /* no pass over the data has this number */
        for (uint32_t i = 0; i < k; i++)
            chosen[order[i]] = 1;
        ok =
            copy_lines(&all, chosen, false, &d->train) && copy_lines(&all, chosen, true, &d->valid);
        d->valid.counts = (struct data_counts){ 0 };
    }
    free(order);
    free(chosen);
    data_set_free(&all);
    return ok || fail_memory(err, "%.300s: no memory for a part of it as validation", path);
}

/* ---- all of it ------------------------------------------------------------------------------- */

void data_free(struct data *d)
{
    data_set_free(&d->train);
    data_set_free(&d->valid);
    data_set_free(&d->test);
}

/* Appends the documents of another file, whose lines are numbered after those that are there. */
static bool append_set(struct data_set *to, const struct data_set *more)
{
    uint64_t line = to->n_doc ? to->doc[to->n_doc - 1].line + 1 : 0, n_id = to->n_id + more->n_id;
    if (more->n_doc > UINT32_MAX - to->n_doc || !mem_reserve(&to->mask, n_id, &to->cap_mask, 1) ||
        !mem_reserve(&to->ids, n_id, &to->cap_id, sizeof *to->ids) ||
        !mem_reserve(&to->doc, (uint64_t)to->n_doc + more->n_doc, &to->cap_doc, sizeof *to->doc))
        return false;
    memcpy(to->ids + to->n_id, more->ids, more->n_id * sizeof *to->ids);
    memcpy(to->mask + to->n_id, more->mask, more->n_id);
    for (uint32_t i = 0; i < more->n_doc; i++) {
        struct data_doc d = more->doc[i];
        d.at += to->n_id;
        d.line += line;
        to->doc[to->n_doc++] = d;
    }
    to->n_id += more->n_id;
    to->n_counted += more->n_counted;
    return true;
}

static void add_counts(struct data_counts *to, const struct data_counts *more)
{
    to->n_line += more->n_line;
    to->n_bad += more->n_bad;
    to->n_cut += more->n_cut;
    to->n_ids_cut += more->n_ids_cut;
    to->n_dropped += more->n_dropped;
    to->n_answer += more->n_answer;
    to->n_unsaid += more->n_unsaid;
    to->longest = max_u64(to->longest, more->longest);
}

static bool load_files(struct data_set *s, const char *const *path, uint32_t n,
                       const struct data_params *p, struct hlm_err *err)
{
    bool ok = load_file(s, path[0], p, err);
    for (uint32_t i = 1; ok && i < n; i++) {
        struct data_set more;
        ok = load_file(&more, path[i], p, err);
        if (ok && !append_set(s, &more))
            ok = fail_memory(err, "%.300s: no memory for its documents", path[i]);
        if (ok)
            add_counts(&s->counts, &more.counts);
        data_set_free(&more);
    }
    return ok;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The path of the one file in a folder that has this name and one of the endings, in new memory;
 * NULL without an error when there is none and none is needed. */
static char *find_in_folder(const char *folder, const char *name, bool must, struct hlm_err *err)
{
    static const char *const ending[] = { "jsonl", "json", "csv", "tsv" };
    uint64_t n = strlen(folder) + strlen(name) + 8;
    char *found = NULL;
    for (uint32_t i = 0; i < ARRAY_LEN(ending); i++) {
        char *file = mem_alloc(n, 1);
        struct stat st;
        if (!file) {
            fail_memory(err, "%.300s: no memory to read it", folder);
            free(found);
            return NULL;
        }
        snprintf(file, (size_t)n, "%s/%s.%s", folder, name, ending[i]);
        if (stat(file, &st) != 0) {
            free(file);
        } else if (found) {
            fail(err, "%.300s: there is also %s.%s, expected one of them", found, name, ending[i]);
            free(file);
            free(found);
            return NULL;
        } else {
            found = file;
        }
    }
    if (!found && must)
        fail_system(err, "%.300s/%s.jsonl: No such file, nor .json, .csv or .tsv", folder, name);
    return found;
}

static bool load_folder(struct data *d, const char *path, const struct data_params *p,
                        struct hlm_err *err)
{
    const struct {
        struct data_set *set;
        const char *name;
    } row[] = {
        { &d->train, "train" },
        { &d->valid, "valid" },
        { &d->test, "test" },
    };
    struct hlm_err why = { 0 };
    bool ok = true;
    for (uint32_t i = 0; ok && i < ARRAY_LEN(row); i++) {
        char *file = find_in_folder(path, row[i].name, !i, &why);
        ok = file ? load_file(row[i].set, file, p, err) : !why.kind || fail_from(err, &why, "");
        free(file);
    }
    return ok;
}

bool data_load(struct data *d, const struct data_files *f, const struct data_params *p,
               struct hlm_err *err)
{
    const char *first = f->train[0];
    *d = (struct data){ 0 };
    if (!(p->valid < 1))
        return fail(err, "%.300s: a share of %g for validation, expected less than 1", first,
                    p->valid);
    if (p->valid > 0 && f->n_valid)
        return fail(
            err, "%.300s: a share of %g for validation, expected none where there is a file of it",
            f->valid[0], p->valid);
    bool folder = false, ok = true;
    for (uint32_t i = 0; i < f->n_train; i++)
        folder = folder || is_folder(f->train[i]);
    if (folder && f->n_train + f->n_valid > 1)
        return fail(err,
                    "%.300s: a folder cannot be combined with other files, which may stand "
                    "in it as train and valid",
                    first);
    if (folder)
        ok = load_folder(d, first, p, err);
    else
        ok = load_files(&d->train, f->train, f->n_train, p, err) &&
             (f->n_valid ? load_files(&d->valid, f->valid, f->n_valid, p, err)
                         : split_off_valid(d, first, p, err));
    if (!ok)
        data_free(d);
    return ok;
}
