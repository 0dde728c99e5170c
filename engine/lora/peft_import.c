/* peft_import: an adapter of Hugging Face's PEFT as a GGUF file; see peft.h.
 *
 * peft_map.c lists the modules that the checkpoint of the model has. Those of the folder are found
 * among them, and their numbers are brought into the order of the GGUF file. A matrix of the model
 * may have the factors of two modules, and a module may reach two matrices. */
#include "lora/lora_make.h"
#include "lora/peft_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A module of the folder. */
struct source {
    char *name; /* without base_model.model. */
    struct st_found a, b;
    bool has_a, has_b, used;
    double scale;
};

/* What the adapter has for one tensor of the base: the factors of modules whose tensor it is as a
 * whole or as the upper half, then those of the lower half. */
struct target {
    uint32_t rank[2];
    double scale; /* of its first module */
};

struct import {
    struct peft p;
    const struct hlm_peft_import_params *params;
    struct hlm_err *err;
    struct peft_config config;
    struct st_in st;
    struct source *source;
    uint64_t n_source, cap_source;
    struct source **of;    /* by module of p: NULL: it has no adapter */
    struct target *target; /* by tensor of the base */
    struct lora_tensor *tensor;
    const struct gguf_tensor **base; /* by tensor of the adapter */
    char (*name)[80];
    uint64_t n_tensor, done, total;
    float alpha;
};

static bool import_no_memory(struct import *m)
{
    return fail_memory(m->err, "%.300s: out of memory", m->params->folder);
}

/* ---- the folder's tensors -------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct source *)a)->name, ((const struct source *)b)->name);
}

/* The name of a module in a tensor's name, and which of its factors that is. False: it is none. */
static bool split_factor(const char *name, size_t *from, size_t *n, bool *is_a)
{
    static const struct {
        const char *tail;
        bool a;
    } row[] = { { ".lora_A.weight", true },
                { ".lora_B.weight", false },
                { ".lora_A.default.weight", true },
                { ".lora_B.default.weight", false } };
    static const char begins[] = "base_model.model.";
    *from = strncmp(name, begins, strlen(begins)) ? 0 : strlen(begins);
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        if (ends_with(name, row[i].tail) && strlen(name) > *from + strlen(row[i].tail)) {
            *n = strlen(name) - *from - strlen(row[i].tail);
            *is_a = row[i].a;
            return true;
        }
    return false;
}

static bool refuse_tensor(struct import *m, const char *name)
{
    struct shown shown = show_text(name, strlen(name), 160);
    if (strstr(name, "lora_magnitude_vector"))
        return fail_as(m->err, HLM_ERR_UNSUPPORTED,
                       "%.300s: %s belongs to DoRA, which hlm cannot do", m->st.path, shown.s);
    if (strstr(name, "lora_embedding_"))
        return fail_as(m->err, HLM_ERR_UNSUPPORTED, "%.300s: %s: hlm has no adapters of embeddings",
                       m->st.path, shown.s);
    if (strstr(name, "lora_B.bias"))
        return fail_as(m->err, HLM_ERR_UNSUPPORTED,
                       "%.300s: %s: hlm has no adapters with biases (lora_bias)", m->st.path,
                       shown.s);
    return fail_as(m->err, HLM_ERR_UNSUPPORTED,
                   "%.300s: %s: expected a name that ends in lora_A.weight or lora_B.weight",
                   m->st.path, shown.s);
}

static bool take_factor(struct import *m, const char *name)
{
    size_t from, n;
    bool is_a;
    if (!split_factor(name, &from, &n, &is_a))
        return refuse_tensor(m, name);
    if (!mem_reserve(&m->source, m->n_source + 1, &m->cap_source, sizeof *m->source))
        return import_no_memory(m);
    struct source *s = &m->source[m->n_source];
    *s = (struct source){ .name = mem_text(name + from, n), .has_a = is_a, .has_b = !is_a };
    if (!s->name)
        return import_no_memory(m);
    m->n_source++;
    return st_find(&m->st, name, is_a ? &s->a : &s->b, m->err);
}

/* Makes one module of its two factors, which have the same name. */
static bool join_factors(struct import *m)
{
    uint64_t n = 0;
    qsort(m->source, m->n_source, sizeof *m->source, by_name);
    for (uint64_t i = 0; i < m->n_source; i++) {
        struct source *s = &m->source[i], *last = n ? &m->source[n - 1] : NULL;
        if (!last || strcmp(last->name, s->name)) {
            struct source own = *s;
            s->name = NULL;
            m->source[n++] = own;
        } else if ((last->has_a && s->has_a) || (last->has_b && s->has_b)) {
            return fail(m->err, "%.300s: %s has two factors of one name", m->st.path,
                        show_text(s->name, strlen(s->name), 160).s);
        } else {
            *(s->has_a ? &last->a : &last->b) = s->has_a ? s->a : s->b;
            last->has_a = last->has_b = true;
            free(s->name);
            s->name = NULL;
        }
    }
    m->n_source = n;
    return true;
}

static bool check_source(struct import *m, struct source *s)
{
    struct shown name = show_text(s->name, strlen(s->name), 160);
    if (!s->has_a || !s->has_b)
        return fail(m->err, "%.300s: %s has no lora_%c", m->st.path, name.s, s->has_a ? 'B' : 'A');
    if (s->a.shape[0] != s->b.shape[1] || s->a.shape[0] > MAX_RANK)
        return fail(m->err,
                    "%.300s: the ranks of %s are %" PRIu64 " in A and %" PRIu64
                    " in B, expected one from 1 to %d",
                    m->st.path, name.s, s->a.shape[0], s->b.shape[1], MAX_RANK);
    return peft_config_scale(&m->config, s->name, s->a.shape[0], &s->scale, m->err);
}

static bool read_sources(struct import *m)
{
    const char *key;
    json_t *v;
    json_object_foreach(m->st.head, key, v)
    {
        if (strcmp(key, "__metadata__") && !take_factor(m, key))
            return false;
    }
    if (!m->n_source)
        return fail(m->err, "%.300s: there is no adapter in it", m->st.path);
    bool ok = join_factors(m);
    for (uint64_t i = 0; ok && i < m->n_source; i++)
        ok = check_source(m, &m->source[i]);
    return ok;
}

/* ---- matching -------------------------------------------------------------------------------- */

/* Fills the lists of peft with every matrix of the base, so that it maps all modules there are. */
static bool all_modules(struct import *m)
{
    struct peft *p = &m->p;
    uint64_t n = gguf_n_tensor(p->file);
    uint8_t *use = lora_base_uses(&p->fb.base);
    struct lora_file *all = mem_alloc(1, sizeof *all);
    p->lora = all;
    if (!use || !all || !(all->pair = mem_alloc(n + 1, sizeof *all->pair))) {
        free(use);
        return import_no_memory(m);
    }
    for (uint64_t i = 0; i < n; i++)
        if (use[i] == IN_A_MATRIX)
            all->pair[all->n_pair++] =
                (struct lora_pair){ .x = gguf_tensor_at(p->file, i), .rank = 1 };
    free(use);
    return peft_map(p);
}

static uint32_t half_of(const struct peft_module *x) { return x->order == HF_LOWER_HALF; }

static bool take_module(struct import *m, struct peft_module *x, struct source *s)
{
    if (s->a.shape[1] != x->n_in || s->b.shape[0] != x->n_out)
        return fail(m->err,
                    "%.300s: %s is for a matrix of %" PRIu64 " x %" PRIu64
                    ", in the model it is %" PRIu64 " x %" PRIu64,
                    m->st.path, x->name, s->a.shape[1], s->b.shape[0], x->n_in, x->n_out);
    s->used = true;
    x->rank = (uint32_t)s->a.shape[0];
    for (uint32_t k = 0; k < 2 && x->x[k]; k++) {
        struct target *t = &m->target[x->x[k]->index];
        uint32_t *rank = &t->rank[half_of(x)];
        if (!t->rank[0] && !t->rank[1])
            t->scale = s->scale;
        *rank = max_u32(*rank, x->rank);
    }
    return true;
}

static bool match_modules(struct import *m)
{
    m->of = mem_alloc(m->p.n_module + 1, sizeof *m->of);
    m->target = mem_alloc(gguf_n_tensor(m->p.file) + 1, sizeof *m->target);
    if (!m->of || !m->target)
        return import_no_memory(m);
    for (uint64_t i = 0; i < m->p.n_module; i++) {
        struct source want = { .name = m->p.module[i].name };
        m->of[i] = bsearch(&want, m->source, m->n_source, sizeof want, by_name);
        if (m->of[i] && !take_module(m, &m->p.module[i], m->of[i]))
            return false;
    }
    for (struct source *s = m->source; s < m->source + m->n_source; s++)
        if (!s->used)
            return fail(m->err, "%.300s: %s: the model has no such matrix", m->st.path,
                        show_text(s->name, strlen(s->name), 160).s);
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool list_tensors(struct import *m)
{
    uint64_t n = gguf_n_tensor(m->p.file);
    m->tensor = mem_alloc(2 * n + 1, sizeof *m->tensor);
    m->base = mem_alloc(2 * n + 1, sizeof *m->base);
    m->name = mem_alloc(2 * n + 1, sizeof *m->name);
    if (!m->tensor || !m->base || !m->name)
        return import_no_memory(m);
    for (uint64_t i = 0; i < n; i++) {
        const struct gguf_tensor *x = gguf_tensor_at(m->p.file, i);
        uint32_t r = m->target[i].rank[0] + m->target[i].rank[1];
        if (r > MAX_RANK)
            return fail(m->err, "%.300s: a rank of %u for %s, expected at most %d", m->st.path, r,
                        x->name, MAX_RANK);
        for (uint32_t b = 0; r && b < 2; b++) {
            snprintf(m->name[m->n_tensor], sizeof *m->name, "%s.lora_%c", x->name, b ? 'b' : 'a');
            m->base[m->n_tensor] = x;
            m->tensor[m->n_tensor] = (struct lora_tensor){
                .name = m->name[m->n_tensor],
                .n_dim = x->dim[2] > 1 ? 3 : 2,
                .dim = { b ? r : (uint32_t)x->dim[0], b ? (uint32_t)x->dim[1] : r,
                         (uint32_t)x->dim[2] },
            };
            m->n_tensor++;
            m->total += (uint64_t)r * x->dim[b] * x->dim[2] * sizeof(float);
        }
        if (r && m->alpha == 0) /* most adapters have one scale: then no number is changed */
            m->alpha = (float)(m->target[i].scale * r);
    }
    return true;
}

/* Puts the factor of one module into that of a tensor: A or B of `rank` in all, from column or row
 * `first` of it on. */
static void put_a(const struct import *m, const struct peft_module *x, const float *from,
                  uint32_t rank, uint32_t first, float *to)
{
    to += ((uint64_t)x->expert * rank + first) * x->n_in;
    for (uint32_t r = 0; r < x->rank; r++)
        for (uint64_t c = 0; c < x->n_in; c++)
            to[r * x->n_in + peft_column(&m->p, x, c)] = from[r * x->n_in + c];
}

static void put_b(const struct import *m, const struct peft_module *x, uint32_t which,
                  const float *from, uint32_t rank, uint32_t first, double fold, float *to)
{
    uint64_t row;
    to += (uint64_t)x->expert * x->x[which]->dim[1] * rank + first;
    for (uint64_t o = 0; o < x->n_out; o++)
        if (peft_row(&m->p, x, o, &row) == which)
            for (uint32_t j = 0; j < x->rank; j++)
                to[row * rank + j] = (float)((double)from[o * x->rank + j] * fold);
}

static bool put_module(struct import *m, uint64_t i, uint32_t which, bool is_b, float *to)
{
    const struct peft_module *x = &m->p.module[i];
    const struct source *s = m->of[i];
    const struct st_found *t = is_b ? &s->b : &s->a;
    const struct target *all = &m->target[x->x[which]->index];
    uint32_t rank = all->rank[0] + all->rank[1], first = half_of(x) ? all->rank[0] : 0;
    double fold = s->scale * rank / (double)m->alpha;
    float *from = mem_alloc(t->n, sizeof *from);
    if (!from)
        return import_no_memory(m);
    bool ok = st_read(&m->st, t, from, m->err);
    if (ok && !all_finite(from, t->n))
        ok = fail(m->err, "%.300s: %s: lora_%c has a number that is not finite", m->st.path,
                  x->name, is_b ? 'B' : 'A');
    if (ok && is_b)
        put_b(m, x, which, from, rank, first, fabs(fold - 1) < 1e-6 ? 1 : fold, to);
    else if (ok)
        put_a(m, x, from, rank, first, to);
    free(from);
    return ok;
}

static bool import_values(void *user, uint64_t i, float *to, struct hlm_err *err)
{
    struct import *m = user;
    const struct lora_tensor *t = &m->tensor[i];
    uint64_t n = (uint64_t)t->dim[0] * t->dim[1] * t->dim[2];
    bool is_b = ends_with(t->name, ".lora_b"), ok = true;
    (void)err; /* is m->err */
    memset(to, 0, n * sizeof *to);
    for (uint64_t k = 0; ok && k < m->p.n_module; k++)
        for (uint32_t which = 0; ok && m->of[k] && which < 2; which++)
            if (m->p.module[k].x[which] == m->base[i])
                ok = put_module(m, k, which, is_b, to);
    m->done += n * sizeof *to;
    bool on = !m->params->progress || m->params->progress(m->params->user, m->done, m->total);
    log_to(&m->params->log);
    return ok && (on || fail_stopped(m->err));
}

static bool write_import(struct import *m)
{
    const char *base =
        json_string_value(json_object_get(m->config.root, "base_model_name_or_path"));
    struct lora_text text[2];
    uint32_t n = 0;
    if (base && *base)
        text[n++] = (struct lora_text){ "general.base_model.0.name", base };
    if (m->config.rslora)
        text[n++] = (struct lora_text){ lora_past_key(LORA_SCALING), LORA_RSLORA };
    struct lora_write w = { .arch = m->p.fb.arch,
                            .alpha = m->alpha,
                            .tensor = m->tensor,
                            .n_tensor = m->n_tensor,
                            .values = import_values,
                            .user = m,
                            .text = text,
                            .n_text = n };
    return lora_write(m->params->out, &w, m->err);
}

/* ---- the call -------------------------------------------------------------------------------- */

static bool is_there(const char *path)
{
    struct file_in f;
    bool is = file_in_open(&f, path, NULL);
    file_in_close(&f);
    return is;
}

/* Says which of the files of an adapter is missing, and of older ones that they cannot be read. */
static bool open_folder(struct import *m, const char *config, const char *tensors,
                        const char *pickle, const char *extra)
{
    if (!peft_config_read(&m->config, config, m->err))
        return false;
    if (is_there(extra))
        log_msg(HLM_LOG_WARN, "%.300s: is not read: gates and draft blocks are left out", extra);
    if (is_there(pickle) && !is_there(tensors))
        return fail_as(m->err, HLM_ERR_UNSUPPORTED,
                       "%.300s: is a pickle, expected adapter_model.safetensors beside it", pickle);
    return st_open(&m->st, tensors, m->err);
}

static void import_end(struct import *m)
{
    st_close(&m->st);
    peft_config_free(&m->config);
    for (uint64_t i = 0; i < m->n_source; i++)
        free(m->source[i].name);
    if (m->p.lora)
        free(m->p.lora->pair);
    free(m->p.lora);
    free(m->p.module);
    lora_file_base_free(&m->p.fb);
    gguf_close(m->p.file);
    void *all[] = { m->source, m->of, m->target, m->tensor, m->base, m->name };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

bool hlm_peft_import(const struct hlm_peft_import_params *params, struct hlm_peft_sum *sum,
                     struct hlm_err *err)
{
    struct hlm_err own = { 0 };
    struct hlm_peft_params names = { .out = params->folder };
    err = err ? err : &own;
    api_begin(&params->log, err);
    struct import m = { .params = params,
                        .err = err,
                        .p = { .params = &names, .err = err, .any_name = true, .alpha = 1 },
                        .st = { .f = { .fd = -1 } } };
    char *config = folder_path(params->folder, "adapter_config.json"),
         *tensors = folder_path(params->folder, "adapter_model.safetensors"),
         *pickle = folder_path(params->folder, "adapter_model.bin"),
         *extra = folder_path(params->folder, "hlm_extra.safetensors");
    bool ok = (config && tensors && pickle && extra) || import_no_memory(&m);
    ok = ok && open_folder(&m, config, tensors, pickle, extra) && read_sources(&m) &&
         (m.p.file = gguf_open(params->model, err)) && lora_file_base(&m.p.fb, m.p.file, err) &&
         all_modules(&m) && match_modules(&m) && list_tensors(&m) && write_import(&m);
    if (ok && sum)
        *sum = (struct hlm_peft_sum){ .n_module = m.n_source, .bytes = m.total };
    import_end(&m);
    free(config);
    free(tensors);
    free(pickle);
    free(extra);
    return ok;
}
