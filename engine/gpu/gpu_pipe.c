/* gpu_pipe: makes pipelines from kernels and their constants, on several threads, and keeps them in
 * a file between runs.
 *
 * The file has a header that names the driver and the shaders it was made for, then the hashes of
 * the pipelines in it, then the driver's own bytes. Not every driver checks the bytes it gets, so
 * the header has a length and a checksum. A file that does not match completely is ignored. */
#define _POSIX_C_SOURCE 200809L
#include "gpu/vk.h"

#include "file/file.h"
#include "gpu/shaders.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_CACHE_BYTES (256ull << 20)
#define MAX_THREAD 64

struct cache_header {
    char magic[8];
    uint8_t uuid[VK_UUID_SIZE];
    uint32_t driver_version, pad;
    uint64_t shader_hash;
    uint64_t n_known, n_data; /* hashes, and bytes of the driver, that follow the header */
    uint64_t checksum;        /* of hashes and bytes */
};
static const char cache_magic[8] = "hlm-pc1";

/* FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t fnv_bytes(uint64_t h, const void *bytes, uint64_t n)
{
    const uint8_t *p = bytes;
    for (uint64_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}
#define HASH_START 0xcbf29ce484222325u

/* Hashes the kernel's name, because its number changes with the table. */
static uint64_t pipe_hash(const struct pipe *p)
{
    const char *name = kernel_table[p->k].name;
    return fnv_bytes(fnv_bytes(HASH_START, name, strlen(name)), &p->spec, sizeof p->spec);
}

static bool is_known(const struct gpu *g, uint64_t hash)
{
    for (uint64_t i = 0; i < g->n_known; i++)
        if (g->known[i] == hash)
            return true;
    return false;
}

/* ---- the file -------------------------------------------------------------------------------- */

static bool make_dirs(const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, "%s", dir);
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0777);
            *p = '/';
        }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static const char *header_misfit(const struct gpu *g, const char *bytes, uint64_t n)
{
    struct cache_header h;
    if (n < sizeof h)
        return "it is too short";
    memcpy(&h, bytes, sizeof h);
    if (memcmp(h.magic, cache_magic, sizeof h.magic))
        return "it is not a pipeline cache";
    if (memcmp(h.uuid, g->cache_uuid, sizeof h.uuid) || h.driver_version != g->driver_version)
        return "it is for another driver";
    if (h.shader_hash != g->shader_hash)
        return "it is for other shaders";
    uint64_t rest = n - sizeof h;
    if (h.n_known > rest / 8 || h.n_data != rest - 8 * h.n_known)
        return "its length is wrong";
    if (h.checksum != fnv_bytes(HASH_START, bytes + sizeof h, rest))
        return "its checksum is wrong";
    return NULL;
}

/* Sets *data to the driver's bytes inside what it returns, and g->known to the hashes. NULL when
 * there is no suitable file. */
static char *cache_load(struct gpu *g, uint64_t *n_data, const char **data)
{
    struct cache_header h;
    struct hlm_err why = { 0 };
    uint64_t n = 0;
    char *file = file_read(g->cache_path, MAX_CACHE_BYTES, &n, &why);
    const char *misfit = file ? header_misfit(g, file, n) : why.msg;
    if (misfit) {
        log_msg(HLM_LOG_DEBUG, "%s: not used: %s", g->cache_path, misfit);
        free(file);
        return NULL;
    }
    memcpy(&h, file, sizeof h);
    if (!(g->known = mem_alloc(h.n_known, 8))) {
        free(file);
        return NULL;
    }
    g->n_known = h.n_known;
    memcpy(g->known, file + sizeof h, 8 * h.n_known);
    *data = file + sizeof h + 8 * h.n_known;
    *n_data = h.n_data;
    log_msg(HLM_LOG_DEBUG, "%s: %llu pipelines", g->cache_path, (unsigned long long)h.n_known);
    return file;
}

/* Writes the file if it lacks a pipeline. A failure only makes the next start slower. */
static void cache_save(struct gpu *g)
{
    size_t n_data = 0;
    uint64_t n_known = g->n_known, n;
    struct hlm_err why = { 0 };
    char *file = NULL;
    for (uint32_t i = 0; i < g->n_pipe; i++)
        n_known += g->pipe[i].handle && !is_known(g, pipe_hash(&g->pipe[i]));
    if (n_known == g->n_known || g->lost ||
        vkGetPipelineCacheData(g->dev, g->cache, &n_data, NULL) < 0)
        return;
    n = sizeof(struct cache_header) + 8 * n_known + n_data;
    if (n > MAX_CACHE_BYTES || !(file = mem_alloc(n, 1)))
        return;
    struct cache_header h = { .driver_version = g->driver_version, .shader_hash = g->shader_hash };
    memcpy(h.magic, cache_magic, sizeof h.magic);
    memcpy(h.uuid, g->cache_uuid, sizeof h.uuid);
    uint64_t *known = mem_alloc(n_known, 8);
    char *data = file + sizeof h + 8 * n_known;
    if (known && vkGetPipelineCacheData(g->dev, g->cache, &n_data, data) == VK_SUCCESS) {
        if (g->n_known)
            memcpy(known, g->known, 8 * g->n_known);
        h.n_known = g->n_known;
        for (uint32_t i = 0; i < g->n_pipe; i++)
            if (g->pipe[i].handle && !is_known(g, pipe_hash(&g->pipe[i])))
                known[h.n_known++] = pipe_hash(&g->pipe[i]);
        memcpy(file + sizeof h, known, 8 * n_known);
        h.n_data = n_data;
        n = sizeof h + 8 * n_known + n_data;
        h.checksum = fnv_bytes(HASH_START, file + sizeof h, n - sizeof h);
        memcpy(file, &h, sizeof h);
        if (!file_write_atomic(g->cache_path, file, n, &why))
            log_msg(HLM_LOG_DEBUG, "%s", why.msg);
    }
    free(known);
    free(file);
}

static void cache_name(struct gpu *g, const char *dir)
{
    char hex[2 * VK_UUID_SIZE + 1];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(hex + 2 * i, 3, "%02x", g->cache_uuid[i]);
    if (strlen(dir) + sizeof "/pipelines-.bin" + sizeof hex > sizeof g->cache_path ||
        !make_dirs(dir)) {
        log_msg(HLM_LOG_DEBUG, "%s: no pipeline cache can be written there", dir);
        return;
    }
    snprintf(g->cache_path, sizeof g->cache_path, "%s/pipelines-%s.bin", dir, hex);
}

/* ---- open and close -------------------------------------------------------------------------- */

static bool layouts_make(struct gpu *g, struct hlm_err *err)
{
    VkDescriptorSetLayoutBinding bind[MAX_BIND];
    bool used[MAX_BIND + 1] = { false };
    for (uint32_t k = 0; k < KERNEL_COUNT; k++) {
        HLM_ASSERT(hlm_shaders[k].n_bind <= MAX_BIND);
        used[hlm_shaders[k].n_bind] = true;
    }
    for (uint32_t i = 0; i < MAX_BIND; i++)
        bind[i] = (VkDescriptorSetLayoutBinding){
            .binding = i,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        };
    for (uint32_t n = 1; n <= MAX_BIND; n++) {
        if (!used[n])
            continue;
        VKTRY(vkCreateDescriptorSetLayout(
            g->dev,
            &(VkDescriptorSetLayoutCreateInfo){
                .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                .bindingCount = n,
                .pBindings = bind,
            },
            NULL, &g->set_layout[n]));
        VKTRY(vkCreatePipelineLayout(
            g->dev,
            &(VkPipelineLayoutCreateInfo){
                .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                .setLayoutCount = 1,
                .pSetLayouts = &g->set_layout[n],
                .pushConstantRangeCount = 1,
                .pPushConstantRanges =
                    &(VkPushConstantRange){ VK_SHADER_STAGE_COMPUTE_BIT, 0, 128 },
            },
            NULL, &g->layout[n]));
    }
    return true;
fail:
    return false;
}

bool pipes_open(struct gpu *g, const char *cache_dir, struct hlm_err *err)
{
    const char *data = NULL;
    char *file = NULL;
    uint64_t n_data = 0;
    VkResult r;
    if (cache_dir) {
        g->shader_hash = HASH_START;
        for (uint32_t k = 0; k < KERNEL_COUNT; k++)
            g->shader_hash =
                fnv_bytes(g->shader_hash, hlm_shaders[k].words, hlm_shaders[k].n_bytes);
        cache_name(g, cache_dir);
        if (g->cache_path[0])
            file = cache_load(g, &n_data, &data);
    }
    r = GUARD(vkCreatePipelineCache(g->dev,
                                    &(VkPipelineCacheCreateInfo){
                                        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
                                        .initialDataSize = n_data,
                                        .pInitialData = data,
                                    },
                                    NULL, &g->cache));
    free(file);
    return r < 0 ? gpu_refused(g, r, "vkCreatePipelineCache", err) : layouts_make(g, err);
}

void pipes_close(struct gpu *g)
{
    if (g->cache && g->cache_path[0])
        cache_save(g);
    for (uint32_t i = 0; i < g->n_pipe; i++)
        vkDestroyPipeline(g->dev, g->pipe[i].handle, NULL);
    for (uint32_t i = 0; i <= MAX_BIND; i++) {
        vkDestroyPipelineLayout(g->dev, g->layout[i], NULL);
        vkDestroyDescriptorSetLayout(g->dev, g->set_layout[i], NULL);
    }
    vkDestroyPipelineCache(g->dev, g->cache, NULL);
    free(g->pipe);
    free(g->known);
}

/* ---- making ---------------------------------------------------------------------------------- */

uint32_t pipe_find(struct gpu *g, enum kernel k, const struct spec *spec)
{
    for (uint32_t i = 0; i < g->n_pipe; i++)
        if (g->pipe[i].k == k && !memcmp(&g->pipe[i].spec, spec, sizeof *spec))
            return i;
    if (!mem_reserve(&g->pipe, g->n_pipe + 1ull, &g->cap_pipe, sizeof *g->pipe))
        return UINT32_MAX;
    g->pipe[g->n_pipe] = (struct pipe){ .k = k, .spec = *spec };
    return g->n_pipe++;
}

/* The id of a constant is its place in struct spec. */
#define CONSTANT(id, name)                                                                         \
    _Static_assert(offsetof(struct spec, name) == 4 * (id), "spec.def: ids count up from 0");
#include "shaders/spec.def"
#undef CONSTANT

static VkResult pipe_make(struct gpu *g, struct pipe *p)
{
    const struct shader *s = &hlm_shaders[p->k];
    VkSpecializationMapEntry map[N_CONSTANT];
    VkSpecializationInfo constants = { 0, map, sizeof p->spec, &p->spec };
    VkShaderModule module = VK_NULL_HANDLE;
    uint32_t n_subgroup = p->spec.subgroups;
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = n_subgroup ? p->spec.wg / n_subgroup : 0,
    };
    for (uint32_t id = 0; id < N_CONSTANT; id++)
        if (s->constants >> id & 1)
            map[constants.mapEntryCount++] = (VkSpecializationMapEntry){ id, 4 * id, 4 };
    VkResult r =
        GUARD(vkCreateShaderModule(g->dev,
                                   &(VkShaderModuleCreateInfo){
                                       .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
                                       .codeSize = s->n_bytes,
                                       .pCode = s->words,
                                   },
                                   NULL, &module));
    if (r >= 0)
        r = GUARD(vkCreateComputePipelines(g->dev, g->cache, 1, &(VkComputePipelineCreateInfo){
            .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
            .stage = {
                .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                .pNext = n_subgroup ? &size : NULL,
                .flags = n_subgroup ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT
                                    : 0,
                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                .module = module,
                .pName = "main",
                .pSpecializationInfo = &constants,
            },
            .layout = g->layout[s->n_bind],
        }, NULL, &p->handle));
    vkDestroyShaderModule(g->dev, module, NULL);
    return r;
}

/* The threads take pipelines from one list until none is left. */
struct pipe_job {
    struct gpu *g;
    struct hlm_log log;   /* of the thread that waits for them */
    uint32_t *missing, n; /* indices of the pipelines to create */
    uint32_t n_new;       /* how many of them are not in the cache on disk */
    atomic_uint next;     /* the next of `missing` */
    atomic_uint n_made;   /* how many of n_new have been created */
};

/* Reports progress, on the thread that waits. If the callback asks to stop, no thread takes another
 * pipeline. */
static bool report(struct pipe_job *j)
{
    struct gpu *g = j->g;
    bool on = !j->n_new || !g->preparing ||
              g->preparing(g->preparing_user, atomic_load(&j->n_made), j->n_new);
    if (!on)
        atomic_store(&j->next, j->n);
    return on;
}

static bool make_next(struct pipe_job *j)
{
    uint32_t i = atomic_fetch_add(&j->next, 1);
    if (i >= j->n)
        return false;
    struct pipe *p = &j->g->pipe[j->missing[i]];
    p->result = pipe_make(j->g, p);
    if (!is_known(j->g, pipe_hash(p)))
        atomic_fetch_add(&j->n_made, 1);
    return true;
}

static void *worker(void *arg)
{
    struct pipe_job *j = arg;
    log_to(&j->log);
    while (make_next(j))
        ;
    return NULL;
}

static bool run_workers(struct pipe_job *j)
{
    pthread_t thread[MAX_THREAD];
    long n_cpu = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t want = min_u32(min_u32(j->n, MAX_THREAD), n_cpu > 1 ? (uint32_t)n_cpu : 1), n = 0;
    bool on = report(j);
    while (on && n + 1 < want && pthread_create(&thread[n], NULL, worker, j) == 0)
        n++;
    while (on && make_next(j)) /* this thread works too, alone if no other could be started */
        on = report(j);
    while (n)
        pthread_join(thread[--n], NULL);
    return on && report(j);
}

/* A pipeline that failed for lack of memory may succeed later; a shader that the driver refuses
 * will not. */
static bool may_try(VkResult r)
{
    return r == VK_SUCCESS || r == VK_ERROR_OUT_OF_HOST_MEMORY ||
           r == VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

bool pipes_make(struct gpu *g, struct hlm_err *err)
{
    struct pipe_job j = { .g = g, .log = log_get() };
    double t0 = now_s();
    if (!(j.missing = mem_alloc(g->n_pipe, sizeof *j.missing)))
        return true; /* pipe_ready says what is missing */
    for (uint32_t i = 0; i < g->n_pipe; i++)
        if (!g->pipe[i].handle && hlm_shaders[g->pipe[i].k].words && may_try(g->pipe[i].result))
            j.missing[j.n++] = i;
    for (uint32_t i = 0; i < j.n; i++)
        j.n_new += !is_known(g, pipe_hash(&g->pipe[j.missing[i]]));
    bool on = !j.n || run_workers(&j);
    for (uint32_t i = 0; i < j.n; i++)
        if (g->pipe[j.missing[i]].handle) {
            g->counts.n_pipeline++;
            g->counts.n_pipeline_cached += is_known(g, pipe_hash(&g->pipe[j.missing[i]]));
        }
    g->counts.pipeline_s += j.n ? now_s() - t0 : 0;
    free(j.missing);
    return on || fail_stopped(err);
}

bool pipe_ready(struct gpu *g, uint32_t i_pipe, struct hlm_err *err)
{
    const struct pipe *p = &g->pipe[i_pipe];
    const char *name = kernel_table[p->k].name;
    char call[96];
    if (p->handle)
        return true;
    if (!hlm_shaders[p->k].words)
        return fail_as(err, HLM_ERR_UNSUPPORTED, "this build has no shader for kernel %s", name);
    snprintf(call, sizeof call, "the pipeline of %s", name);
    return gpu_refused(g, p->result ? p->result : VK_ERROR_OUT_OF_HOST_MEMORY, call, err);
}
