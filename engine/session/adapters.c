/* adapters: see adapters.h. */
#include "session/open.h"

bool adapters_set(hlm *m, struct lora_file **file, uint32_t n, bool train, struct hlm_err *err)
{
    struct lora_base *base = &m->model->base;
    struct lora_set *set = n ? lora_set_create(m->gpu, base, file, n, train, err) : NULL;
    if (n && !set)
        return false;
    bool ok = lora_set_use(set, m->gpu, base, err);
    if (!ok) { /* nothing is in force any more */
        lora_set_destroy(set);
        set = NULL;
    }
    lora_set_destroy(m->adapters.set);
    m->adapters = (struct adapters){ .set = set, .hash = lora_set_hash(set) };
    return ok;
}

bool adapters_upload(hlm *m, struct hlm_err *err)
{
    struct lora_set *set = m->adapters.set;
    return !set ||
           (lora_set_upload(set, m->gpu, err) && lora_set_use(set, m->gpu, &m->model->base, err));
}

bool adapters_clear(hlm *m, struct hlm_err *err)
{
    lora_copy_free(m->asked_lora, m->n_asked_lora);
    m->asked_lora = NULL;
    m->n_asked_lora = 0;
    return adapters_set(m, NULL, 0, false, err);
}

bool adapters_identity(const hlm *m, const char *path, struct lora_hash *hash, struct hlm_err *err)
{
    *hash = m->adapters.hash;
    return !m->tune || fail_as(err, HLM_ERR_STATE,
                               "%.200s: sessions are neither saved nor loaded while the model is "
                               "trained: every step changes its adapters or gates",
                               path);
}
