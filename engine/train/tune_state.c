/* tune_state: the state of a run in a file: the options of the run, its position, and all
 * parameters with their moments. Values are those on the device, because those of an adapter file
 * may not give the same bits again. Needs no device. See tune.h. */
#include "train/tune.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char state_magic[] = "hlmtrain";

static_assert(sizeof(struct tune_options) == 29 * 8, "as in the files that there are");
static_assert(sizeof(struct state_head) == 16 + 5 * 8 + 29 * 8 + 12 * 8 + 224,
              "as in the files that there are");

static const enum train_what saved_numbers[] = { TRAIN_DEVICE, TRAIN_M, TRAIN_V };
enum { N_KIND = ARRAY_LEN(saved_numbers) };

static uint64_t most_numbers(const struct state_want *w)
{
    uint64_t most = 1;
    for (uint32_t i = 0; i < w->head.n_param; i++)
        most = max_u64(most, w->param[i].n);
    return most;
}

static uint64_t state_file_bytes(const struct state_want *w)
{
    uint64_t n = sizeof w->head + w->head.n_param * sizeof *w->param + 16;
    for (uint32_t i = 0; i < w->head.n_param; i++)
        n += N_KIND * sizeof(float) * w->param[i].n;
    return n;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool put_state(struct file_out *f, struct sum *s, const void *p, uint64_t n,
                      struct hlm_err *err)
{
    sum_add(s, p, n);
    return file_out_put(f, p, n, err);
}

static bool put_all_state(struct file_out *f, struct sum *s, const struct state_want *w, float *buf,
                          struct hlm_err *err)
{
    bool ok = put_state(f, s, &w->head, sizeof w->head, err) &&
              put_state(f, s, w->param, w->head.n_param * sizeof *w->param, err);
    for (uint32_t i = 0; ok && i < w->head.n_param; i++)
        for (uint32_t k = 0; ok && k < N_KIND; k++)
            ok = w->get(w->user, saved_numbers[k], i, buf, err) &&
                 put_state(f, s, buf, w->param[i].n * sizeof *buf, err);
    return ok;
}

bool state_write(const char *path, struct state_want *w, struct hlm_err *err)
{
    float *buf = mem_alloc(most_numbers(w), sizeof *buf);
    struct sum *s = sum_begin(err);
    struct file_out *f = NULL;
    uint64_t sum[2] = { 0 };
    memcpy(w->head.magic, state_magic, sizeof w->head.magic);
    w->head.version = STATE_VERSION;
    w->head.file_bytes = state_file_bytes(w);
    bool ok = (buf && s) || fail_memory(err, "%.300s: no memory to write it", path);
    ok = ok && (f = file_out_begin(path, err)) && put_all_state(f, s, w, buf, err);
    if (s)
        sum_end(s, sum);
    ok = ok && file_out_put(f, sum, sizeof sum, err);
    if (ok)
        ok = file_out_end(f, err);
    else
        file_out_drop(f);
    free(buf);
    return ok;
}

/* ---- checking -------------------------------------------------------------------------------- */

static bool damaged(const char *path, struct hlm_err *err)
{
    return fail(err, "%.300s: is damaged: its checksum does not match", path);
}

static bool starts_alike(const char *a, const char *b, size_t n) { return !strncmp(a, b, n); }

/* A run may become longer or shorter, and its rates may change with it. The length of documents is
 * in the hash of the data. */
static bool may_change(const char *option)
{
    static const char *const names[] = { "steps", "total_steps", "warmup_steps", "warmup_from",
                                         "max_seq" };
    for (uint32_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(option, names[i]))
            return true;
    return false;
}

/* Checks that the run was begun with these options. The message names the first difference. */
static bool same_run(const char *path, const struct state_head *f, const struct state_head *w,
                     struct hlm_err *err)
{
    if (!starts_alike(f->arch, w->arch, sizeof f->arch) ||
        memcmp(f->model_hash, w->model_hash, sizeof f->model_hash))
        return fail(err,
                    "%.200s: was trained on another model: %.64s (%.32s), this one is %.64s "
                    "(%.32s)%s",
                    path, f->name, f->arch, w->name, w->arch,
                    starts_alike(f->name, w->name, sizeof f->name) ? ", another file" : "");
#define U(key)                                                                                     \
    if (!may_change(#key) && f->options.key != w->options.key)                                     \
        return fail(err, "%.200s: was begun with %s %" PRIu64 ", now it is %" PRIu64, path, #key,  \
                    f->options.key, w->options.key);
#define F(key)                                                                                     \
    if (!may_change(#key) && memcmp(&f->options.key, &w->options.key, sizeof(double)))             \
        return fail(err, "%.200s: was begun with %s %.9g, now it is %.9g", path, #key,             \
                    f->options.key, w->options.key);
    TUNE_OPTIONS(U, F)
#undef F
#undef U
    if (f->position.step > w->options.steps)
        return fail(err, "%.200s: has done %" PRIu64 " steps, expected at most %" PRIu64, path,
                    f->position.step, w->options.steps);
    return !memcmp(f->data_hash, w->data_hash, sizeof f->data_hash) ||
           fail(err,
                "%.200s: was begun with other data: its tokens, which of them count, or what "
                "validates",
                path);
}

static bool same_params(const struct file_in *f, const struct state_want *w,
                        const struct state_head *head, struct hlm_err *err)
{
    if (head->n_param != w->head.n_param)
        return fail(err, "%.200s: trains %u tensors, expected %u: it has other targets", f->path,
                    head->n_param, w->head.n_param);
    for (uint32_t i = 0; i < head->n_param; i++) {
        const struct state_param *p = &w->param[i];
        struct state_param have;
        if (!file_in_read(f, sizeof *head + i * sizeof have, &have, sizeof have, err))
            return false;
        if (!starts_alike(have.name, p->name, sizeof have.name) || have.n != p->n)
            return fail(err,
                        "%.200s: trains %.64s of %" PRIu64 " numbers, expected %.64s of %" PRIu64
                        ": it has other targets",
                        f->path, have.name, have.n, p->name, p->n);
    }
    return true;
}

static bool position_ok(const char *path, const struct state_head *h, struct hlm_err *err)
{
    const struct tune_position *p = &h->position;
    if (p->step <= h->options.steps && p->i_row <= UINT32_MAX && p->best_step <= p->step &&
        p->valid_step <= p->step && !isnan(p->best_loss) && isfinite(p->took_s))
        return true;
    return fail(err, "%.300s: is damaged: it is at step %" PRIu64 " of %" PRIu64, path, p->step,
                h->options.steps);
}

static bool check_state_sum(const struct file_in *f, uint64_t end, struct hlm_err *err)
{
    enum { PIECE = 1 << 20 };
    uint8_t *buf = mem_alloc(PIECE, 1);
    struct sum *s = sum_begin(err);
    uint64_t have[2] = { 0 }, want[2];
    bool ok = (buf && s) || fail_memory(err, "%.300s: no memory to read it", f->path);
    for (uint64_t at = 0, n; ok && at < end; at += n) {
        n = min_u64(PIECE, end - at);
        ok = file_in_read(f, at, buf, n, err);
        if (ok)
            sum_add(s, buf, n);
    }
    if (s)
        sum_end(s, have);
    free(buf);
    return ok && file_in_read(f, end, want, sizeof want, err) &&
           (!memcmp(have, want, sizeof have) || damaged(f->path, err));
}

bool state_check(const struct file_in *f, const struct state_want *w, struct state_head *head,
                 struct hlm_err *err)
{
    if (f->bytes < sizeof *head + 16)
        return fail(err, "%.300s: is not a checkpoint: %" PRIu64 " bytes, expected at least %zu",
                    f->path, f->bytes, sizeof *head + 16);
    if (!file_in_read(f, 0, head, sizeof *head, err))
        return false;
    if (memcmp(head->magic, state_magic, sizeof head->magic))
        return fail(err, "%.300s: is not a checkpoint: it does not begin with %s", f->path,
                    state_magic);
    if (head->version != STATE_VERSION)
        return fail(err, "%.300s: has format version %u, expected %d", f->path, head->version,
                    STATE_VERSION);
    if (head->file_bytes != f->bytes)
        return fail(
            err, "%.300s: has %" PRIu64 " bytes, expected %" PRIu64 ": it was cut short or damaged",
            f->path, f->bytes, head->file_bytes);
    if (!check_state_sum(f, f->bytes - 16, err) || !same_run(f->path, head, &w->head, err) ||
        !position_ok(f->path, head, err))
        return false;
    if (f->bytes < sizeof *head + head->n_param * sizeof *w->param + 16)
        return fail(err, "%.300s: is damaged: it is too short for %u tensors", f->path,
                    head->n_param);
    return same_params(f, w, head, err) &&
           (f->bytes == state_file_bytes(w) ||
            fail(err, "%.300s: is damaged: it has %" PRIu64 " bytes, expected %" PRIu64, f->path,
                 f->bytes, state_file_bytes(w)));
}

/* ---- reading --------------------------------------------------------------------------------- */

bool state_read(const struct file_in *f, const struct state_want *w, bool all, struct hlm_err *err)
{
    uint64_t at = sizeof w->head + w->head.n_param * sizeof *w->param;
    float *buf = mem_alloc(most_numbers(w), sizeof *buf);
    bool ok = buf || fail_memory(err, "%.300s: no memory to read it", f->path);
    for (uint32_t i = 0; ok && i < w->head.n_param; i++) {
        uint64_t bytes = w->param[i].n * sizeof *buf;
        for (uint32_t k = 0; ok && k < N_KIND; k++, at += bytes)
            ok = (k && !all) || (file_in_read(f, at, buf, bytes, err) &&
                                 w->put(w->user, saved_numbers[k], i, buf, err));
    }
    free(buf);
    return ok;
}
