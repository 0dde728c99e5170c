/* data_json: writes and reads rows of ids, with the options of a run, as JSON. See data.h.
 *
 * The form is that of the reference data. It describes the documents of a row twice: by starts and
 * lengths, and by an index and a position for each slot. Reading checks that both agree. */
#include "train/data_parts.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The options: F a number, Z a number that is null in the file when it is 0, U a count, B a flag.
 */
/* clang-format off */
#define OPTIONS(F, Z, U, B)                                                                        \
    U(steps) B(shuffle) U(batch_rows) U(accumulation) F(lr) F(beta1) F(beta2) F(eps)               \
    B(bias_correction) F(weight_decay) F(weight_decay_gates) Z(clip_norm) U(rank) F(alpha)         \
    B(rslora) F(lora_dropout) B(train_lora) B(train_gates) Z(mtp_factor)
/* clang-format on */
/* The options of the schedule, except its kind. */
#define SCHEDULE(F, U) U(warmup_steps) F(warmup_from) F(peak) F(final) U(total_steps)

static const char *const schedule_names[] = { "constant", "cosine", "linear" };

struct hlm_train_options data_options_default(void)
{
    return (struct hlm_train_options){
        .run = "train",
        .steps = 1,
        .batch_rows = 1,
        .accumulation = 1,
        .lr = 1e-4,
        .peak = 1e-4,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .eps = 1e-8,
        .bias_correction = true,
        .rank = 16,
        .alpha = 32,
        .train_lora = true,
    };
}

/* ---- writing --------------------------------------------------------------------------------- */

struct json_text {
    char *text;
    uint64_t n, cap;
    bool full;
};

static void text_put_n(struct json_text *o, const char *s, uint64_t n)
{
    o->full = o->full || !mem_reserve(&o->text, o->n + n + 1, &o->cap, 1);
    if (o->full)
        return;
    memcpy(o->text + o->n, s, (size_t)n);
    o->n += n;
    o->text[o->n] = 0;
}

static void text_put(struct json_text *o, const char *s) { text_put_n(o, s, strlen(s)); }

static void text_put_num(struct json_text *o, int64_t v)
{
    char t[24];
    text_put_n(o, t, (uint64_t)snprintf(t, sizeof t, "%" PRId64, v));
}

/* Appends a jansson value and frees it. NULL: there was no memory for it. */
static void text_put_json(struct json_text *o, json_t *j)
{
    char *s = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
    if (s)
        text_put(o, s);
    o->full = o->full || !s;
    free(s);
    json_decref(j);
}

#define PUT_LIST(o, key, n, value)                                                                 \
    do {                                                                                           \
        text_put(o, key);                                                                          \
        for (uint32_t i_ = 0; i_ < (n); i_++) {                                                    \
            text_put(o, i_ ? ", " : "[");                                                          \
            text_put_num(o, (int64_t)(value)[i_]);                                                 \
        }                                                                                          \
        text_put(o, (n) ? "]" : "[]");                                                             \
    } while (0) /* the lists differ only in the type of their elements */

static void text_put_row(struct json_text *o, const struct data_row *r)
{
    PUT_LIST(o, "{\"documents\": ", r->n_doc, r->document);
    PUT_LIST(o, ",\n \"ids\": ", r->n, r->ids);
    PUT_LIST(o, ",\n \"target_mask\": ", r->n, r->mask);
    PUT_LIST(o, ",\n \"doc_index\": ", r->n, r->doc);
    PUT_LIST(o, ",\n \"positions\": ", r->n, r->pos);
    PUT_LIST(o, ",\n \"doc_starts\": ", r->n_doc, r->doc_start);
    PUT_LIST(o, ",\n \"doc_lengths\": ", r->n_doc, r->doc_len);
    text_put(o, ",\n \"padding\": ");
    text_put_num(o, r->padding);
    text_put(o, "}");
}
#undef PUT_LIST

static json_t *options_json(const struct hlm_train_options *o)
{
    json_t *j = json_object(), *s = json_object();
#define F(to, name) json_object_set_new(to, #name, json_real(o->name));
#define U(to, name) json_object_set_new(to, #name, json_integer(o->name));
#define OF(name) F(j, name)
#define OZ(name) json_object_set_new(j, #name, o->name != 0 ? json_real(o->name) : json_null());
#define OU(name) U(j, name)
#define OB(name) json_object_set_new(j, #name, json_boolean(o->name));
#define SF(name) F(s, name)
#define SU(name) U(s, name)
    json_object_set_new(j, "run", json_string(o->run));
    OPTIONS(OF, OZ, OU, OB)
    json_object_set_new(j, "optimizer", json_string("adamw"));
    json_object_set_new(s, "kind", json_string(schedule_names[o->schedule]));
    if (o->schedule == HLM_CONSTANT) {
        F(s, peak)
    } else {
        SCHEDULE(SF, SU)
    }
#undef SU
#undef SF
#undef OB
#undef OU
#undef OZ
#undef OF
#undef U
#undef F
    json_object_set_new(j, "schedule", s);
    return j;
}

char *data_dump_text(const struct data_rows *r, const struct hlm_train_options *opt,
                     const char *name, const char *kind, uint64_t *n, struct hlm_err *err)
{
    struct json_text o = { 0 };
    text_put(&o, "{\"version\": 2, \"case\": ");
    text_put_json(&o, json_string(name));
    text_put(&o, ", \"kind\": ");
    text_put_json(&o, json_string(kind));
    text_put(&o, r->packed ? ", \"packed\": true, \"row_length\": "
                           : ", \"packed\": false, \"row_length\": ");
    if (r->row_length)
        text_put_num(&o, r->row_length);
    else
        text_put(&o, "null");
    text_put(&o, ", \"pad_id\": ");
    text_put_num(&o, r->pad_id);
    text_put(&o, ", \"counted_targets\": ");
    text_put_num(&o, (int64_t)r->n_counted);
    if (opt) {
        text_put(&o, ",\n\"options\": ");
        text_put_json(&o, options_json(opt));
    }
    text_put(&o, ",\n\"rows\": [");
    for (uint32_t i = 0; i < r->n_row; i++) {
        text_put(&o, i ? ",\n" : "\n");
        text_put_row(&o, &r->row[i]);
    }
    text_put(&o, "]}\n");
    if (o.full) {
        free(o.text);
        fail_memory(err, "no memory to write %u rows as text", r->n_row);
        return NULL;
    }
    *n = o.n;
    return o.text;
}

bool data_dump(const char *path, const struct data_rows *r, const struct hlm_train_options *o,
               const char *name, const char *kind, struct hlm_err *err)
{
    uint64_t n = 0;
    char *text = data_dump_text(r, o, name, kind, &n, err);
    bool ok = text && file_write_atomic(path, text, n, err);
    free(text);
    return ok;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The place in the file, for messages: its name, and the row from 0; below 0: no row. */
struct json_source {
    const char *name;
    int64_t row;
    struct hlm_err *err;
};

static bool wrong_key(const struct json_source *in, const char *key, const char *what)
{
    if (in->row < 0)
        return fail(in->err, "%.300s: \"%s\" %s", in->name, key, what);
    return fail(in->err, "%.300s: row %" PRId64 ": \"%s\" %s", in->name, in->row + 1, key, what);
}

static bool get_u32(const struct json_source *in, const json_t *j, const char *key, uint32_t *v)
{
    const json_t *x = json_object_get(j, key);
    if (!json_is_integer(x) || json_integer_value(x) < 0 || json_integer_value(x) > UINT32_MAX)
        return wrong_key(in, key, "must be a whole number from 0 to 4294967295");
    *v = (uint32_t)json_integer_value(x);
    return true;
}

/* Reads an option. If the file does not have it, *v is unchanged. */
static bool opt_u32(const struct json_source *in, const json_t *j, const char *key, uint32_t *v)
{
    return !json_object_get(j, key) || get_u32(in, j, key, v);
}

static bool opt_bool(const struct json_source *in, const json_t *j, const char *key, bool *v)
{
    const json_t *x = json_object_get(j, key);
    if (x && !json_is_boolean(x))
        return wrong_key(in, key, "must be true or false");
    *v = x ? json_is_true(x) : *v;
    return true;
}

static bool opt_real(const struct json_source *in, const json_t *j, const char *key, bool null,
                     double *v)
{
    const json_t *x = json_object_get(j, key);
    if (x && null && json_is_null(x)) {
        *v = 0;
        return true;
    }
    if (x && (!json_is_number(x) || json_number_value(x) < 0))
        return wrong_key(in, key,
                         null ? "must be null or a number from 0" : "must be a number from 0");
    *v = x ? json_number_value(x) : *v;
    return true;
}

static bool read_schedule(const struct json_source *in, const json_t *j,
                          struct hlm_train_options *o)
{
    const char *kind = json_string_value(json_object_get(j, "kind"));
    uint32_t i = 0;
    while (kind && i < ARRAY_LEN(schedule_names) && strcmp(kind, schedule_names[i]))
        i++;
    if (!kind || i == ARRAY_LEN(schedule_names))
        return wrong_key(in, "schedule",
                         "must be an object whose kind is constant, cosine or linear");
    o->schedule = (enum hlm_schedule)i;
#define F(name)                                                                                    \
    if (!opt_real(in, j, #name, false, &o->name))                                                  \
        return false;
#define U(name)                                                                                    \
    if (!opt_u32(in, j, #name, &o->name))                                                          \
        return false;
    SCHEDULE(F, U)
#undef U
#undef F
    return true;
}

static bool read_options(const struct json_source *in, const json_t *j, struct hlm_train_options *o)
{
    const json_t *run = json_object_get(j, "run"), *opt = json_object_get(j, "optimizer"),
                 *schedule = json_object_get(j, "schedule");
    if (!json_is_object(j))
        return wrong_key(in, "options", "must be an object");
    if (run && (!json_is_string(run) || json_string_length(run) >= sizeof o->run))
        return wrong_key(in, "run", "must be a short string");
    if (run)
        snprintf(o->run, sizeof o->run, "%s", json_string_value(run));
    if (opt && (!json_is_string(opt) || strcmp(json_string_value(opt), "adamw")))
        return wrong_key(in, "optimizer", "must be \"adamw\", hlm has no other");
#define F(name)                                                                                    \
    if (!opt_real(in, j, #name, false, &o->name))                                                  \
        return false;
#define Z(name)                                                                                    \
    if (!opt_real(in, j, #name, true, &o->name))                                                   \
        return false;
#define U(name)                                                                                    \
    if (!opt_u32(in, j, #name, &o->name))                                                          \
        return false;
#define B(name)                                                                                    \
    if (!opt_bool(in, j, #name, &o->name))                                                         \
        return false;
    OPTIONS(F, Z, U, B)
#undef B
#undef U
#undef Z
#undef F
    o->peak = o->lr;
    return !schedule || read_schedule(in, schedule, o);
}

/* Reads a list of exactly n whole numbers, each from lo to hi. */
static bool is_list(const struct json_source *in, const json_t *j, const char *key, uint64_t n,
                    int64_t lo, int64_t hi)
{
    const json_t *list = json_object_get(j, key);
    char what[120];
    snprintf(what, sizeof what,
             "must be a list of %" PRIu64 " whole numbers from %" PRId64 " to %" PRId64, n, lo, hi);
    if (!json_is_array(list) || json_array_size(list) != n)
        return wrong_key(in, key, what);
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(list, i);
        if (!json_is_integer(x) || json_integer_value(x) < lo || json_integer_value(x) > hi)
            return wrong_key(in, key, what);
    }
    return true;
}

static int64_t item(const json_t *j, const char *key, uint32_t i)
{
    return json_integer_value(json_array_get(json_object_get(j, key), i));
}

/* The index and position of each slot must be those that starts and lengths give. */
static bool check_slots(const struct json_source *in, const json_t *j, const struct data_rows *rows,
                        const struct data_row *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        if (item(j, "doc_index", i) != r->doc[i])
            return wrong_key(in, "doc_index", "does not agree with doc_starts and doc_lengths");
        if (item(j, "positions", i) != r->pos[i])
            return wrong_key(in, "positions", "do not run from 0 in each document");
        if (r->mask[i] && (r->doc[i] < 0 || !r->pos[i]))
            return wrong_key(in, "target_mask", "counts padding or the first token of a document");
        if (r->doc[i] < 0 && r->ids[i] != rows->pad_id)
            return wrong_key(in, "ids", "must all be \"pad_id\" in the padding");
    }
    return true;
}

static bool read_json_row(const struct json_source *in, const json_t *j, uint32_t n_vocab,
                          struct data_rows *rows)
{
    uint64_t n = json_array_size(json_object_get(j, "ids"));
    uint64_t n_doc = json_array_size(json_object_get(j, "doc_starts"));
    uint32_t padding = 0, at = 0;
    if (!json_is_object(j))
        return fail(in->err, "%.300s: row %" PRId64 " is not an object", in->name, in->row + 1);
    if (!n || n > INT32_MAX || (rows->row_length && n != rows->row_length))
        return wrong_key(in, "ids",
                         "must be a list as long as \"row_length\", with at least one id");
    if (!n_doc || n_doc > n)
        return wrong_key(in, "doc_starts",
                         "must be a list of at least one and at most as many as ids");
    if (!is_list(in, j, "ids", n, 0, (int64_t)n_vocab - 1) ||
        !is_list(in, j, "target_mask", n, 0, 1) || !is_list(in, j, "doc_index", n, -1, INT32_MAX) ||
        !is_list(in, j, "positions", n, 0, INT32_MAX) ||
        !is_list(in, j, "doc_starts", n_doc, 0, INT32_MAX) ||
        !is_list(in, j, "doc_lengths", n_doc, 1, INT32_MAX) ||
        !is_list(in, j, "documents", n_doc, 0, INT64_MAX) || !get_u32(in, j, "padding", &padding))
        return false;
    struct data_row *r = data_rows_add(rows, (uint32_t)n, (uint32_t)n_doc);
    if (!r)
        return fail_memory(in->err, "%.300s: no memory for row %" PRId64, in->name, in->row + 1);
    for (uint32_t i = 0; i < n; i++) {
        r->ids[i] = (int32_t)item(j, "ids", i);
        r->mask[i] = (uint8_t)item(j, "target_mask", i);
    }
    for (uint32_t i = 0; i < n_doc; i++) {
        r->doc_start[i] = (uint32_t)item(j, "doc_starts", i);
        r->doc_len[i] = (uint32_t)item(j, "doc_lengths", i);
        r->document[i] = (uint64_t)item(j, "documents", i);
        if (r->doc_start[i] != at)
            return wrong_key(in, "doc_starts", "leave a gap, or \"doc_lengths\" overlap");
        if (r->doc_len[i] > n - at)
            return wrong_key(in, "doc_lengths", "add up to more than the ids of the row");
        at += r->doc_len[i];
    }
    if (padding != n - at)
        return wrong_key(in, "padding", "and \"doc_lengths\" do not add up to the row");
    data_row_finish(rows, r);
    return check_slots(in, j, rows, r);
}

static bool read_json_rows(struct json_source *in, const json_t *j, uint32_t n_vocab,
                           struct data_rows *r, struct hlm_train_options *o, bool *has)
{
    const json_t *rows = json_object_get(j, "rows"), *options = json_object_get(j, "options"),
                 *length = json_object_get(j, "row_length");
    uint32_t version = 0, pad = 0, n_counted = 0;
    if (!json_is_object(j) || !get_u32(in, j, "version", &version))
        return fail(in->err, "%.300s: expected a JSON object", in->name);
    if (version != 2)
        return wrong_key(in, "version", "must be 2");
    if (!get_u32(in, j, "pad_id", &pad) || !opt_bool(in, j, "packed", &r->packed))
        return false;
    if (pad >= n_vocab)
        return wrong_key(in, "pad_id", "is not in the vocabulary");
    r->pad_id = (int32_t)pad;
    if (length && !json_is_null(length) &&
        (!get_u32(in, j, "row_length", &r->row_length) || !r->row_length))
        return wrong_key(in, "row_length", "must be null or at least 1");
    *has = options && !json_is_null(options);
    if (*has && !read_options(in, options, o))
        return false;
    if (!json_is_array(rows) || !json_array_size(rows))
        return wrong_key(in, "rows", "must be a list of at least one row");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        in->row = (int64_t)i;
        if (!read_json_row(in, json_array_get(rows, i), n_vocab, r))
            return false;
    }
    in->row = -1;
    if (json_object_get(j, "counted_targets") &&
        (!get_u32(in, j, "counted_targets", &n_counted) || n_counted != r->n_counted))
        return wrong_key(in, "counted_targets", "is not the sum of all target_mask");
    return true;
}

bool data_read_text(const char *json, uint64_t n, const char *name, uint32_t n_vocab,
                    struct data_rows *r, struct hlm_train_options *o, bool *has,
                    struct hlm_err *err)
{
    struct json_source in = { name, -1, err };
    json_error_t e;
    json_t *j = json_loadb(json, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    *r = (struct data_rows){ 0 };
    *o = data_options_default();
    *has = false;
    bool ok = j ? read_json_rows(&in, j, n_vocab, r, o, has)
                : fail(err, "%.300s: line %d: %s", name, e.line, e.text);
    json_decref(j);
    if (!ok)
        data_rows_free(r);
    return ok;
}

bool data_read(const char *path, uint32_t n_vocab, struct data_rows *r, struct hlm_train_options *o,
               bool *has, struct hlm_err *err)
{
    uint64_t n = 0;
    char *json = file_read(path, UINT64_MAX / 4, &n, err);
    *r = (struct data_rows){ 0 };
    bool ok = json && data_read_text(json, n, path, n_vocab, r, o, has, err);
    free(json);
    return ok;
}
