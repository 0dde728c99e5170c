/* tune_plot: hlm-tune plot: the losses of runs as a picture or as columns, from their logs
 * (--log-json). Lines of other kinds are passed over; lines that are cut or not as they must be are
 * counted. */
#include "tune_plot.h"
#include "common.h"
#include "common_flags.h"
#include "tune.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LOG = 16 };

static const char *out_path;

static const struct flag flags[] = {
    { FLAG_GROUP, "Plotting", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-o --out", "FILE", &out_path, 0, 0,
      "loss.png: a picture; loss.csv: all figures by step" },
};

static const struct program program = {
    .name = "hlm-tune",
    .usage = "plot LOG... -o loss.png|loss.csv [flags]; --help lists them",
    .about = "Draws the losses of runs from the logs that --log-json has written: each step\n"
             "faintly, a line through them, validations as points, and the best of these. Or\n"
             "writes all figures by step as columns.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

/* ---- the figures ----------------------------------------------------------------------------- */

/* Columns of the CSV file, from the events of steps and of validations. */
static const char
    *const step_keys[] = { "loss", "loss_main", "loss_mtp", "lr",     "grad_norm",
                           "n",    "tokens",    "epoch",    "step_s", "tokens_per_s" },
           *const valid_keys[] = { "valid_loss", "valid_loss_mtp" };
enum { N_STEP = ARRAY_LEN(step_keys), N_FIGURE = N_STEP + ARRAY_LEN(valid_keys) };

struct figures {
    double step, v[N_FIGURE]; /* NaN: there is none */
};
struct log {
    struct plot_series s;
    struct figures *row; /* in the order of the log */
    uint64_t n_row, cap_row, n_bad;
};

static bool reserve(void *array, uint64_t n, uint64_t *cap, uint64_t size)
{
    void **p = array;
    if (n <= *cap)
        return true;
    uint64_t more = 2 * *cap + 64;
    void *grown = ui_grow(*p, more, size);
    *p = grown ? grown : *p;
    *cap = grown ? more : *cap;
    return grown != NULL;
}

/* The row of a step: the last one, if it is of this step, or a new one. */
static struct figures *row_of(struct log *l, double step)
{
    if (l->n_row && !(l->row[l->n_row - 1].step < step) && !(l->row[l->n_row - 1].step > step))
        return &l->row[l->n_row - 1];
    if (!reserve(&l->row, l->n_row + 1, &l->cap_row, sizeof *l->row))
        return NULL;
    struct figures *f = &l->row[l->n_row++];
    f->step = step;
    for (uint32_t i = 0; i < N_FIGURE; i++)
        f->v[i] = NAN;
    return f;
}

static void take_figures(const json_t *j, const char *const *key, uint32_t n, double *to)
{
    for (uint32_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(j, key[i]);
        if (json_is_number(v))
            to[i] = json_number_value(v);
    }
}

static bool add_point(struct plot_point **p, uint64_t *n, uint64_t *cap, double step, double loss)
{
    if (!reserve(p, *n + 1, cap, sizeof **p))
        return false;
    (*p)[(*n)++] = (struct plot_point){ step, loss };
    return true;
}

/* False without memory. */
static bool take_event(struct log *l, const json_t *j)
{
    const char *event = json_string_value(json_object_get(j, "event"));
    bool step = event && !strcmp(event, "step"), valid = event && !strcmp(event, "valid");
    const json_t *at = json_object_get(j, "step"),
                 *loss = json_object_get(j, step ? "loss" : "valid_loss");
    double x = json_number_value(at), y = json_number_value(loss);
    l->n_bad += !event;
    if (!step && !valid)
        return true;
    if (!json_is_number(at) || !json_is_number(loss) || !(x >= 0 && x < 1e15) || !isfinite(y)) {
        l->n_bad++;
        return true;
    }
    struct figures *f = row_of(l, x);
    if (!f)
        return false;
    take_figures(j, step ? step_keys : valid_keys, step ? N_STEP : N_FIGURE - N_STEP,
                 f->v + (step ? 0 : N_STEP));
    struct plot_series *s = &l->s;
    return step ? add_point(&s->train, &s->n_train, &s->cap_train, x, y)
                : add_point(&s->valid, &s->n_valid, &s->cap_valid, x, y);
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void log_free(struct log *l)
{
    free(l->s.train);
    free(l->s.valid);
    free(l->row);
    *l = (struct log){ 0 };
}

static bool read_log(struct log *l, const char *path, struct hlm_err *err)
{
    uint64_t n = 0;
    char *text = ui_read_file(path, UINT64_MAX / 4, &n, err), *at = text;
    bool ok = text != NULL;
    *l = (struct log){ .s = { .name = file_name(path) } };
    while (ok && at < text + n) {
        char *end = memchr(at, '\n', (size_t)(text + n - at));
        end = end ? end : text + n;
        json_t *j = end > at ? json_loadb(at, (size_t)(end - at), 0, NULL) : NULL;
        if (j)
            ok = take_event(l, j) || ui_fail_memory(err, "%.300s: no memory for its figures", path);
        else
            l->n_bad += end > at;
        json_decref(j);
        at = end + 1;
    }
    free(text);
    if (ok && l->n_bad)
        ui_warn("%s: %llu line%s skipped: cut off, or no event of a run", path,
                (unsigned long long)l->n_bad, ui_s(l->n_bad));
    return ok && (l->n_row || ui_fail(err,
                                      "%.300s: no loss is in it, expected a log that hlm-tune "
                                      "wrote with --log-json",
                                      path));
}

/* ---- columns --------------------------------------------------------------------------------- */

static bool put(struct ui_bytes *b, const char *s) { return ui_add(b, s, strlen(s)); }

static bool put_figure(struct ui_bytes *b, double v)
{
    char s[40] = ",";
    if (!isnan(v))
        snprintf(s, sizeof s, ",%.9g", v);
    return put(b, s);
}

/* A name as a field: in quotes if it needs them. */
static bool put_name(struct ui_bytes *b, const char *s)
{
    if (!s[strcspn(s, ",\"\r\n")])
        return put(b, s);
    bool ok = put(b, "\"");
    for (; ok && *s; s++)
        ok = (*s != '"' || put(b, "\"")) && ui_add(b, s, 1);
    return ok && put(b, "\"");
}

static bool columns(const struct log *l, uint32_t n, struct ui_bytes *b)
{
    bool ok = put(b, UI_FIGURES_MARK);
    for (uint32_t k = 0; ok && k < N_FIGURE; k++)
        ok = put(b, ",") && put(b, k < N_STEP ? step_keys[k] : valid_keys[k - N_STEP]);
    ok = ok && put(b, "\n");
    for (uint32_t i = 0; ok && i < n; i++)
        for (uint64_t r = 0; ok && r < l[i].n_row; r++) {
            ok = put_name(b, l[i].s.name) && put_figure(b, l[i].row[r].step);
            for (uint32_t k = 0; ok && k < N_FIGURE; k++)
                ok = put_figure(b, l[i].row[r].v[k]);
            ok = ok && put(b, "\n");
        }
    return ok;
}

/* ---- the command ----------------------------------------------------------------------------- */

static bool make(const struct log *l, uint32_t n, bool picture, struct ui_bytes *b,
                 struct hlm_err *err)
{
    struct plot_series s[MAX_LOG];
    uint64_t n_bytes = 0;
    if (!picture)
        return columns(l, n, b) || ui_fail_memory(err, "out of memory for the figures");
    for (uint32_t i = 0; i < n; i++)
        s[i] = l[i].s;
    b->s = (char *)plot_draw(s, n, &n_bytes, err);
    b->n = (size_t)n_bytes;
    return b->s != NULL;
}

static bool plot(char *const *path, uint32_t n, bool picture, struct hlm_err *err)
{
    struct log l[MAX_LOG] = { 0 };
    struct ui_bytes b = { 0 };
    bool ok = true;
    for (uint32_t i = 0; ok && i < n; i++)
        ok = read_log(&l[i], path[i], err);
    ok = ok && make(l, n, picture, &b, err) && ui_replace_file(out_path, 0666, b.s, b.n, err);
    for (uint32_t i = 0; ok && i < n; i++) {
        ui_note("%s: %llu step%s, %llu validation%s of %s", out_path,
                (unsigned long long)l[i].s.n_train, ui_s(l[i].s.n_train),
                (unsigned long long)l[i].s.n_valid, ui_s(l[i].s.n_valid), path[i]);
        ui_event("plotted", "{s:s, s:s, s:I, s:I, s:I}", "path", out_path, "log", path[i], "steps",
                 (json_int_t)l[i].s.n_train, "validations", (json_int_t)l[i].s.n_valid, "skipped",
                 (json_int_t)l[i].n_bad);
    }
    ui_bytes_free(&b);
    for (uint32_t i = 0; i < n; i++)
        log_free(&l[i]);
    return ok;
}

int tune_plot(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc, n = 0;
    while (1 + n < argc && argv[1 + n][0] != '-')
        n++;
    if (!flags_read(&program, argc - n, argv + n, &rc))
        return rc;
    if (!n)
        return ui_end(usage_error(&program, "no log: give the files that --log-json has written"));
    if (n > MAX_LOG)
        return ui_end(usage_error(&program, "%d logs, expected at most %d", n, MAX_LOG));
    if (!out_path)
        return ui_end(usage_error(&program, "no output: give a file with -o FILE"));
    bool picture = ui_ends_with(out_path, ".png");
    if (!picture && !ui_ends_with(out_path, ".csv"))
        return ui_end(
            usage_error(&program, "-o %s: expected a name that ends in .png or .csv", out_path));
    if (!ui_may_write(out_path, picture ? FILE_PLOT : FILE_FIGURES))
        return ui_end(RC_USAGE);
    return ui_end(plot(argv + 1, (uint32_t)n, picture, &err) ? RC_OK : ui_failed(&err));
}
