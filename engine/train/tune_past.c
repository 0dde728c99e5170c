/* tune_past: what an adapter says of the run that made it, as texts of its metadata. See
 * hlm_train.h; hlm_adapter_read reads them. */
#include "train/tune.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(struct tune_past *p, const char *key, const char *fmt, ...) HLM_PRINTF(3, 4);
static void add(struct tune_past *p, const char *key, const char *fmt, ...)
{
    HLM_ASSERT(p->n < ARRAY_LEN(p->text));
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->room[p->n], sizeof p->room[0], fmt, ap);
    va_end(ap);
    p->text[p->n] = (struct lora_text){ key, p->room[p->n] };
    p->n++;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* The names of files, with commas between them. */
static const char *file_names(char *out, size_t room, const char *const *path, uint32_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < n && at < room; i++)
        at += (size_t)snprintf(out + at, room - at, "%s%s", i ? ", " : "", file_name(path[i]));
    return out;
}

static void add_files(hlm_tune *t, struct tune_past *p)
{
    char names[1024];
    struct tune_files f;
    if (t->p.ids_json) {
        add(p, lora_past_key(LORA_DATA), "%s", file_name(t->p.ids_json));
    } else if (tune_files(&t->p, &f, NULL)) {
        add(p, lora_past_key(LORA_DATA), "%s",
            file_names(names, sizeof names, f.files.train, f.files.n_train));
        if (f.files.n_valid)
            add(p, lora_past_key(LORA_VALID), "%s",
                file_names(names, sizeof names, f.files.valid, f.files.n_valid));
    }
    add(p, lora_past_key(LORA_DATA_HASH), "%s", hash_text(t->data_hash).s);
    if (t->p.init_lora)
        add(p, lora_past_key(LORA_INIT), "%s", file_name(t->p.init_lora));
}

static void add_losses(const hlm_tune *t, struct tune_past *p)
{
    const struct tune_position *at = &t->position;
    if (at->step && !t->taken)
        add(p, lora_past_key(LORA_LOSS), "%.6g in step %" PRIu64, at->loss, at->step);
    if (isfinite(at->best_loss))
        add(p, lora_past_key(LORA_BEST), "loss %.6g after step %" PRIu64, at->best_loss,
            at->best_step);
    if (isfinite(at->valid_loss))
        add(p, lora_past_key(LORA_LAST), "loss %.6g after step %" PRIu64, at->valid_loss,
            at->valid_step);
}

bool tune_past(hlm_tune *t, struct tune_past *p, struct hlm_err *err)
{
    const struct tune_position *at = &t->position;
    hlm *m = t->m;
    const uint64_t *hash = model_hash(m, err);
    if (!hash)
        return false;
    p->n = 0;
    if (m->name[0])
        add(p, "general.base_model.0.name", "%s", m->name);
    add(p, lora_past_key(LORA_BASE_HASH), "%s", hash_text(hash).s);
    if (t->rslora)
        add(p, lora_past_key(LORA_SCALING), "%s", LORA_RSLORA);
    add_files(t, p);
    add(p, lora_past_key(LORA_STEPS), "%" PRIu64 " of %u", t->taken ? at->best_step : at->step,
        t->o.steps);
    add_losses(t, p);
    add(p, lora_past_key(LORA_VERSION), "%s", HLM_VERSION);
    if (t->p.note)
        add(p, lora_past_key(LORA_NOTE), "%s", t->p.note);
    return true;
}
