/* open: opening a model, and what it reports of itself. Sessions are in session.c. */
#include "session/open.h"

#include "hlm_test_hooks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *device_kind(enum gpu_kind k)
{
    return k == GPU_DISCRETE     ? "discrete"
           : k == GPU_INTEGRATED ? "integrated"
           : k == GPU_CPU        ? "cpu"
                                 : "other";
}

int hlm_devices(struct hlm_device *out, int max, struct hlm_err *err)
{
    struct gpu_caps caps[16];
    api_begin(NULL, err);
    int n = gpu_list(caps, (int)ARRAY_LEN(caps), err);
    for (int i = 0; i < n && i < max && i < (int)ARRAY_LEN(caps); i++) {
        const struct gpu_caps *c = &caps[i];
        struct hlm_device *d = &out[i];
        *d = (struct hlm_device){ .kind = device_kind(c->kind),
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

/* general.name, else the file's own name; fit to be shown. */
static char *model_name(const struct gguf *g)
{
    struct hlm_str s = { 0 };
    const char *path = gguf_path(g), *slash = strrchr(path, '/');
    if (!gguf_str(g, "general.name", OPTIONAL, &s, NULL) || !s.n)
        s = (struct hlm_str){ slash ? slash + 1 : path, strlen(slash ? slash + 1 : path) };
    char *name = mem_text(s.p, s.n);
    if (name)
        one_line(name);
    return name;
}

static bool mark_unused(hlm *m, struct hlm_err *err)
{
    const struct tok *tok = m->vocab->tok;
    uint32_t n = m->model->n_vocab;
    m->unused = mem_alloc(div_up(n, 32), 4);
    if (!m->unused)
        return fail_memory(err, "out of memory: %u vocabulary entries", n);
    for (uint32_t i = 0; i < n; i++)
        if (tok && (i >= tok_n_vocab(tok) || tok_is_unused(tok, (int32_t)i)))
            m->unused[i / 32] |= 1u << i % 32;
    return true;
}

/* The file and what is read of it without a device. */
static bool open_model_file(hlm *m, const char *path, struct hlm_err *err)
{
    m->file = gguf_open(path, err);
    if (!m->file || !model_arch(m->file, err))
        return false;
    m->path = mem_text(path, strlen(path));
    m->name = model_name(m->file);
    m->vocab = vocab_of(m->file, &m->log, err);
    return (m->path && m->name && m->vocab) || fail_memory(err, "%.300s: out of memory", path);
}

static bool open_on_device(hlm *m, const struct hlm_params *params, struct hlm_err *err)
{
    struct gpu_params gp = { .device = params->device,
                             .cache_dir = params->cache_dir,
                             .validate = params->validate,
                             .profile = params->profile,
                             .memory = params->memory,
                             .preparing = count_prepare,
                             .preparing_user = m };
    if (!params->model)
        return fail(err, "no model file was named");
    if (!open_model_file(m, params->model, err) || !(m->gpu = gpu_open(&gp, err)))
        return false;
    m->any_base = params->any_base;
    m->f16 = params->f16 || (!params->f32_only && linear_f16_pays(gpu_caps(m->gpu)));
    count_open(m, params);
    gpu_dry(m->gpu, true);
    m->model = model_load(m->gpu, m->file, params->draft_blocks, err);
    return m->model && mark_unused(m, err) && (params->dry || model_bring(m, err));
}

hlm *hlm_open(const struct hlm_params *params, struct hlm_err *err)
{
    api_begin(&params->log, err);
    hlm *m = mem_alloc(1, sizeof *m);
    if (!m) {
        fail_memory(err, "out of memory");
        return NULL;
    }
    m->log = params->log;
    if (!open_on_device(m, params, err)) {
        hlm_close(m);
        return NULL;
    }
    return m;
}

const uint64_t *model_hash(hlm *m, struct hlm_err *err)
{
    m->hashed = m->hashed || gguf_hash(m->file, m->hash, err);
    return m->hashed ? m->hash : NULL;
}

bool model_bring(hlm *m, struct hlm_err *err)
{
    if (m->load_failed)
        return fail_as(err, HLM_ERR_STATE, "%.300s: loading it failed before: only closing is left",
                       m->path);
    if (!gpu_is_dry(m->gpu))
        return true;
    gpu_dry(m->gpu, false);
    m->load_failed = !model_upload(m->model, count_load, m, err) || !adapters_upload(m, err);
    if (m->load_failed)
        gpu_dry(m->gpu, true); /* so that nothing computes with what is missing */
    else
        count_idle(m);
    return !m->load_failed;
}

bool hlm_load(hlm *m, struct hlm_err *err)
{
    api_begin(&m->log, err);
    return model_bring(m, err);
}

void hlm_close(hlm *m)
{
    if (!m)
        return;
    log_to(&m->log);
    if (m->n_session || m->tune) {
        log_msg(HLM_LOG_ERROR, "%.300s: not closed: %s of it is still open", m->path,
                m->tune ? "a training run" : "a session");
        return;
    }
    count_close(m);
    adapters_finish(&m->adapters);
    model_unload(m->model);
    gpu_close(m->gpu);
    hlm_vocab_close(m->vocab);
    gguf_close(m->file);
    free(m->path);
    free(m->name);
    free(m->unused);
    free(m);
}

/* The type that most of the tensors' bytes are of, and all of their bytes. */
static const char *main_type(const struct gguf *g, uint64_t *all)
{
    uint64_t bytes[DTYPE_COUNT] = { 0 };
    enum dtype most = F32;
    *all = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        *all += t->n_bytes;
        bytes[t->type] += t->n_bytes;
        most = bytes[t->type] > bytes[most] ? t->type : most;
    }
    return dtype_info(most)->name;
}

struct hlm_info hlm_get_info(const hlm *m)
{
    uint64_t tensor_bytes;
    const char *type = main_type(m->file, &tensor_bytes);
    const struct gpu_caps *caps = gpu_caps(m->gpu);
    return (struct hlm_info){
        .path = m->path,
        .arch = m->model->arch->name,
        .name = m->name,
        .type = type,
        .device = caps->name,
        .driver = caps->driver,
        .n_layer = m->model->n_layer,
        .n_embd = m->model->n_embd,
        .n_vocab = m->model->n_vocab,
        .n_ctx_train = m->model->n_ctx_train,
        .n_param = m->model->n_param,
        .file_bytes = gguf_file_bytes(m->file),
        .tensor_bytes = tensor_bytes,
        .weight_bytes = arena_bytes(m->model->weights),
        .memory = gpu_budget(m->gpu),
        .has_mtp = m->model->n_mtp > 0,
        .f16 = m->f16,
        .n_validation = gpu_validation_count(m->gpu),
    };
}

bool hlm_ok(const hlm *m) { return gpu_ok(m->gpu, NULL); }
uint64_t hlm_allocated(const hlm *m) { return gpu_allocated(m->gpu, NULL); }
void hlm_test_lose(uint64_t n) { gpu_test_lose(n); }
uint64_t hlm_test_fail(uint64_t n) { return mem_test_fail(n); }

hlm_vocab *hlm_get_vocab(hlm *m, struct hlm_err *err)
{
    api_begin(&m->log, err);
    if (m->vocab->tok)
        return m->vocab;
    fail_from(err, &m->vocab->tok_err, "");
    return NULL;
}

/* ---- kernels, sampling ----------------------------------------------------------------------- */

uint32_t hlm_kernels(hlm *m, struct hlm_kernel *out, uint32_t max)
{
    log_to(&m->log);
    struct gpu_kernel_time t[KERNEL_COUNT + 2]; /* copies and fills too */
    uint32_t n = gpu_times(m->gpu, t, ARRAY_LEN(t));
    for (uint32_t i = 0; i < n && i < max; i++)
        out[i] = (struct hlm_kernel){
            .name = t[i].name, .n = t[i].n, .bytes = t[i].bytes, .us = t[i].us, .flop = t[i].flop
        };
    return min_u32(n, max);
}

void hlm_kernels_reset(hlm *m)
{
    log_to(&m->log);
    gpu_times_reset(m->gpu);
}

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
