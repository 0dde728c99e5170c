/* tune_saved: writes and resumes checkpoints, and writes the adapter.
 *
 * A checkpoint is a folder FOLDER/step-000123/ with adapter.gguf, an adapter like any other, and
 * state.bin (tune_state.c). It is written under another name, and renamed when all its files are on
 * disk. So a folder with the right name is complete. */
#include "train/tune.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADAPTER "adapter.gguf"
#define STATE "state.bin"

enum { MAX_STEP_NAME = 32 };

static void step_name(char out[MAX_STEP_NAME], uint64_t step)
{
    snprintf(out, MAX_STEP_NAME, "step-%06" PRIu64, step);
}

/* Reads step-000123 with nothing after it. */
static bool is_step_name(const char *name, uint64_t *step)
{
    char *end, same[MAX_STEP_NAME];
    if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9')
        return false;
    *step = strtoull(name + 5, &end, 10);
    step_name(same, *step);
    return !strcmp(name, same);
}

/* ---- the content of a checkpoint ------------------------------------------------------------- */

static bool get_param(void *user, enum train_what what, uint64_t i, float *to, struct hlm_err *err)
{
    hlm_tune *t = user;
    return train_get(t->trainer, what, i, to, err);
}

static bool put_param(void *user, enum train_what what, uint64_t i, const float *from,
                      struct hlm_err *err)
{
    hlm_tune *t = user;
    return train_put(t->trainer, what, i, from, err);
}

static struct tune_options options_of(const hlm_tune *t)
{
    const struct hlm_train_options *o = &t->o;
    return (struct tune_options){
        .seed = t->p.seed,
        .precision = t->f16 ? 16 : 32,
        .no_pack = t->p.no_pack,
        .max_seq = t->p.data ? t->p.read.max_seq : 0,
        .no_shuffle = !o->shuffle,
        .steps = o->steps,
        .batch_rows = o->batch_rows,
        .accumulation = o->accumulation,
        .rank = t->p.init_lora ? 0 : o->rank,
        .rslora = o->rslora,
        .train_gates = o->train_gates,
        .train_lora = o->train_lora,
        .bias_correction = o->bias_correction,
        .schedule = o->schedule,
        .warmup_steps = o->warmup_steps,
        .total_steps = o->total_steps,
        .alpha = t->p.init_lora ? 0 : o->alpha,
        .lr = o->lr,
        .peak = o->peak,
        .warmup_from = o->warmup_from,
        .final = o->final,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = o->eps,
        .weight_decay = o->weight_decay,
        .weight_decay_gates = o->weight_decay_gates,
        .clip_norm = o->clip_norm,
        .lora_dropout = o->lora_dropout,
        .mtp_factor = o->mtp_factor,
    };
}

static bool describe_state(hlm_tune *t, struct state_want *w, struct hlm_err *err)
{
    hlm *m = t->m;
    const uint64_t *hash = model_hash(m, err);
    if (!hash)
        return false;
    *w = (struct state_want){ .param = t->param, .get = get_param, .put = put_param, .user = t };
    struct state_head *h = &w->head;
    h->n_param = t->n_param;
    h->options = options_of(t);
    h->position = t->position;
    memcpy(h->model_hash, hash, sizeof h->model_hash);
    memcpy(h->data_hash, t->data_hash, sizeof h->data_hash);
    snprintf(h->arch, sizeof h->arch, "%s", m->model->arch->name);
    snprintf(h->name, sizeof h->name, "%.*s", (int)sizeof h->name - 1, m->name);
    snprintf(h->device, sizeof h->device, "%.*s", (int)sizeof h->device - 1,
             gpu_caps(m->gpu)->name);
    return true;
}

/* ---- resuming -------------------------------------------------------------------------------- */

static void note_newest(void *user, const char *name)
{
    uint64_t step, *best = user;
    if (is_step_name(name, &step) && step + 1 > *best)
        *best = step + 1;
}

bool hlm_tune_has_saved(const char *folder)
{
    uint64_t best = 0;
    return folder_is(folder) && folder_each(folder, note_newest, &best, NULL) && best;
}

static char *no_checkpoint_memory(const char *path, struct hlm_err *err)
{
    fail_memory(err, "%.300s: out of memory", path);
    return NULL;
}

/* The checkpoint at a path: the path itself, or the newest checkpoint in it. */
static char *find_checkpoint(const char *path, struct hlm_err *err)
{
    char *state = folder_path(path, STATE), *found = NULL, name[MAX_STEP_NAME];
    struct file_in f;
    uint64_t step = 0;
    if (!state)
        return no_checkpoint_memory(path, err);
    bool is = file_in_open(&f, state, NULL);
    file_in_close(&f);
    free(state);
    if (is)
        return (found = folder_path(path, "")) ? found : no_checkpoint_memory(path, err);
    if (!folder_each(path, note_newest, &step, err))
        return NULL;
    if (!step) {
        fail(err, "%.300s: there is no checkpoint in it", path);
        return NULL;
    }
    step_name(name, step - 1);
    return (found = folder_path(path, name)) ? found : no_checkpoint_memory(path, err);
}

/* Checks the state in a checkpoint, then puts all of it, or only the values, into the trainer. */
enum restore { RESTORE_NOTHING, RESTORE_VALUES, RESTORE_ALL };

static bool restore_checkpoint(hlm_tune *t, const char *folder, enum restore what,
                               struct state_head *head, struct hlm_err *err)
{
    struct state_want w;
    char *path = folder_path(folder, STATE);
    struct file_in in = { .fd = -1 };
    bool ok = path ? describe_state(t, &w, err) && file_in_open(&in, path, err) &&
                         state_check(&in, &w, head, err)
                   : no_checkpoint_memory(folder, err) != NULL;
    if (ok && what != RESTORE_NOTHING) {
        t->m->n_change++;
        t->unclear = true;
        ok = state_read(&in, &w, what == RESTORE_ALL, err);
        t->unclear = !ok;
    }
    file_in_close(&in);
    free(path);
    return ok;
}

bool tune_find(hlm_tune *t, struct hlm_err *err)
{
    const char *device = gpu_caps(t->m->gpu)->name;
    struct state_head h;
    if (!(t->from = find_checkpoint(t->p.resume, err)) ||
        !restore_checkpoint(t, t->from, RESTORE_NOTHING, &h, err))
        return false;
    if (strncmp(h.device, device, sizeof h.device - 1))
        log_msg(HLM_LOG_WARN,
                "%s: was trained on %.*s, this device is %s: the numbers will not be the same "
                "bits",
                t->from, (int)sizeof h.device, h.device, device);
    return true;
}

bool tune_resume(hlm_tune *t, struct hlm_err *err)
{
    struct state_head h;
    if (!restore_checkpoint(t, t->from, RESTORE_ALL, &h, err))
        return false;
    t->position = h.position;
    t->saved_step = h.position.step + 1;
    return true;
}

/* ---- the adapter ----------------------------------------------------------------------------- */

struct adapter_numbers {
    hlm_tune *t;
    enum train_what what;
};

static bool adapter_values(void *user, uint64_t i, float *to, struct hlm_err *err)
{
    const struct adapter_numbers *w = user;
    return train_get(w->t->trainer, w->what, i, to, err);
}

bool tune_write(hlm_tune *t, enum train_what what, const char *path, struct hlm_err *err)
{
    struct lora_tensor *list = mem_alloc(t->n_param + 1ull, sizeof *list);
    struct adapter_numbers user = { t, what };
    struct tune_past past;
    struct lora_write w = { .arch = t->m->model->arch->name,
                            .alpha = t->alpha,
                            .tensor = list,
                            .n_tensor = t->n_param,
                            .values = adapter_values,
                            .user = &user };
    if (!list)
        return no_checkpoint_memory(path, err) != NULL;
    if (!tune_past(t, &past, err)) {
        free(list);
        return false;
    }
    w.text = past.text;
    w.n_text = past.n;
    for (uint32_t i = 0; i < t->n_param; i++) {
        struct train_param p = train_param(t->trainer, i);
        list[i] = (struct lora_tensor){ .name = t->param[i].name, .n_dim = p.n_dim };
        for (uint32_t k = 0; k < 3; k++)
            list[i].dim[k] = k < p.n_dim ? p.dim[k] : 1;
    }
    bool ok = lora_write(path, &w, err);
    free(list);
    return ok;
}

bool hlm_tune_write(hlm_tune *t, const char *path, struct hlm_err *err)
{
    api_begin(&t->m->log, err);
    return tune_sound(t, err) && tune_write(t, TRAIN_VALUE, path, err);
}

/* ---- saving ---------------------------------------------------------------------------------- */

/* The steps of the checkpoints in a folder. Removes what killed runs have left there. */
struct listing {
    const char *folder;
    uint64_t *step, n, cap;
    bool full;
};

static void list_step(void *user, const char *name)
{
    struct listing *l = user;
    uint64_t step;
    size_t n = strlen(name);
    if (n > 4 && !strncmp(name, "step-", 5) && !strcmp(name + n - 4, ".tmp")) {
        char *path = folder_path(l->folder, name);
        if (path)
            folder_remove(path);
        free(path);
        return;
    }
    if (!is_step_name(name, &step))
        return;
    if (mem_reserve(&l->step, l->n + 1, &l->cap, sizeof *l->step))
        l->step[l->n++] = step;
    else
        l->full = true;
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

bool hlm_tune_remove_saved(const char *folder, struct hlm_err *err)
{
    struct listing l = { .folder = folder };
    api_begin(NULL, err);
    bool ok = folder_each(folder, list_step, &l, err) &&
              (!l.full || fail_memory(err, "%.300s: out of memory", folder));
    for (uint64_t i = 0; ok && i < l.n; i++) {
        char name[MAX_STEP_NAME], *path;
        step_name(name, l.step[i]);
        ok = (path = folder_path(folder, name)) || no_checkpoint_memory(folder, err);
        if (ok)
            folder_remove(path);
        free(path);
    }
    free(l.step);
    return ok &&
           (!hlm_tune_has_saved(folder) ||
            fail_as(err, HLM_ERR_SYSTEM, "%.300s: its checkpoints cannot be removed", folder));
}

/* Removes the checkpoints up to this step, except the newest `keep` and the best. Those of later
 * steps stay: they are from before the run was set back, and it will replace them. */
static void remove_old(const hlm_tune *t, const char *folder, uint32_t keep)
{
    struct listing l = { .folder = folder };
    uint32_t n = 0;
    if (!folder_each(folder, list_step, &l, NULL) || l.full)
        l.n = 0;
    qsort(l.step, l.n, sizeof *l.step, newest_first);
    for (uint64_t i = 0; i < l.n; i++) {
        char name[MAX_STEP_NAME], *path;
        if (l.step[i] > t->position.step || n++ < max_u32(keep, 1) ||
            (t->position.best_step && l.step[i] == t->position.best_step))
            continue;
        step_name(name, l.step[i]);
        if ((path = folder_path(folder, name)))
            folder_remove(path);
        free(path);
    }
    free(l.step);
}

static bool save_into(hlm_tune *t, const char *folder, struct hlm_err *err)
{
    char *adapter = folder_path(folder, ADAPTER), *state = folder_path(folder, STATE);
    struct state_want w;
    bool ok = (adapter && state) || no_checkpoint_memory(folder, err);
    ok = ok && tune_write(t, TRAIN_VALUE, adapter, err) && describe_state(t, &w, err) &&
         state_write(state, &w, err);
    free(adapter);
    free(state);
    return ok;
}

bool hlm_tune_save(hlm_tune *t, const char *folder, uint32_t keep, struct hlm_err *err)
{
    char name[MAX_STEP_NAME], *path;
    struct folder_out f = { 0 };
    api_begin(&t->m->log, err);
    if (!tune_may_step(t, err)) /* steps must be able to go on from a checkpoint */
        return false;
    step_name(name, t->position.step);
    if (!(path = folder_path(folder, name)))
        return no_checkpoint_memory(folder, err) != NULL;
    bool ok = folder_make(folder, err) && folder_begin(&f, path, err) && save_into(t, f.tmp, err);
    if (ok && folder_is(path))
        folder_remove(path); /* the same step, from before the run was set back */
    if (ok)
        ok = folder_end(&f, err);
    else
        folder_drop(&f);
    free(path);
    if (!ok)
        return false;
    t->saved_step = t->position.step + 1;
    count_saved(t->m, t->position.step);
    remove_old(t, folder, keep);
    return true;
}

bool hlm_tune_is_saved(const hlm_tune *t) { return t->saved_step == t->position.step + 1; }

bool hlm_tune_take_best(hlm_tune *t, const char *folder, bool *found, struct hlm_err *err)
{
    const struct tune_position *p = &t->position;
    char name[MAX_STEP_NAME], *path;
    struct state_head h;
    api_begin(&t->m->log, err);
    *found = false;
    if (!tune_begun(t, err))
        return false;
    if (!(p->best_loss < (double)INFINITY))
        return true; /* nothing was validated */
    if ((*found = p->best_step == p->step && !t->unclear))
        return true;
    step_name(name, p->best_step);
    if (!(path = folder_path(folder, name)))
        return no_checkpoint_memory(folder, err) != NULL;
    bool ok = true;
    if (folder_is(path)) {
        ok = *found = restore_checkpoint(t, path, RESTORE_VALUES, &h, err);
        t->taken = t->taken || ok;
    }
    free(path);
    return ok;
}
