/* adapters: see adapters.h. */
#include "session/open.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- in force -------------------------------------------------------------------------------- */

static void forget_asked(struct adapters_in_force *a)
{
    adapters_copy_free(a->asked, a->n_asked);
    a->asked = NULL;
    a->n_asked = 0;
}

bool adapters_set(hlm *m, struct lora_file **file, uint32_t n, bool train, struct hlm_err *err)
{
    struct lora_base *base = &m->model->base;
    struct adapters_in_force *a = &m->adapters;
    struct lora_set *set = n ? lora_set_create(m->gpu, base, file, n, train, err) : NULL;
    if (n && !set)
        return false;
    bool ok = lora_set_use(set, m->gpu, base, err);
    if (!ok) {
        lora_set_destroy(set);
        if (lora_set_use(a->set, m->gpu, base, NULL))
            return false;
        set = NULL;
    }
    lora_set_destroy(a->set);
    forget_asked(a);
    *a = (struct adapters_in_force){ .set = set, .hash = lora_set_hash(set) };
    return ok;
}

void adapters_finish(struct adapters_in_force *a)
{
    lora_set_destroy(a->set);
    forget_asked(a);
    *a = (struct adapters_in_force){ 0 };
}

bool adapters_clear(hlm *m, struct hlm_err *err)
{
    bool ok = lora_set_use(NULL, m->gpu, &m->model->base, err);
    m->n_change++;
    adapters_finish(&m->adapters);
    return ok;
}

bool adapters_upload(hlm *m, struct hlm_err *err)
{
    struct lora_set *set = m->adapters.set;
    return !set ||
           (lora_set_upload(set, m->gpu, err) && lora_set_use(set, m->gpu, &m->model->base, err));
}

bool adapters_identity(const hlm *m, const char *path, struct lora_hash *hash, struct hlm_err *err)
{
    *hash = m->adapters.hash;
    return !m->tune || fail_as(err, HLM_ERR_STATE,
                               "%.200s: sessions are neither saved nor loaded while the model is "
                               "trained: every step changes its adapters or gates",
                               path);
}

/* ---- files ----------------------------------------------------------------------------------- */

void adapters_warn_of_base(hlm *m, const struct lora_file *f)
{
    const uint64_t *hash = m->any_base ? NULL : model_hash(m, NULL);
    if (hash)
        lora_warn_of_base(lora_file_gguf(f), m->path, hash);
}

/* The files, read and checked. NULL: one of them was refused. */
static struct lora_file **read_lora(const hlm *m, const struct hlm_lora *l, uint32_t n,
                                    struct hlm_err *err)
{
    struct lora_file **file = mem_alloc(n + 1ull, sizeof *file);
    if (!file) {
        fail_memory(err, "out of memory: a list of %u adapters", n);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        file[i] = lora_file_check(gguf_open(l[i].path, err), l[i].scale, &m->model->base, err);
        if (file[i])
            continue;
        while (i > 0)
            lora_file_close(file[--i]);
        free(file);
        return NULL;
    }
    return file;
}

bool hlm_check_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    api_begin(&m->log, err);
    struct lora_file **file = read_lora(m, l, n, err);
    bool ok = file != NULL;
    for (uint32_t i = 0; ok && i < n; i++)
        lora_file_close(file[i]);
    free(file);
    return ok;
}

void adapters_copy_free(struct hlm_lora *l, uint32_t n)
{
    for (uint32_t i = 0; l && i < n; i++)
        free((void *)l[i].path);
    free(l);
}

struct hlm_lora *adapters_copy(const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    struct hlm_lora *copy = mem_alloc(n, sizeof *copy);
    bool ok = copy != NULL;
    for (uint32_t i = 0; ok && i < n; i++) {
        copy[i] = (struct hlm_lora){ mem_text(l[i].path, strlen(l[i].path)), l[i].scale };
        ok = copy[i].path != NULL;
    }
    if (ok)
        return copy;
    adapters_copy_free(copy, n);
    fail_memory(err, "out of memory: a list of %u adapters", n);
    return NULL;
}

bool adapters_change(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    if (m->n_session || m->tune)
        return fail_as(err, HLM_ERR_STATE,
                       "adapters cannot change while a session or a training is alive");
    struct hlm_lora *asked = adapters_copy(l, n, err);
    struct lora_file **file = asked ? read_lora(m, l, n, err) : NULL;
    for (uint32_t i = 0; file && i < n; i++)
        adapters_warn_of_base(m, file[i]);
    bool ok = file && adapters_set(m, file, n, false, err);
    free(file);
    if (!ok) {
        adapters_copy_free(asked, n);
        return false;
    }
    m->adapters.asked = asked;
    m->adapters.n_asked = n;
    return true;
}

bool hlm_set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    api_begin(&m->log, err);
    return adapters_change(m, l, n, err);
}
