/* gpu_mem: arenas: taking ranges, allocating what was taken, and refusing what does not fit.
 *
 * Offsets are known before anything is allocated, so cmds can be recorded and a plan can be shown
 * first. */
#define _POSIX_C_SOURCE 200809L
#include "gpu/vk.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- taking ---------------------------------------------------------------------------------- */

struct arena *arena_create(struct gpu *g, const char *purpose, enum gpu_mem mem,
                           struct hlm_err *err)
{
    struct arena *a = mem_alloc(1, sizeof *a);
    if (!a) {
        fail_memory(err, "%s: out of host memory", purpose);
        return NULL;
    }
    a->g = g;
    a->mem = mem;
    snprintf(a->purpose, sizeof a->purpose, "%s", purpose);
    struct arena **at = &g->arenas;
    while (*at)
        at = &(*at)->next;
    *at = a;
    return a;
}

/* The first offset from `at` on that is aligned and has room for `bytes` within its chunk. */
static uint64_t fit_range(const struct arena *a, uint64_t at, uint64_t bytes, uint64_t align)
{
    uint64_t cap = a->g->caps.max_alloc;
    at = align_up(at, align);
    return at / cap == (at + bytes - 1) / cap ? at : align_up(at, cap);
}

/* Records that [at, at + bytes) of a span is in use. A range that is larger than a chunk is refused
 * only by arena_commit, so that a plan can still be printed. */
static void claim_range(struct arena *a, uint32_t span, uint64_t at, uint64_t bytes)
{
    uint64_t cap = a->g->caps.max_alloc, i = at / cap, end = at % cap + bytes;
    if (end > cap)
        a->too_big = max_u64(a->too_big, bytes);
    if (i >= MAX_CHUNK)
        a->beyond += bytes;
    else
        a->chunk[span][i].bytes = max_u64(a->chunk[span][i].bytes, end);
}

uint64_t arena_take(struct arena *a, uint64_t bytes, uint64_t align)
{
    HLM_ASSERT(!a->committed);
    HLM_ASSERT(bytes < 1ull << SPAN_SHIFT && a->end < 1ull << (SPAN_SHIFT - 1));
    align = align ? max_u64(align, 16) : a->g->caps.align;
    bytes = align_up(max_u64(bytes, 1), 16);
    uint64_t at = fit_range(a, a->end, bytes, align);
    claim_range(a, 0, at, bytes);
    a->end = at + bytes;
    return at;
}

void arena_take_like(struct arena *a, const struct arena *like)
{
    HLM_ASSERT(!a->committed && a->end == 0 && a->g == like->g);
    a->end = like->end;
    a->too_big = like->too_big;
    a->beyond = like->beyond;
    for (uint32_t i = 0; i < MAX_CHUNK; i++)
        a->chunk[0][i] = (struct arena_chunk){ .bytes = like->chunk[0][i].bytes };
}

tensor arena_tensor(struct arena *a, enum dtype dtype, uint32_t n, uint32_t n_row)
{
    tensor t = { .arena = a, .dtype = dtype, .n = n, .n_row = n_row, .stride = n };
    t.offset = arena_take(a, tensor_bytes(t), 0);
    return t;
}

bool arena_scratch(struct arena *a, uint32_t i_block, uint64_t *at, uint64_t bytes,
                   uint64_t *offset, struct hlm_err *err)
{
    bytes = align_up(max_u64(bytes, 1), 16);
    uint64_t cap = a->g->caps.max_alloc, start = fit_range(a, *at, bytes, a->g->caps.align);
    uint32_t span = 1 + i_block;
    if (a->committed) {
        uint64_t have = start / cap < MAX_CHUNK ? a->chunk[span][start / cap].bytes : 0;
        if (start % cap + bytes > have)
            return fail_size(err, HLM_ERR_WONT_FIT,
                             &(struct hlm_err){ .need = start + bytes, .have = have },
                             "%s: a block has %llu bytes, %llu are needed", a->purpose,
                             (unsigned long long)have, (unsigned long long)(start + bytes));
    } else {
        claim_range(a, span, start, bytes);
    }
    *at = start + bytes;
    *offset = start | (uint64_t)span << SPAN_SHIFT;
    return true;
}

uint64_t arena_bytes(const struct arena *a)
{
    uint64_t sum = a->beyond;
    for (uint32_t s = 0; s < N_SPAN; s++)
        for (uint32_t i = 0; i < MAX_CHUNK; i++)
            sum += a->chunk[s][i].bytes;
    return sum;
}

const char *arena_purpose(const struct arena *a) { return a->purpose; }

bool arena_on_host(const struct arena *a) { return a->mem == MEM_HOST && !a->g->caps.unified; }

/* ---- what it costs --------------------------------------------------------------------------- */

static VkResult buffer_make(const struct gpu *g, uint64_t bytes, VkBuffer *buf,
                            VkMemoryRequirements *need)
{
    VkResult r = GUARD(vkCreateBuffer(
        g->dev,
        &(VkBufferCreateInfo){
            .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
            .size = bytes,
            .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                     VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT,
        },
        NULL, buf));
    if (r >= 0)
        vkGetBufferMemoryRequirements(g->dev, *buf, need);
    return r;
}

/* To find out what a chunk would need, creates a buffer without memory, which costs nothing. */
static uint64_t chunk_cost(const struct gpu *g, const struct arena_chunk *k)
{
    VkBuffer buf = VK_NULL_HANDLE;
    VkMemoryRequirements need = { .size = k->bytes };
    if (k->given || !k->bytes ||
        k->bytes > g->caps.max_alloc) /* allocated already; empty; too large to be allocated */
        return k->given ? k->given : k->bytes;
    buffer_make(g, k->bytes, &buf, &need);
    vkDestroyBuffer(g->dev, buf, NULL);
    return need.size;
}

uint64_t arena_cost(const struct arena *a)
{
    uint64_t sum = a->beyond;
    for (uint32_t s = 0; s < N_SPAN; s++)
        for (uint32_t i = 0; i < MAX_CHUNK; i++)
            sum += chunk_cost(a->g, &a->chunk[s][i]);
    return sum;
}

uint32_t gpu_plan(const struct gpu *g, struct gpu_memory *out, uint32_t max)
{
    uint32_t n = 0;
    for (const struct arena *a = g->arenas; a; a = a->next) {
        uint32_t i = 0;
        while (i < n && i < max &&
               (strcmp(out[i].purpose, a->purpose) || out[i].on_host != arena_on_host(a)))
            i++;
        if (i == n && n++ < max) {
            out[i] = (struct gpu_memory){ .on_host = arena_on_host(a) };
            memcpy(out[i].purpose, a->purpose, sizeof out[i].purpose);
        }
        if (i < max)
            out[i].bytes += arena_cost(a);
    }
    return n;
}

uint64_t gpu_allocated(const struct gpu *g, const char *purpose)
{
    uint64_t sum = 0;
    if (!purpose)
        return g->given_device + g->given_host;
    for (const struct arena *a = g->arenas; a; a = a->next)
        for (uint32_t k = 0; k < N_SPAN * MAX_CHUNK && !strcmp(a->purpose, purpose); k++)
            sum += a->chunk[k / MAX_CHUNK][k % MAX_CHUNK].given;
    return sum;
}

uint64_t gpu_budget(const struct gpu *g) { return g->budget; }

bool gpu_dry(struct gpu *g, bool dry)
{
    bool was = g->dry;
    g->dry = dry;
    return was;
}

bool gpu_is_dry(const struct gpu *g) { return g->dry; }

/* ---- faults, for tests ----------------------------------------------------------------------- */

static atomic_llong fail_in, lose_in;
static atomic_bool staging;

static uint64_t fault_arm(atomic_llong *in, uint64_t n)
{
    long long left = atomic_exchange(in, (long long)n);
    return left > 0 ? (uint64_t)left : 0;
}

static bool fault_strikes(atomic_llong *in)
{
    return atomic_load(in) > 0 && atomic_fetch_sub(in, 1) == 1;
}

uint64_t gpu_test_fail(uint64_t n) { return fault_arm(&fail_in, n); }
uint64_t gpu_test_lose(uint64_t n) { return fault_arm(&lose_in, n); }
void gpu_test_staging(bool on) { atomic_store(&staging, on); }
bool fault_memory(void) { return fault_strikes(&fail_in); }
bool fault_lost(void) { return fault_strikes(&lose_in); }
bool fault_staging(void) { return atomic_load(&staging); }

/* ---- allocating ------------------------------------------------------------------------------ */

uint64_t host_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

/* Bytes that the system could still give without swapping; 0 if it does not report them. */
static uint64_t host_free(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && !kib && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
            kib = 0;
    if (f)
        fclose(f);
    return kib * 1024;
}

bool heap_free(VkPhysicalDevice phys, enum gpu_kind kind, bool budget, uint32_t heap,
               uint64_t *bytes)
{
    uint64_t host = kind == GPU_CPU || kind == GPU_INTEGRATED ? host_free() : 0;
    *bytes = host ? host : UINT64_MAX;
    if (budget) {
        VkPhysicalDeviceMemoryBudgetPropertiesEXT b = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT,
        };
        vkGetPhysicalDeviceMemoryProperties2(
            phys, &(VkPhysicalDeviceMemoryProperties2){
                      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                      .pNext = &b,
                  });
        uint64_t left =
            b.heapBudget[heap] > b.heapUsage[heap] ? b.heapBudget[heap] - b.heapUsage[heap] : 0;
        *bytes = min_u64(*bytes, left);
    }
    return budget || host;
}

uint64_t gpu_left(const struct gpu *g)
{
    uint64_t bytes;
    bool known = heap_free(g->phys, g->caps.kind, g->caps.memory_budget, g->heap, &bytes);
    return known ? bytes : 0;
}

/* The best of the allowed memory types: it has all flags of need, most of like, and least of avoid.
 */
static uint32_t memory_type(const struct gpu *g, uint32_t allowed, VkMemoryPropertyFlags need,
                            VkMemoryPropertyFlags like, VkMemoryPropertyFlags avoid)
{
    uint32_t best = UINT32_MAX;
    int best_score = -99;
    for (uint32_t t = 0; t < g->memory.memoryTypeCount; t++) {
        VkMemoryPropertyFlags f = g->memory.memoryTypes[t].propertyFlags;
        if (!(allowed >> t & 1) || (f & need) != need ||
            (f & (VK_MEMORY_PROPERTY_PROTECTED_BIT | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT)))
            continue;
        int score = 0;
        for (VkMemoryPropertyFlags bit = 1; bit <= VK_MEMORY_PROPERTY_HOST_CACHED_BIT; bit <<= 1)
            score += ((f & like & bit) ? 2 : 0) - ((f & avoid & bit) ? 2 : 0);
        if (score > best_score)
            best = t, best_score = score;
    }
    return best;
}

/* On a card, MEM_HOST is memory of the host: reading the card's host-visible memory is slow, and
 * there may be only 256 MiB of it. For the same reason device memory that the host need not see is
 * not host-visible. */
static uint32_t arena_type(const struct arena *a, uint32_t allowed)
{
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
                                seen = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                       VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
                                cached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    if (a->g->caps.unified)
        return memory_type(a->g, allowed, seen, local | cached, 0);
    if (a->mem == MEM_HOST)
        return memory_type(a->g, allowed, seen, cached, local);
    return memory_type(a->g, allowed, local, 0, seen | cached);
}

/* More than the device can ever give is HLM_ERR_WONT_FIT; more than is free now, HLM_ERR_MEMORY. */
static bool out_of_memory(const struct arena *a, uint64_t free_bytes, bool known,
                          struct hlm_err *err)
{
    char want[32], left[32], has[32];
    bool never = a->beyond || a->g->dry;
    struct hlm_err size = { .need = arena_cost(a), .have = known ? free_bytes : 0 };
    if (!never)
        size = (struct hlm_err){ 0 };
    return fail_size(err, never ? HLM_ERR_WONT_FIT : HLM_ERR_MEMORY, &size,
                     "out of memory: %s needs %s, %s has %s free of %s", a->purpose,
                     bytes_text(want, arena_cost(a)), a->g->caps.name,
                     known ? bytes_text(left, free_bytes) : "not enough",
                     bytes_text(has, a->g->caps.heap_bytes));
}

static bool no_type(const struct arena *a, struct hlm_err *err)
{
    return fail_as(err, HLM_ERR_UNSUPPORTED, "%s: %s has no memory of the kind needed", a->purpose,
                   a->g->caps.name);
}

/* Some drivers grant memory that does not exist, and the process is killed when it uses it. So the
 * request is refused here when it comes near to what the driver reports as free. */
static bool enough(const struct arena *a, struct hlm_err *err)
{
    const struct gpu *g = a->g;
    uint64_t want = arena_cost(a), free_bytes = 0;
    uint32_t type = arena_type(a, UINT32_MAX);
    char big[32], cap[32], had[32];
    if (type == UINT32_MAX)
        return no_type(a, err);
    if (g->dry && !a->beyond && !a->too_big)
        return true;
    bool known = heap_free(g->phys, g->caps.kind, g->caps.memory_budget,
                           g->memory.memoryTypes[type].heapIndex, &free_bytes);
    if ((known && want > free_bytes / 20 * 19) || a->beyond)
        return out_of_memory(a, free_bytes, known, err);
    uint64_t left = g->budget - min_u64(g->budget, g->given_device);
    if (!arena_on_host(a) && want > left)
        return fail_size(
            err, HLM_ERR_WONT_FIT, &(struct hlm_err){ .need = want, .have = left },
            "out of memory: %s needs %s; the limit on %s is %s, of which %s are in use", a->purpose,
            bytes_text(big, want), g->caps.name, bytes_text(cap, g->budget),
            bytes_text(had, g->given_device));
    if (a->too_big)
        return fail_size(err, HLM_ERR_WONT_FIT,
                         &(struct hlm_err){ .need = a->too_big, .have = g->caps.max_alloc },
                         "%s: one tensor needs %s, the largest buffer of %s has %s", a->purpose,
                         bytes_text(big, a->too_big), g->caps.name,
                         bytes_text(cap, g->caps.max_alloc));
    return true;
}

static bool chunk_make(struct arena *a, struct arena_chunk *k, struct hlm_err *err)
{
    struct gpu *g = a->g;
    VkMemoryRequirements need;
    uint32_t type;
    VkResult r;
    r = buffer_make(g, k->bytes, &k->buf, &need);
    if (r < 0)
        return gpu_refused(g, r, "vkCreateBuffer", err);
    type = arena_type(a, need.memoryTypeBits);
    if (type == UINT32_MAX)
        return no_type(a, err);
    r = GUARD(vkAllocateMemory(g->dev,
                               &(VkMemoryAllocateInfo){
                                   .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                   .allocationSize = need.size,
                                   .memoryTypeIndex = type,
                               },
                               NULL, &k->mem));
    if (r == VK_ERROR_OUT_OF_DEVICE_MEMORY || r == VK_ERROR_OUT_OF_HOST_MEMORY) {
        uint64_t left;
        bool known = heap_free(g->phys, g->caps.kind, g->caps.memory_budget,
                               g->memory.memoryTypes[type].heapIndex, &left);
        return out_of_memory(a, left, known, err);
    }
    if (r < 0)
        return gpu_refused(g, r, "vkAllocateMemory", err);
    k->given = need.size;
    *(arena_on_host(a) ? &g->given_host : &g->given_device) += need.size;
    VKTRY(vkBindBufferMemory(g->dev, k->buf, k->mem, 0));
    if (a->mem == MEM_HOST || g->caps.unified)
        VKTRY(vkMapMemory(g->dev, k->mem, 0, VK_WHOLE_SIZE, 0, (void **)&k->map));
    return true;
fail:
    return false;
}

static void chunk_free(struct arena *a, struct arena_chunk *k)
{
    struct gpu *g = a->g;
    vkDestroyBuffer(g->dev, k->buf, NULL);
    vkFreeMemory(g->dev, k->mem, NULL);
    *(arena_on_host(a) ? &g->given_host : &g->given_device) -= k->given;
    *k = (struct arena_chunk){ .bytes = k->bytes };
}

static void chunks_free(struct arena *a)
{
    for (uint32_t s = 0; s < N_SPAN; s++)
        for (uint32_t i = 0; i < MAX_CHUNK; i++)
            chunk_free(a, &a->chunk[s][i]);
}

bool arena_commit(struct arena *a, struct hlm_err *err)
{
    if (a->committed)
        return true;
    if (!gpu_ok(a->g, err) || !enough(a, err))
        return false;
    if (a->g->dry)
        return true;
    for (uint32_t s = 0; s < N_SPAN; s++)
        for (uint32_t i = 0; i < MAX_CHUNK; i++)
            if (a->chunk[s][i].bytes && !chunk_make(a, &a->chunk[s][i], err)) {
                chunks_free(a);
                return false;
            }
    a->committed = true;
    char text[32];
    log_msg(HLM_LOG_DEBUG, "%s: %s", a->purpose, bytes_text(text, arena_bytes(a)));
    return copy_zero(a->g, a, err);
}

void arena_destroy(struct arena *a)
{
    if (!a)
        return;
    gpu_done_with(a->g, a->last_use);
    if (a->g->staged.to.arena == a)
        a->g->staged.slot = NULL;
    chunks_free(a);
    for (struct arena **at = &a->g->arenas; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    free(a);
}

/* ---- using ----------------------------------------------------------------------------------- */

struct buffer_range arena_place(const struct arena *a, uint64_t offset, uint64_t bytes)
{
    uint64_t span = offset >> SPAN_SHIFT, at = offset & ((1ull << SPAN_SHIFT) - 1),
             cap = a->g->caps.max_alloc;
    HLM_ASSERT(a->committed && span < N_SPAN && at / cap < MAX_CHUNK);
    const struct arena_chunk *k = &a->chunk[span][at / cap];
    HLM_ASSERT(bytes <= k->bytes && at % cap <= k->bytes - bytes);
    return (struct buffer_range){ k->buf, at % cap, k->map ? k->map + at % cap : NULL };
}

void *arena_map(struct arena *a, uint64_t offset)
{
    HLM_ASSERT(a->mem == MEM_HOST);
    return arena_place(a, offset, 1).map;
}
