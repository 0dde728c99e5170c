/* tune_past: what an adapter says of the run that made it, as texts of its metadata. See
 * hlm_train.h; hlm_adapter_read reads them. */
#include "train/tune.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(struct tune_past *p, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void add(struct tune_past *p, const char *key, const char *fmt, ...)
{
    HLM_ASSERT(p->n < TUNE_PAST);
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

/* Two halves as the file's identity is printed elsewhere. */
static void add_hash(struct tune_past *p, const char *key, const uint64_t hash[2])
{
    add(p, key, "%016" PRIx64 "%016" PRIx64, hash[0], hash[1]);
}

bool tune_past(hlm_tune *t, struct tune_past *p, struct hlm_err *err)
{
    const struct tune_position *at = &t->position;
    hlm *m = t->m;
    if (!m->hashed && !gguf_hash(m->file, m->hash, err))
        return false;
    m->hashed = true;
    p->n = 0;
    if (m->name[0])
        add(p, "general.base_model.0.name", "%s", m->name);
    add_hash(p, LORA_BASE_HASH, m->hash);
    add(p, "hlm.train.data", "%s", file_name(t->p.data ? t->p.data : t->p.ids_json));
    add_hash(p, "hlm.train.data_hash", t->data_hash);
    add(p, "hlm.train.steps", "%" PRIu64 " of %u", t->taken ? at->best_step : at->step, t->o.steps);
    if (isfinite(at->best_loss))
        add(p, "hlm.train.best_validation", "loss %.6g after step %" PRIu64, at->best_loss,
            at->best_step);
    if (isfinite(at->valid_loss))
        add(p, "hlm.train.last_validation", "loss %.6g after step %" PRIu64, at->valid_loss,
            at->valid_step);
    add(p, "hlm.version", "%s", HLM_VERSION);
    if (t->p.note)
        add(p, "hlm.train.note", "%s", t->p.note);
    return true;
}
