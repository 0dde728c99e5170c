/* tune_loop: a run from its first step to the adapter on disk. See tune_run.h.
 *
 * Validation, samples and a checkpoint come in this order after the steps for which they are due,
 * so that a checkpoint has the result of the validation. A resumed run first does what was still
 * due. */
#define _POSIX_C_SOURCE 200809L
#include "common_counters.h"
#include "tune_run.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long long ull;

struct loop {
    struct tune *u;
    uint64_t n_step, valid_every, save_every;
    struct hlm_tune_step last;
    bool has_last, valid_known, stopped; /* stopped: by --patience */
    double valid, step_s;                /* step_s: the recent time of a step */
    uint64_t sampled;                    /* 1 + the step at which samples were printed */
    /* of the steps since the last permanent line: */
    double loss_sum, said_s; /* said_s: when that line was printed */
    uint64_t n_loss;
};

/* ---- progress -------------------------------------------------------------------------------- */

/* The mean loss of the steps since the last permanent line; "" without a step. */
static const char *recent_loss(struct loop *l, char out[48])
{
    out[0] = 0;
    if (l->n_loss)
        snprintf(out, 48, "loss %.4f  ", l->loss_sum / (double)l->n_loss);
    l->loss_sum = 0;
    l->n_loss = 0;
    l->said_s = ui_now_s();
    return out;
}

/* "  20 s left"; "" after the last step. */
static const char *left_text(const struct loop *l, char out[64])
{
    uint64_t n = l->n_step - l->last.step;
    out[0] = 0;
    if (n)
        snprintf(out, 64, "  %s left", span_text(l->step_s * (double)n).s);
    return out;
}

/* Where no line can be overwritten (in a file or a pipe), prints about twenty lines per run, and at
 * least one per minute. With -v each step has its own line. */
static void report_progress(struct loop *l)
{
    char loss[48], left[64];
    const struct hlm_tune_step *s = &l->last;
    bool due =
        s->step == 1 || s->step % ui_max_u64(l->n_step / 20, 1) == 0 || ui_now_s() - l->said_s > 60;
    if (ui_has_line() || ui.verbose || !due)
        return;
    ui_say("step %llu/%llu  %slr %.2e  %.0f tok/s%s", (ull)s->step, (ull)l->n_step,
           recent_loss(l, loss), s->lr, s->took_s > 0 ? (double)s->n_tok / s->took_s : 0,
           left_text(l, left));
}

static void print_step(struct loop *l)
{
    l->loss_sum += l->last.loss;
    l->n_loss++;
    const struct hlm_tune_step *s = &l->last;
    char valid[32] = "", left_s[64];
    double per_s = s->took_s > 0 ? (double)s->n_tok / s->took_s : 0;
    double left = l->step_s * (double)(l->n_step - s->step);
    if (l->valid_known)
        snprintf(valid, sizeof valid, "  valid %.4f", l->valid);
    ui_status("step %llu/%llu  loss %.4f%s  lr %.2e  norm %.3g  %.0f tok/s  %s%s", (ull)s->step,
              (ull)l->n_step, s->loss, valid, s->lr, s->grad_norm, per_s,
              num_bytes(hlm_tune_plan(l->u->t).device_bytes).s, left_text(l, left_s));
    ui_event("step", "{s:I, s:f, s:f, s:o, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:I}", "step",
             (json_int_t)s->step, "loss", s->loss, "loss_main", s->loss_main, "loss_mtp",
             s->has_mtp ? json_real(s->loss_mtp) : json_null(), "grad_norm", s->grad_norm, "lr",
             s->lr, "n", (json_int_t)s->n, "tokens", (json_int_t)s->n_tok, "epoch",
             (json_int_t)s->epoch, "step_s", s->took_s, "tokens_per_s", per_s, "left_s", left,
             "n_step", (json_int_t)l->n_step);
    report_progress(l);
}

static void print_valid(struct loop *l, const struct hlm_tune_loss *v)
{
    struct hlm_tune_info i = hlm_tune_get_info(l->u->t);
    char loss[48];
    ui_say("step %llu  %svalidation loss %.4f over %llu token%s%s", (ull)i.step,
           recent_loss(l, loss), v->main, (ull)v->n, ui_s(v->n),
           !i.step                 ? ", before training"
           : i.best_step == i.step ? ", the best"
                                   : "");
    ui_event("valid", "{s:I, s:f, s:f, s:I, s:b}", "step", (json_int_t)i.step, "valid_loss",
             v->main, "valid_loss_mtp", v->mtp, "n", (json_int_t)v->n, "best",
             (int)(i.best_step == i.step));
}

/* ---- what is due ----------------------------------------------------------------------------- */

static bool due(uint64_t step, uint64_t every, uint64_t n_step)
{
    return every && (step % every == 0 || step == n_step);
}

static bool is_stopped(struct tune *u)
{
    return u->patience && hlm_tune_get_info(u->t).n_worse >= (uint64_t)u->patience;
}

static bool has_rows(struct tune *u, enum hlm_tune_set set)
{
    return hlm_tune_set_info(u->t, set).n_row > 0;
}

static bool validate(struct loop *l, struct hlm_err *err)
{
    struct tune *u = l->u;
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    struct bar bar = { .what = "validating", .lines = true };
    struct hlm_tune_loss v;
    bool done = i.best_loss < INFINITY && i.valid_step == i.step;
    if (!has_rows(u, HLM_TUNE_VALID) || done || !due(i.step, l->valid_every, l->n_step))
        return true;
    bool ok = hlm_tune_validate(u->t, HLM_TUNE_VALID, &v, bar_progress, &bar, err);
    bar_clear();
    if (!ok)
        return false;
    l->valid = v.main;
    l->valid_known = true;
    print_valid(l, &v);
    counters_log(u->m);
    if ((l->stopped = is_stopped(u)))
        ui_say("no better validation in %d: the run ends here (--patience)", u->patience);
    return true;
}

static bool sample(struct loop *l, struct hlm_err *err)
{
    uint64_t step = hlm_tune_get_info(l->u->t).step;
    if (!l->u->samples.n || l->sampled == step + 1 || !due(step, l->valid_every, l->n_step))
        return true;
    l->sampled = step + 1;
    return print_samples(l->u, step, err);
}

static bool save(struct loop *l, struct hlm_err *err)
{
    struct tune *u = l->u;
    double t0 = ui_now_s();
    if (hlm_tune_is_saved(u->t))
        return true;
    if (!hlm_tune_save(u->t, u->folder, (uint32_t)u->keep, err))
        return false;
    uint64_t step = hlm_tune_get_info(u->t).step;
    ui_say("step %llu  checkpoint in %s", (ull)step, u->folder);
    ui_event("saved", "{s:I, s:s, s:f}", "step", (json_int_t)step, "folder", u->folder, "took_s",
             ui_now_s() - t0);
    return true;
}

/* A checkpoint that cannot be written is reported, and the run goes on with the earlier ones. */
static bool save_due(struct loop *l)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_info i = hlm_tune_get_info(l->u->t);
    bool best = i.step && i.best_loss < INFINITY && i.best_step == i.step;
    bool last = l->stopped || i.step >= l->n_step;
    bool wanted = i.step && (best || last || due(i.step, l->save_every, l->n_step));
    if (!l->u->saves || !wanted || save(l, &err))
        return true;
    ui_error("%s; earlier checkpoints are still valid", err.msg);
    return false;
}

/* ---- the end --------------------------------------------------------------------------------- */

char *best_path(const char *out)
{
    size_t n = strlen(out), size = n + 12;
    char *path = ui_alloc(size, 1);
    bool gguf = n > 5 && !strcmp(out + n - 5, ".gguf");
    if (path)
        snprintf(path, size, "%.*s-best.gguf", (int)(gguf ? n - 5 : n), out);
    return path;
}

static bool test(struct loop *l, const char *what, struct hlm_err *err)
{
    struct hlm_tune_loss v;
    struct bar bar = { .what = "testing", .lines = true };
    if (!has_rows(l->u, HLM_TUNE_TEST))
        return true;
    if (!hlm_tune_validate(l->u->t, HLM_TUNE_TEST, &v, bar_progress, &bar, err))
        return false;
    bar_clear();
    printf("test loss %.4f over %llu token%s, %s\n", v.main, (ull)v.n, ui_s(v.n), what);
    ui_event("test", "{s:f, s:f, s:I}", "test_loss", v.main, "test_loss_mtp", v.mtp, "n",
             (json_int_t)v.n);
    return true;
}

static void say_how_to_use(const struct tune *u, const char *adapter)
{
    fflush(stdout);
    ui_say("try it: hlm-chat -m %s --lora %s", u->model, adapter);
}

/* Writes the last adapter and, if there was validation, the best one. */
static bool finish(struct loop *l, struct hlm_err *err)
{
    struct tune *u = l->u;
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    bool is = false;
    if (!hlm_tune_write(u->t, u->out, err))
        return false;
    printf("%s: %llu step%s", u->out, (ull)i.step, ui_s(i.step));
    if (l->has_last)
        printf(", loss %.4f", l->last.loss);
    if (l->valid_known)
        printf(", validation loss %.4f", l->valid);
    putchar('\n');
    ui_event("written", "{s:s, s:I}", "path", u->out, "step", (json_int_t)i.step);
    if (i.n_gate)
        puts("It has gate deltas, which llama.cpp refuses. hlm-tune merge --gates-only makes a "
             "model\nand an adapter that llama.cpp loads.");
    if (!(i.best_loss < INFINITY) || !i.best_step) {
        if (i.best_loss < INFINITY)
            printf("no validation loss was below the one before training, %.4f\n", i.best_loss);
        if (!test(l, "with the last adapter", err))
            return false;
        say_how_to_use(u, u->out);
        return true;
    }
    if (!hlm_tune_take_best(u->t, u->folder, &is, err))
        return false;
    char *path = is ? best_path(u->out) : NULL;
    bool ok = !path || hlm_tune_write(u->t, path, err);
    if (ok && path) {
        printf("%s: step %llu, validation loss %.4f, the best\n", path, (ull)i.best_step,
               i.best_loss);
        ui_event("written", "{s:s, s:I, s:b}", "path", path, "step", (json_int_t)i.best_step,
                 "best", 1);
    }
    ok = ok && test(l, is ? "with the best adapter" : "with the last adapter", err);
    if (ok)
        say_how_to_use(u, path ? path : u->out);
    free(path);
    return ok;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Removes the folder of a run that has done no step. */
static void remove_folder(const char *folder)
{
    if (hlm_tune_has_saved(folder))
        return;
    again_remove(folder);
    rmdir(folder);
}

static int interrupted(struct loop *l, struct hlm_err *err)
{
    struct tune *u = l->u;
    bool any = hlm_tune_get_info(u->t).step > 0;
    if (any && !(save(l, err) && again_write(u->folder, &u->again, u->program, false, err)))
        return RC_FAILED;
    if (any)
        ui_say("hlm-tune: stopped at step %llu; --resume %s continues from there",
               (ull)hlm_tune_get_info(u->t).step, u->folder);
    else
        ui_say("hlm-tune: stopped before the first step; nothing was written");
    if (!any && u->saves)
        remove_folder(u->folder);
    return RC_INTERRUPTED;
}

static bool step(struct loop *l, struct hlm_err *err)
{
    if (!hlm_tune_do_step(l->u->t, &l->last, err))
        return false;
    /* The first step also makes pipelines, so its time does not count. */
    double took = l->last.took_s;
    l->step_s = !l->has_last || l->step_s <= 0 ? took : 0.8 * l->step_s + 0.2 * took;
    if (l->last.step <= 2)
        l->step_s = took;
    l->has_last = true;
    print_step(l);
    return true;
}

/* Makes the folder of checkpoints now, so that a failure shows before training. */
static bool make_folder(const char *path, struct hlm_err *err)
{
    struct stat st;
    return (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) || mkdir(path, 0777) == 0 ||
           ui_fail_system(err, "%.300s: cannot make the folder: %s", path, strerror(errno));
}

static bool prepare(struct loop *l, struct hlm_err *err)
{
    struct tune *u = l->u;
    const char *from = NULL;
    if (u->dump_grads)
        hlm_tune_dump_grads(u->t, u->dump_grads);
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    uint64_t tenth = ui_max_u64(i.train->steps / 10, 1);
    bool valid = has_rows(u, HLM_TUNE_VALID);
    l->n_step = i.train->steps;
    l->valid_every = u->valid_every ? (uint64_t)u->valid_every : tenth;
    l->save_every = u->save_every ? (uint64_t)u->save_every
                    : valid       ? l->valid_every
                    : i.from_ids  ? 0
                                  : tenth;
    if (u->clears) {
        ui_say("%s: removing the checkpoints of a run that has ended", u->folder);
        if (!hlm_tune_remove_saved(u->folder, err))
            return false;
    }
    if ((u->saves && !(make_folder(u->folder, err) &&
                       again_write(u->folder, &u->again, u->program, false, err))) ||
        !hlm_tune_begin(u->t, &from, err))
        return false;
    counters_log(u->m); /* with all memory that the run takes */
    i = hlm_tune_get_info(u->t);
    l->valid = i.valid_loss;
    l->valid_known = i.valid_loss < INFINITY;
    l->stopped = is_stopped(u);
    if (from)
        ui_say("continuing from %s, step %llu of %llu", from, (ull)i.step, (ull)l->n_step);
    if (u->samples.n && !(u->session = hlm_session_create(u->m, &u->session_params, err)))
        return false;
    return true;
}

int tune_loop(struct tune *u, struct hlm_err *err)
{
    struct loop l = { .u = u };
    bool saved = true;
    if (!prepare(&l, err))
        return RC_FAILED;
    ui_interrupt_twice();
    for (;;) {
        if (!ui_interrupted() && (!validate(&l, err) || !sample(&l, err)) &&
            err->kind != HLM_ERR_STOPPED)
            return RC_FAILED;
        if (ui_interrupted()) {
            *err = (struct hlm_err){ 0 };
            return interrupted(&l, err);
        }
        saved = save_due(&l);
        if (l.stopped || hlm_tune_get_info(u->t).step >= l.n_step)
            break;
        if (!step(&l, err))
            return RC_FAILED;
    }
    if (u->profile)
        ui_kernels(u->m);
    bool ok = finish(&l, err); /* even if the last checkpoint could not be written */
    ok = ok && (!u->saves || again_write(u->folder, &u->again, u->program, true, err));
    hlm_idle(u->m);
    return ok && saved ? RC_OK : RC_FAILED;
}
