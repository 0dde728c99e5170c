/* gpu_copy: moves bytes between host and device: the staging slots, upload, readback, zeroing.
 *
 * There are a few slots, each with some mapped memory and a command buffer. A slot is free when
 * the timeline has reached its last submission, so the host fills one slot while the device empties
 * others. If all memory is mapped, nothing is staged: callers get the arena's own bytes after its
 * last use has ended. */
#include "gpu/vk.h"

#include <string.h>

bool copy_open(struct gpu *g, struct hlm_err *err)
{
    VKTRY(vkCreateCommandPool(g->dev,
                              &(VkCommandPoolCreateInfo){
                                  .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                  .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                  .queueFamilyIndex = g->family,
                              },
                              NULL, &g->pool));
    for (uint32_t i = 0; i < N_SLOT; i++)
        VKTRY(vkAllocateCommandBuffers(g->dev,
                                       &(VkCommandBufferAllocateInfo){
                                           .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                           .commandPool = g->pool,
                                           .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                           .commandBufferCount = 1,
                                       },
                                       &g->slot[i].cb));
    if (g->caps.unified)
        return true;
    if (!(g->stage = arena_create(g, "staging", MEM_HOST, err)))
        return false;
    for (uint32_t i = 0; i < N_SLOT; i++)
        g->stage_at[i] = arena_take(g->stage, gpu_stage_max(g), 0);
    return true;
fail:
    return false;
}

void copy_close(struct gpu *g)
{
    arena_destroy(g->stage);
    g->stage = NULL;
    vkDestroyCommandPool(g->dev, g->pool, NULL);
}

/* The next slot that no gpu_stage is filling, once the device has finished with it. NULL on
 * failure. */
static struct slot *slot_next(struct gpu *g, struct hlm_err *err)
{
    do
        g->i_slot = (g->i_slot + 1) % N_SLOT;
    while (g->staged.slot == &g->slot[g->i_slot]);
    struct slot *s = &g->slot[g->i_slot];
    return gpu_wait_for(g, s->value, err) ? s : NULL;
}

static bool slot_begin(struct gpu *g, struct slot *s, struct hlm_err *err)
{
    VKTRY(vkResetCommandBuffer(s->cb, 0)); /* an earlier recording may have failed part-way */
    VKTRY(vkBeginCommandBuffer(s->cb, &(VkCommandBufferBeginInfo){
                                          .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                          .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT,
                                      }));
    barrier_full(s->cb);
    return true;
fail:
    return false;
}

static bool slot_submit(struct gpu *g, struct slot *s, const char *what, struct arena *a,
                        struct hlm_err *err)
{
    uint64_t value;
    barrier_host(s->cb);
    VKTRY(vkEndCommandBuffer(s->cb));
    if (!(value = gpu_queue(g, &s->cb, 1, what, err)))
        return false;
    s->value = a->last_use = value;
    return true;
fail:
    return false;
}

static struct buffer_range slot_place(struct gpu *g, const struct slot *s, uint64_t bytes)
{
    return arena_place(g->stage, g->stage_at[s - g->slot], bytes);
}

/* Copies between a slot's memory and an arena; up: to the arena. */
static bool slot_copy(struct gpu *g, struct slot *s, const struct copy_range *to, bool up,
                      struct hlm_err *err)
{
    char what[128];
    uint64_t bytes = to->bytes;
    struct buffer_range dev = arena_place(to->arena, to->offset, bytes),
                        host = slot_place(g, s, bytes);
    snprintf(what, sizeof what, "a copy %s %s", up ? "to" : "from", to->arena->purpose);
    if (!slot_begin(g, s, err))
        return false;
    if (up)
        vkCmdCopyBuffer(s->cb, host.buf, dev.buf, 1,
                        &(VkBufferCopy){ host.offset, dev.offset, bytes });
    else
        vkCmdCopyBuffer(s->cb, dev.buf, host.buf, 1,
                        &(VkBufferCopy){ dev.offset, host.offset, bytes });
    return slot_submit(g, s, what, to->arena, err);
}

/* ---- staging --------------------------------------------------------------------------------- */

uint64_t gpu_stage_max(const struct gpu *g) { return min_u64(SLOT_BYTES, g->caps.max_alloc); }

/* Submits the copy of the bytes that the caller of gpu_stage has written. */
static bool stage_flush(struct gpu *g, struct hlm_err *err)
{
    struct slot *s = g->staged.slot;
    g->staged.slot = NULL;
    return !s || slot_copy(g, s, &g->staged.to, true, err);
}

void *gpu_stage(struct gpu *g, struct arena *dst, uint64_t offset, uint64_t bytes,
                struct hlm_err *err)
{
    struct slot *s;
    HLM_ASSERT(dst->g == g && bytes && bytes <= gpu_stage_max(g));
    struct buffer_range at = arena_place(dst, offset, bytes);
    if (!stage_flush(g, err))
        return NULL;
    if (at.map)
        return gpu_wait_for(g, dst->last_use, err) ? at.map : NULL;
    if (!arena_commit(g->stage, err) || !(s = slot_next(g, err)))
        return NULL;
    g->staged.slot = s;
    g->staged.to = (struct copy_range){ dst, offset, bytes };
    return slot_place(g, s, bytes).map;
}

bool gpu_stage_end(struct gpu *g, struct hlm_err *err)
{
    return stage_flush(g, err) && gpu_wait(g, err);
}

/* ---- small transfers ------------------------------------------------------------------------- */

bool gpu_write(struct gpu *g, tensor dst, uint64_t offset, const void *src, uint64_t bytes,
               struct hlm_err *err)
{
    struct arena *a = dst.arena;
    HLM_ASSERT(a->g == g);
    if (!bytes || g->dry)
        return gpu_ok(g, err);
    struct buffer_range at = arena_place(a, dst.offset + offset, bytes);
    if (at.map) {
        if (!gpu_wait_for(g, a->last_use, err))
            return false;
        memcpy(at.map, src, bytes);
        return true;
    }
    for (uint64_t done = 0, n; done < bytes; done += n) {
        struct slot *s;
        n = min_u64(bytes - done, gpu_stage_max(g));
        if (!arena_commit(g->stage, err) || !(s = slot_next(g, err)))
            return false;
        memcpy(slot_place(g, s, n).map, (const uint8_t *)src + done, n);
        if (!slot_copy(g, s, &(struct copy_range){ a, dst.offset + offset + done, n }, true, err))
            return false;
    }
    return gpu_wait_for(g, a->last_use, err);
}

bool gpu_read(struct gpu *g, tensor src, uint64_t offset, void *dst, uint64_t bytes,
              struct hlm_err *err)
{
    struct arena *a = src.arena;
    HLM_ASSERT(a->g == g);
    if (!bytes)
        return gpu_ok(g, err);
    struct buffer_range at = arena_place(a, src.offset + offset, bytes);
    if (at.map) {
        if (!gpu_wait_for(g, a->last_use, err))
            return false;
        memcpy(dst, at.map, bytes);
        return true;
    }
    for (uint64_t done = 0, n; done < bytes; done += n) {
        struct slot *s;
        n = min_u64(bytes - done, gpu_stage_max(g));
        const struct copy_range from = { a, src.offset + offset + done, n };
        if (!arena_commit(g->stage, err) || !(s = slot_next(g, err)) ||
            !slot_copy(g, s, &from, false, err) || !gpu_wait_for(g, s->value, err))
            return false;
        memcpy((uint8_t *)dst + done, slot_place(g, s, n).map, n);
    }
    return true;
}

/* The host clears the small arenas that it shares with the device. The rest is faster to clear on
 * the device. */
bool copy_zero(struct gpu *g, struct arena *a, struct hlm_err *err)
{
    struct slot *s = NULL;
    for (uint32_t span = 0; span < N_SPAN; span++)
        for (uint32_t i = 0; i < MAX_CHUNK; i++) {
            struct arena_chunk *k = &a->chunk[span][i];
            if (!k->bytes)
                continue;
            if (a->mem == MEM_HOST) {
                memset(k->map, 0, k->bytes);
                continue;
            }
            if (!s && (!(s = slot_next(g, err)) || !slot_begin(g, s, err)))
                return false;
            vkCmdFillBuffer(s->cb, k->buf, 0, VK_WHOLE_SIZE, 0);
        }
    return !s || slot_submit(g, s, "the clearing of memory", a, err);
}
