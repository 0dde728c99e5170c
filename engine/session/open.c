/* open: opening a model and telling about it; sessions are in session.c. */
#include "session/open.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kind_name(enum gpu_kind k)
{
    return k == GPU_DISCRETE     ? "discrete"
           : k == GPU_INTEGRATED ? "integrated"
           : k == GPU_CPU        ? "cpu"
                                 : "other";
}

int hlm_devices(struct hlm_device *out, int max, struct hlm_err *err)
{
    struct gpu_caps caps[16];
    int n = gpu_list(caps, (int)ARRAY_LEN(caps), err);
    for (int i = 0; i < n && i < max && i < (int)ARRAY_LEN(caps); i++) {
        const struct gpu_caps *c = &caps[i];
        struct hlm_device *d = &out[i];
        *d = (struct hlm_device){ .kind = kind_name(c->kind),
                                  .heap_bytes = c->heap_bytes,
                                  .free_bytes = c->free_bytes };
        snprintf(d->name, sizeof d->name, "%.255s", c->name);
        snprintf(d->driver, sizeof d->driver, "%.255s", c->driver);
        snprintf(
            d->features, sizeof d->features, "Vulkan %u.%u, subgroup %u, shared %u KiB%s%s%s%s%s",
            c->api_version >> 22, c->api_version >> 12 & 0x3ff, c->subgroup, c->max_shared / 1024,
            c->f16 ? ", f16" : "", c->bf16_store ? ", bf16" : "", c->int_dot ? ", int8 dot" : "",
            c->coopmat ? ", coopmat" : "", c->unified ? ", unified memory" : "");
    }
    return n;
}

static char *copy_str(struct str s)
{
    char *p = mem_alloc(s.n + 1, 1);
    if (p)
        memcpy(p, s.p, s.n);
    return p;
}

/* general.name, else the file's own name. */
static char *model_name(const struct gguf *g)
{
    struct str s = { 0 };
    const char *path = gguf_path(g), *slash = strrchr(path, '/');
    if (!gguf_str(g, "general.name", OPTIONAL, &s, NULL) || !s.n)
        s = (struct str){ slash ? slash + 1 : path, strlen(slash ? slash + 1 : path) };
    return copy_str(s);
}

static bool mark_unused(hlm *m, struct hlm_err *err)
{
    uint32_t n = m->model->n_vocab;
    m->unused = mem_alloc(div_up(n, 32), 4);
    if (!m->unused)
        return fail(err, "out of memory: %u vocabulary entries", n);
    for (uint32_t i = 0; i < n; i++)
        if (m->tok && (i >= tok_n_vocab(m->tok) || tok_is_unused(m->tok, (int32_t)i)))
            m->unused[i / 32] |= 1u << i % 32;
    return true;
}

hlm *hlm_open(const struct hlm_params *params, struct hlm_err *err)
{
    hlm *m = mem_alloc(1, sizeof *m);
    struct gpu_params gp = { .device = params->device,
                             .cache_dir = params->cache_dir,
                             .validate = params->validate,
                             .profile = params->profile,
                             .memory = params->memory };
    if (!m) {
        fail(err, "out of memory");
        return NULL;
    }
    m->file = gguf_open(params->model, err);
    bool ok = m->file && model_arch(m->file, err);
    if (ok) {
        m->path = copy_str((struct str){ params->model, strlen(params->model) });
        m->name = model_name(m->file);
        m->tok = tok_create(m->file, &m->tok_err);
        if (!m->path || !m->name)
            fail(err, "out of memory");
        m->gpu = m->path && m->name ? gpu_open(&gp, err) : NULL;
        if (m->gpu) {
            m->f16 = params->f16 || (!params->exact && linear_f16_pays(gpu_caps(m->gpu)));
            count_open(m, params);
            gpu_dry(m->gpu, true);
        }
        m->model = m->gpu ? model_load(m->gpu, m->file, params->draft, err) : NULL;
        ok = m->model && mark_unused(m, err) &&
             (params->dry || hlm_load(m, params->progress, params->user, err));
    }
    if (!ok) {
        hlm_close(m);
        return NULL;
    }
    return m;
}

bool hlm_load(hlm *m, hlm_progress progress, void *user, struct hlm_err *err)
{
    if (!gpu_is_dry(m->gpu))
        return true;
    gpu_dry(m->gpu, false);
    m->counting.progress = progress;
    m->counting.progress_user = user;
    bool ok = model_upload(m->model, count_load, m, err) && adapters_upload(m, err);
    if (ok)
        hlm_idle(m);
    return ok;
}

void hlm_close(hlm *m)
{
    if (!m)
        return;
    count_close(m);
    lora_set_destroy(m->adapters.set);
    model_unload(m->model);
    gpu_close(m->gpu);
    tok_destroy(m->tok);
    gguf_close(m->file);
    free(m->path);
    free(m->name);
    free(m->unused);
    free(m);
}

struct hlm_info hlm_get_info(const hlm *m)
{
    const struct gpu_caps *caps = gpu_caps(m->gpu);
    return (struct hlm_info){
        .path = m->path,
        .arch = m->model->arch->name,
        .name = m->name,
        .device = caps->name,
        .driver = caps->driver,
        .n_layer = m->model->n_layer,
        .n_embd = m->model->n_embd,
        .n_vocab = m->model->n_vocab,
        .n_ctx_train = m->model->n_ctx_train,
        .n_param = m->model->n_param,
        .file_bytes = gguf_file_bytes(m->file),
        .weight_bytes = arena_bytes(m->model->weights),
        .memory = gpu_budget(m->gpu),
        .has_mtp = m->model->n_mtp > 0,
        .n_validation = gpu_validation_count(m->gpu),
    };
}

bool hlm_ok(const hlm *m) { return gpu_ok(m->gpu, NULL); }
void hlm_test_lose(uint64_t n) { gpu_test_lose(n); }
uint64_t hlm_allocated(const hlm *m) { return gpu_allocated(m->gpu, NULL); }
const struct gguf *hlm_file(const hlm *m) { return m->file; }
struct tok *hlm_tok(hlm *m) { return m->tok; }
const char *hlm_tok_err(const hlm *m) { return m->tok_err.msg; }

/* The adapters, read and checked; NULL when one of them is refused. */
static struct lora_file **read_lora(const hlm *m, const struct hlm_lora *l, uint32_t n,
                                    struct hlm_err *err)
{
    struct lora_file **file = mem_alloc(n + 1ull, sizeof *file);
    if (!file) {
        fail(err, "out of memory: a list of %u adapters", n);
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

bool hlm_check_lora(const hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    struct lora_file **file = read_lora(m, l, n, err);
    bool ok = file != NULL;
    for (uint32_t i = 0; ok && i < n; i++)
        lora_file_close(file[i]);
    free(file);
    return ok;
}

bool hlm_set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    if (m->n_session || m->tune)
        return fail(err, "adapters cannot change while a session or a training is alive");
    struct lora_file **file = read_lora(m, l, n, err);
    bool ok = file && adapters_set(m, file, n, false, err);
    free(file);
    return ok;
}

uint32_t hlm_kernels(hlm *m, struct hlm_kernel *out, uint32_t max)
{
    struct gpu_kernel_time t[KERNEL_COUNT + 2]; /* copies and fills too */
    uint32_t n = gpu_times(m->gpu, t, ARRAY_LEN(t));
    for (uint32_t i = 0; i < n && i < max; i++)
        out[i] = (struct hlm_kernel){
            .name = t[i].name, .n = t[i].n, .bytes = t[i].bytes, .us = t[i].us, .flop = t[i].flop
        };
    return min_u32(n, max);
}

void hlm_kernels_reset(hlm *m) { gpu_times_reset(m->gpu); }

struct hlm_sampling hlm_sampling_default(const hlm *m)
{
    struct hlm_sampling s = { .temp = 0.8f,
                              .top_k = 40,
                              .top_p = 0.95f,
                              .min_p = 0.05f,
                              .repeat_penalty = 1.0f,
                              .repeat_last_n = 64 };
    const struct gguf *g = m->file;
    uint32_t top_k = (uint32_t)s.top_k, last_n = (uint32_t)s.repeat_last_n;
    gguf_f32(g, "general.sampling.temp", OPTIONAL, &s.temp, NULL);
    gguf_u32(g, "general.sampling.top_k", OPTIONAL, &top_k, NULL);
    gguf_f32(g, "general.sampling.top_p", OPTIONAL, &s.top_p, NULL);
    gguf_f32(g, "general.sampling.min_p", OPTIONAL, &s.min_p, NULL);
    gguf_f32(g, "general.sampling.penalty_repeat", OPTIONAL, &s.repeat_penalty, NULL);
    gguf_u32(g, "general.sampling.penalty_last_n", OPTIONAL, &last_n, NULL);
    s.top_k = top_k < INT32_MAX ? (int32_t)top_k : 0;
    s.repeat_last_n = last_n < INT32_MAX ? (int32_t)last_n : -1;
    return s;
}
