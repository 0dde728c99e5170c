/* gpu_cmd: records a list of dispatches, finds its hazards, turns it into command buffers, and runs
 * them.
 *
 * Recording only fills a list. Vulkan is not called before cmd_end, so that the scratch memory of a
 * list can be measured before it is committed. A use conflicts with an earlier use since the last
 * barrier if their bytes overlap and one of them writes. The entry then gets one global barrier
 * (drivers flush the same for a global barrier as for one per buffer).
 *
 * The list is cut into stretches, each with a command buffer, that are short enough for a watchdog.
 * Stretches are joined into as few submissions as the measured speed allows. The expected time of a
 * stretch is the work that ops declare (cmd_work) divided by that speed, and is compared with
 * LIMIT_S. The speed is a guess until gpu_prof.c has timed a cmd of some size. Then it is half
 * the slowest speed measured. A single dispatch is never cut; the size of the batch bounds it.
 *
 * A cmd begins with a full barrier and ends with one for the host, so whole cmds follow each other
 * like statements. Command buffers are kept and submitted again unchanged. */
#include "gpu/vk.h"

#include "gpu/shaders.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* The time that a submission may take, in seconds. The watchdogs of GPUs act after 2 s, those of
 * some drivers sooner. A CPU device has none: there the limit only bounds how long an interruption
 * has to wait, and the work of one token is never cut. */
#define LIMIT_S 0.1
#define LIMIT_CPU_S 2.0
#define LIMIT_CPU_FLOP 5e10
#define MAX_JOINED 16 /* stretches of one submission */

/* ---- recording ------------------------------------------------------------------------------- */

struct cmd *cmd_create(struct gpu *g, const char *name, struct arena *scratch, struct hlm_err *err)
{
    struct cmd *c = mem_alloc(1, sizeof *c);
    if (!c) {
        fail_memory(err, "%s: out of host memory", name);
        return NULL;
    }
    HLM_ASSERT(!scratch || (scratch->g == g && scratch->mem == MEM_DEVICE));
    c->g = g;
    c->scratch = scratch;
    c->layer = NO_LAYER;
    c->next = g->cmds;
    g->cmds = c;
    snprintf(c->name, sizeof c->name, "%s", name);
    return c;
}

struct gpu *cmd_gpu(const struct cmd *c) { return c->g; }
struct arena *cmd_scratch_arena(const struct cmd *c) { return c->scratch; }
void cmd_set_tape(struct cmd *c, struct tape *t) { c->tape = t; }
struct tape *cmd_tape(const struct cmd *c) { return c->tape; }
void cmd_set_f16(struct cmd *c, bool on) { c->f16 = on; }
void cmd_set_layer(struct cmd *c, uint32_t i) { c->layer = i; }
bool cmd_f16(const struct cmd *c) { return c->f16; }
void cmd_set_each(struct cmd *c, bool on) { c->each = on; }
bool cmd_each(const struct cmd *c) { return c->each; }
uint32_t cmd_n_dispatch(const struct cmd *c) { return c->n_dispatch; }
uint32_t cmd_n_barrier(const struct cmd *c) { return c->n_barrier; }

static uint64_t constants_given(const struct spec *spec)
{
    uint32_t v[N_CONSTANT];
    uint64_t given = 0;
    memcpy(v, spec, sizeof v);
    for (uint32_t id = 0; id < N_CONSTANT; id++)
        given |= (uint64_t)(v[id] != 0) << id;
    return given;
}

uint64_t cmd_constants(const struct cmd *c, enum kernel k)
{
    uint64_t given = 0;
    for (uint32_t i = 0; i < c->n_entry; i++)
        if (c->entry[i].op == OP_DISPATCH && c->entry[i].k == k)
            given |= constants_given(&c->g->pipe[c->entry[i].pipe].spec);
    return given;
}

static void stick(struct cmd *c, enum hlm_error kind, const char *fmt, va_list ap)
{
    char msg[400];
    vsnprintf(msg, sizeof msg, fmt, ap);
    fail_as(&c->err, kind, "%s: %s", c->name, msg);
}

void cmd_fail(struct cmd *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    stick(c, HLM_ERR_UNSUPPORTED, fmt, ap);
    va_end(ap);
}

void cmd_fail_as(struct cmd *c, enum hlm_error kind, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    stick(c, kind, fmt, ap);
    va_end(ap);
}

bool cmd_failed(const struct cmd *c) { return c->err.kind || c->g->lost; }

static bool recording(const struct cmd *c)
{
    HLM_ASSERT(!c->ended);
    return !cmd_failed(c);
}

/* Makes room for n more entries in a list of the cmd that has `have`. A failure sticks to the cmd.
 */
static bool grow(struct cmd *c, void *list, uint32_t have, uint32_t n, uint64_t *cap, size_t size)
{
    uint64_t want = (uint64_t)have + n;
    if (want <= UINT32_MAX && mem_reserve(list, want, cap, size))
        return true;
    cmd_fail_as(c, HLM_ERR_MEMORY, "out of host memory");
    return false;
}

tensor cmd_scratch(struct cmd *c, enum dtype dtype, uint32_t n, uint32_t n_row)
{
    tensor t = { .arena = c->scratch,
                 .dtype = dtype,
                 .n = n,
                 .n_row = n_row,
                 .stride = (uint32_t)align_up(n, 4) }; /* kernels load four numbers at a time */
    if (!recording(c))
        return (tensor){ 0 };
    HLM_ASSERT(c->scratch);
    if (arena_scratch(c->scratch, c->i_block, &c->block_at[c->i_block], tensor_bytes(t), &t.offset,
                      &c->err))
        return t;
    return (tensor){ 0 };
}

void cmd_begin_block(struct cmd *c)
{
    c->i_block ^= 1;
    c->block_at[c->i_block] = 0;
}

void cmd_restart_block(struct cmd *c) { c->block_at[c->i_block] = 0; }

void cmd_work(struct cmd *c, double flop) { c->pending_flop = flop; }

/* ---- hazards --------------------------------------------------------------------------------- */

/* True for two writes to different columns of the same rows, such as the matrices of a joint
 * projection make. A read and a write of different columns do get a barrier: the validation layer
 * checks whole bindings, and little could be gained. */
static bool columns_apart(const struct cmd_range *a, const struct cmd_range *b)
{
    return a->write && b->write && a->offset == b->offset && a->stride == b->stride &&
           (a->col1 <= b->col0 || b->col1 <= a->col0);
}

static bool conflict(const struct cmd_range *a, const struct cmd_range *b)
{
    return a->arena == b->arena && (a->write || b->write) && a->offset < b->offset + b->bytes &&
           b->offset < a->offset + a->bytes && !columns_apart(a, b);
}

/* Adds the arena to the list of arenas that the cmd uses. Each submission marks them as used. */
static bool note_arena(struct cmd *c, struct arena *a)
{
    for (uint32_t i = 0; i < c->n_arena; i++)
        if (c->arena[i] == a)
            return true;
    if (!grow(c, &c->arena, c->n_arena, 1, &c->cap_arena, sizeof *c->arena))
        return false;
    c->arena[c->n_arena++] = a;
    return true;
}

/* Adds the uses of the entry that is about to be appended. The entry needs a barrier if one of them
 * conflicts with a use since the last barrier. */
static bool add_uses(struct cmd *c, struct cmd_entry *e, const struct use *use, uint32_t n,
                     const uint64_t *bytes)
{
    if (!grow(c, &c->use, c->n_use, n, &c->cap_use, sizeof *c->use))
        return false;
    e->use = c->n_use;
    e->n_use = n;
    for (uint32_t i = 0; i < n; i++) {
        tensor t = use[i].t;
        uint64_t elem = tensor_elem_bytes(t);
        struct cmd_range r = { .arena = t.arena,
                               .offset = t.offset,
                               .bytes = bytes[i],
                               .write = use[i].write,
                               .read = use[i].read,
                               .stride = tensor_row_bytes(t),
                               .col0 = t.col * elem,
                               .col1 = ((uint64_t)t.col + t.n) * elem };
        if (e->op != OP_DISPATCH) /* copies and fills take whole rows */
            r.col0 = 0, r.col1 = UINT64_MAX;
        HLM_ASSERT(r.arena && r.arena->g == c->g && (r.write || r.read));
        for (uint32_t k = c->fresh; k < c->n_use && !e->barrier; k++)
            e->barrier = conflict(&c->use[k], &r);
        c->use[c->n_use + i] = r;
        if (!note_arena(c, r.arena))
            return false;
    }
    if (e->barrier) {
        c->n_barrier++;
        c->fresh = c->n_use;
    }
    c->n_use += n;
    return true;
}

static void append(struct cmd *c, struct cmd_entry e)
{
    if (!grow(c, &c->entry, c->n_entry, 1, &c->cap_entry, sizeof *c->entry))
        return;
    e.layer = c->layer;
    c->flop += e.flop;
    c->n_dispatch += e.op == OP_DISPATCH;
    c->transfers |= e.op != OP_DISPATCH;
    c->entry[c->n_entry++] = e;
}

/* Shaders read whole words, and every range of an arena consists of whole words. */
static uint64_t whole_words(uint64_t bytes) { return align_up(bytes, 16); }

/* Refuses constants that the kernel's shader does not have, and a dispatch without a size that it
 * needs. */
static bool constants_fit(struct cmd *c, enum kernel k, const struct spec *spec)
{
    static const char *const name[N_CONSTANT] = {
#define CONSTANT(id, name) [id] = #name,
#include "shaders/spec.def"
#undef CONSTANT
    };
    const struct shader *s = &hlm_shaders[k];
    uint64_t given = constants_given(spec), strange = given & ~s->constants;
    uint64_t lacking = s->sizes & ~given;
    for (uint32_t id = 0; s->words && (strange || lacking) && id < N_CONSTANT; id++)
        if (strange >> id & 1)
            cmd_fail(c, "%s gets the constant %s, which its shader does not have",
                     kernel_table[k].name, name[id]);
        else if (lacking >> id & 1)
            cmd_fail(c, "%s does not get the constant %s, which its shader needs",
                     kernel_table[k].name, name[id]);
    return !c->err.kind;
}

/* Refuses what the device cannot run. Mistakes of the engine are asserted. */
static bool dispatch_fits(struct cmd *c, enum kernel k, struct grid grid, const struct spec *spec,
                          const struct use *use, uint32_t n_use)
{
    const struct gpu *g = c->g;
    const uint32_t *max = g->limits.maxComputeWorkGroupCount;
    const char *name = kernel_table[k].name;
    char a[32], b[32];
    HLM_ASSERT((!hlm_shaders[k].words || n_use == hlm_shaders[k].n_bind) && n_use <= MAX_BIND);
    if (!constants_fit(c, k, spec))
        return false;
    if (spec->wg > g->caps.max_invocations)
        cmd_fail(c, "%s: workgroups of %u, %s has up to %u", name, spec->wg, g->caps.name,
                 g->caps.max_invocations);
    if (grid.x > max[0] || grid.y > max[1] || grid.z > max[2])
        cmd_fail_as(c, HLM_ERR_WONT_FIT,
                    "%s: a grid of %u x %u x %u workgroups, %s has up to %u x %u x %u", name,
                    grid.x, grid.y, grid.z, g->caps.name, max[0], max[1], max[2]);
    for (uint32_t i = 0; i < n_use; i++) {
        uint64_t bytes = whole_words(tensor_bytes(use[i].t));
        HLM_ASSERT(bytes && use[i].t.offset % g->caps.align == 0);
        if (bytes > g->caps.max_range)
            fail_size(&c->err, HLM_ERR_WONT_FIT,
                      &(struct hlm_err){ .need = bytes, .have = g->caps.max_range },
                      "%s: %s: binding %u spans %s, %s binds up to %s", c->name, name, i,
                      bytes_text(a, bytes), g->caps.name, bytes_text(b, g->caps.max_range));
    }
    return !c->err.kind;
}

void cmd_dispatch(struct cmd *c, enum kernel k, struct grid grid, struct spec spec,
                  const void *push, size_t n_push, const struct use *use, uint32_t n_use)
{
    uint64_t bytes[MAX_BIND];
    if (!recording(c) || !grid.x || !grid.y || !grid.z)
        return;
    HLM_ASSERT(n_push == kernel_table[k].push_bytes);
    if (!dispatch_fits(c, k, grid, &spec, use, n_use) ||
        !grow(c, &c->push, c->n_push, (uint32_t)n_push, &c->cap_push, 1))
        return;
    /* Only a CPU device is sure to make one subgroup of such a workgroup: other drivers may use
     * subgroups that are smaller than they report. */
    spec.one_subgroup = c->g->caps.kind == GPU_CPU && spec.wg <= c->g->caps.subgroup;
    struct cmd_entry e = { .op = OP_DISPATCH, .k = k, .grid = grid };
    for (uint32_t i = 0; i < n_use; i++)
        bytes[i] = whole_words(tensor_bytes(use[i].t));
    if (c->g->dry)
        return;
    e.push = c->n_push;
    e.n_push = (uint32_t)n_push;
    e.flop = c->pending_flop;
    e.pipe = pipe_find(c->g, k, &spec);
    if (e.pipe == UINT32_MAX)
        cmd_fail_as(c, HLM_ERR_MEMORY, "out of host memory");
    else if (add_uses(c, &e, use, n_use, bytes)) {
        memcpy(c->push + c->n_push, push, n_push);
        c->n_push += (uint32_t)n_push;
        c->pending_flop = 0;
        append(c, e);
    }
}

void cmd_copy(struct cmd *c, tensor dst, tensor src, uint64_t bytes)
{
    struct cmd_entry e = { .op = OP_COPY, .bytes = bytes };
    if (!recording(c) || !bytes || c->g->dry)
        return;
    HLM_ASSERT(bytes % 4 == 0 && dst.offset % 4 == 0 && src.offset % 4 == 0);
    if (add_uses(c, &e, (const struct use[]){ WRITE(dst), READ(src) }, 2,
                 (const uint64_t[]){ bytes, bytes }))
        append(c, e);
}

void cmd_fill(struct cmd *c, tensor dst, uint64_t bytes, uint32_t word)
{
    struct cmd_entry e = { .op = OP_FILL, .bytes = bytes, .word = word };
    if (!recording(c) || !bytes || c->g->dry)
        return;
    HLM_ASSERT(bytes % 4 == 0 && dst.offset % 4 == 0);
    if (add_uses(c, &e, (const struct use[]){ WRITE(dst) }, 1, &bytes))
        append(c, e);
}

/* ---- command buffers ------------------------------------------------------------------------- */

static void barrier(VkCommandBuffer cb, VkPipelineStageFlags src, VkAccessFlags src_access,
                    VkPipelineStageFlags dst, VkAccessFlags dst_access)
{
    const VkMemoryBarrier memory = { VK_STRUCTURE_TYPE_MEMORY_BARRIER, NULL, src_access,
                                     dst_access };
    vkCmdPipelineBarrier(cb, src, dst, 0, 1, &memory, 0, NULL, 0, NULL);
}

#define ALL_STAGES (VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT)
#define ALL_WRITES (VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT)
#define ALL_READS (VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT)

void barrier_full(VkCommandBuffer cb)
{
    barrier(cb, ALL_STAGES, ALL_WRITES, ALL_STAGES, ALL_WRITES | ALL_READS);
}

void barrier_host(VkCommandBuffer cb)
{
    barrier(cb, ALL_STAGES, ALL_WRITES, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
}

static void barrier_between(const struct cmd *c, VkCommandBuffer cb)
{
    const VkPipelineStageFlags compute = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    if (c->transfers)
        barrier_full(cb);
    else /* the usual case; with transfers some drivers would flush more */
        barrier(cb, compute, VK_ACCESS_SHADER_WRITE_BIT, compute,
                VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT);
}

/* Makes one pool with a set for each dispatch. Sets are written once. */
static bool sets_make(struct cmd *c, struct hlm_err *err)
{
    struct gpu *g = c->g;
    VkDescriptorBufferInfo info[MAX_BIND];
    VkWriteDescriptorSet write[MAX_BIND];
    uint32_t n_buf = 0;
    for (uint32_t i = 0; i < c->n_entry; i++)
        n_buf += c->entry[i].op == OP_DISPATCH ? c->entry[i].n_use : 0;
    if (!n_buf)
        return true;
    VKTRY(vkCreateDescriptorPool(
        g->dev,
        &(VkDescriptorPoolCreateInfo){
            .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
            .maxSets = c->n_dispatch,
            .poolSizeCount = 1,
            .pPoolSizes = &(VkDescriptorPoolSize){ VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, n_buf },
        },
        NULL, &c->sets));
    for (struct cmd_entry *e = c->entry; e < c->entry + c->n_entry; e++) {
        if (e->op != OP_DISPATCH)
            continue;
        VKTRY(vkAllocateDescriptorSets(g->dev,
                                       &(VkDescriptorSetAllocateInfo){
                                           .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                           .descriptorPool = c->sets,
                                           .descriptorSetCount = 1,
                                           .pSetLayouts = &g->set_layout[e->n_use],
                                       },
                                       &e->set));
        for (uint32_t b = 0; b < e->n_use; b++) {
            const struct cmd_range *r = &c->use[e->use + b];
            struct buffer_range at = arena_place(r->arena, r->offset, r->bytes);
            info[b] = (VkDescriptorBufferInfo){ at.buf, at.offset, r->bytes };
            write[b] = (VkWriteDescriptorSet){
                .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                .dstSet = e->set,
                .dstBinding = b,
                .descriptorCount = 1,
                .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                .pBufferInfo = &info[b],
            };
        }
        vkUpdateDescriptorSets(g->dev, e->n_use, write, 0, NULL);
    }
    return true;
fail:
    return false;
}

static void record_entry(const struct cmd *c, const struct cmd_entry *e, VkCommandBuffer cb,
                         VkPipeline *bound)
{
    const struct gpu *g = c->g;
    const struct cmd_range *use = &c->use[e->use];
    struct buffer_range dst = arena_place(use[0].arena, use[0].offset, use[0].bytes), src;
    switch (e->op) {
    case OP_DISPATCH:
        if (*bound != g->pipe[e->pipe].handle)
            vkCmdBindPipeline(cb, VK_PIPELINE_BIND_POINT_COMPUTE, *bound = g->pipe[e->pipe].handle);
        vkCmdBindDescriptorSets(cb, VK_PIPELINE_BIND_POINT_COMPUTE, g->layout[e->n_use], 0, 1,
                                &e->set, 0, NULL);
        vkCmdPushConstants(cb, g->layout[e->n_use], VK_SHADER_STAGE_COMPUTE_BIT, 0, e->n_push,
                           c->push + e->push);
        vkCmdDispatch(cb, e->grid.x, e->grid.y, e->grid.z);
        break;
    case OP_COPY:
        src = arena_place(use[1].arena, use[1].offset, use[1].bytes);
        vkCmdCopyBuffer(cb, src.buf, dst.buf, 1,
                        &(VkBufferCopy){ src.offset, dst.offset, e->bytes });
        break;
    case OP_FILL: vkCmdFillBuffer(cb, dst.buf, dst.offset, e->bytes, e->word); break;
    }
}

static bool record_stretch(struct cmd *c, uint32_t i_stretch, struct hlm_err *err)
{
    struct gpu *g = c->g;
    const struct stretch *p = &c->stretch[i_stretch];
    VkCommandBuffer cb = c->now.cb[i_stretch];
    VkPipeline bound = VK_NULL_HANDLE;
    VKTRY(vkBeginCommandBuffer(cb, &(VkCommandBufferBeginInfo){
                                       .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                       .flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT,
                                   }));
    if (i_stretch == 0)
        barrier_full(cb);
    for (uint32_t i = p->first; i < p->end; i++) {
        if (c->entry[i].barrier)
            barrier_between(c, cb);
        prof_stamp(c, cb, i);
        record_entry(c, &c->entry[i], cb, &bound);
    }
    if (i_stretch == c->n_stretch - 1) {
        prof_stamp_end(c, cb);
        barrier_host(cb);
    }
    VKTRY(vkEndCommandBuffer(cb));
    return true;
fail:
    return false;
}

/* Makes command buffers for all stretches, as the gpu's setting of profile wants them. */
static bool record_now(struct cmd *c, struct hlm_err *err)
{
    struct gpu *g = c->g;
    if (!(c->now.cb = mem_alloc(c->n_stretch, sizeof(VkCommandBuffer))))
        return fail_memory(err, "%s: out of host memory", c->name);
    VKTRY(vkCreateCommandPool(g->dev,
                              &(VkCommandPoolCreateInfo){
                                  .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                  .queueFamilyIndex = g->family,
                              },
                              NULL, &c->now.pool));
    VKTRY(vkAllocateCommandBuffers(g->dev,
                                   &(VkCommandBufferAllocateInfo){
                                       .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                       .commandPool = c->now.pool,
                                       .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                       .commandBufferCount = c->n_stretch,
                                   },
                                   c->now.cb));
    if (!prof_begin(c, err))
        return false;
    for (uint32_t i = 0; i < c->n_stretch; i++)
        if (!record_stretch(c, i, err))
            return false;
    return true;
fail:
    return false;
}

static void buffers_finish(const struct gpu *g, struct cmd_buffers *b)
{
    vkDestroyCommandPool(g->dev, b->pool, NULL);
    vkDestroyQueryPool(g->dev, b->query, NULL);
    free(b->cb);
    *b = (struct cmd_buffers){ 0 };
}

/* The setting of profile is another one: the same list with time stamps, or without them. It is
 * recorded the first time that it is wanted. */
static bool take_other(struct cmd *c, struct hlm_err *err)
{
    if (!gpu_wait_for(c->g, c->last_use, err))
        return false;
    prof_collect(c);
    c->timed = false;
    struct cmd_buffers was = c->now;
    c->now = c->other;
    c->other = was;
    if (c->now.pool || record_now(c, err))
        return true;
    buffers_finish(c->g, &c->now);
    c->now = was;
    c->other = (struct cmd_buffers){ 0 };
    return false;
}

/* The work that one submission may have, at the measured or expected speed of this cmd. */
static double limit_flop(const struct cmd *c)
{
    if (c->g->caps.kind != GPU_CPU)
        return c->flop_s * LIMIT_S;
    return c->flop_s * LIMIT_CPU_S > LIMIT_CPU_FLOP ? c->flop_s * LIMIT_CPU_S : LIMIT_CPU_FLOP;
}

/* Cuts the list into stretches whose work stays within the limit. */
static bool cut_stretches(struct cmd *c, struct hlm_err *err)
{
    double limit = limit_flop(c);
    if (!(c->stretch = mem_alloc((uint64_t)c->n_entry + 1, sizeof *c->stretch)))
        return fail_memory(err, "%s: out of host memory", c->name);
    c->n_stretch = 1;
    for (uint32_t i = 0; i < c->n_entry; i++) {
        struct stretch *p = &c->stretch[c->n_stretch - 1];
        if (p->flop > 0 && p->flop + c->entry[i].flop > limit) {
            p = &c->stretch[c->n_stretch++];
            p->first = i;
        }
        p->flop += c->entry[i].flop;
        p->end = i + 1;
    }
    return true;
}

bool cmd_check(const struct cmd *c, struct hlm_err *err)
{
    return c->err.kind ? fail_from(err, &c->err, "") : gpu_ok(c->g, err);
}

bool cmd_end(struct cmd *c, struct hlm_err *err)
{
    HLM_ASSERT(!c->ended);
    if (!cmd_check(c, err))
        return false;
    if (c->g->dry)
        return true;
    c->flop_s = c->g->flop_s;
    if (!pipes_make(c->g, err))
        return false;
    for (uint32_t i = 0; i < c->n_entry; i++)
        if (c->entry[i].op == OP_DISPATCH && !pipe_ready(c->g, c->entry[i].pipe, err))
            return false;
    if (!sets_make(c, err) || !cut_stretches(c, err) || !record_now(c, err))
        return false;
    c->ended = true;
    c->g->counts.n_record++;
    return true;
}

void cmd_destroy(struct cmd *c)
{
    if (!c)
        return;
    struct gpu *g = c->g;
    gpu_done_with(g, c->last_use);
    prof_collect(c);
    for (struct cmd **at = &g->cmds; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    vkDestroyDescriptorPool(g->dev, c->sets, NULL);
    buffers_finish(g, &c->now);
    buffers_finish(g, &c->other);
    free(c->entry);
    free(c->use);
    free(c->push);
    free(c->arena);
    free(c->stretch);
    free(c);
}

/* ---- running --------------------------------------------------------------------------------- */

uint64_t gpu_queue(struct gpu *g, const VkCommandBuffer *cb, uint32_t n, const char *what,
                   struct hlm_err *err)
{
    uint64_t value = g->submitted + 1;
    struct flight *f = &g->flight[value % N_FLIGHT];
    if (!gpu_ok(g, err))
        return 0;
    f->value = value;
    snprintf(f->what, sizeof f->what, "%s", what);
    VkResult r = fault_lost()
                     ? VK_ERROR_DEVICE_LOST
                     : GUARD(vkQueueSubmit(
                           g->queue, 1,
                           &(VkSubmitInfo){
                               .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                               .pNext =
                                   &(VkTimelineSemaphoreSubmitInfo){
                                       .sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                       .signalSemaphoreValueCount = 1,
                                       .pSignalSemaphoreValues = &value,
                                   },
                               .commandBufferCount = n,
                               .pCommandBuffers = cb,
                               .signalSemaphoreCount = 1,
                               .pSignalSemaphores = &g->timeline,
                           },
                           VK_NULL_HANDLE));
    if (r < 0) {
        gpu_refused(g, r, "vkQueueSubmit", err);
        return 0;
    }
    g->submitted = value;
    g->counts.n_submit++;
    return value;
}

bool gpu_wait_for(struct gpu *g, uint64_t value, struct hlm_err *err)
{
    if (value <= g->done)
        return true;
    if (!gpu_ok(g, err))
        return false;
    VkResult r = GUARD(vkWaitSemaphores(g->dev,
                                        &(VkSemaphoreWaitInfo){
                                            .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                            .semaphoreCount = 1,
                                            .pSemaphores = &g->timeline,
                                            .pValues = &value,
                                        },
                                        UINT64_MAX));
    if (fault_lost())
        r = VK_ERROR_DEVICE_LOST;
    if (r < 0)
        return gpu_refused(g, r, "vkWaitSemaphores", err);
    g->done = value;
    return true;
}

void gpu_done_with(struct gpu *g, uint64_t value)
{
    if (!gpu_wait_for(g, value, NULL) && !g->lost)
        vkDeviceWaitIdle(g->dev);
}

uint64_t gpu_submitted(const struct gpu *g) { return g->submitted; }
bool gpu_wait(struct gpu *g, struct hlm_err *err) { return gpu_wait_for(g, g->submitted, err); }

static const char *entry_name(const struct cmd_entry *e)
{
    return e->op == OP_COPY ? "copy" : e->op == OP_FILL ? "fill" : kernel_table[e->k].name;
}

/* Submits stretches [first, end) together. */
static bool submit_stretches(struct cmd *c, uint32_t first, uint32_t end, struct hlm_err *err)
{
    VkCommandBuffer cb[MAX_JOINED];
    char what[160];
    uint32_t a = c->stretch[first].first, z = c->stretch[end - 1].end;
    HLM_ASSERT(end - first <= MAX_JOINED);
    for (uint32_t i = first; i < end; i++)
        cb[i - first] = c->now.cb[i];
    if (z > a)
        snprintf(what, sizeof what, "%s, entries %u (%s) to %u (%s) of %u", c->name, a,
                 entry_name(&c->entry[a]), z - 1, entry_name(&c->entry[z - 1]), c->n_entry);
    else
        snprintf(what, sizeof what, "%s, which is empty", c->name);
    uint64_t value = gpu_queue(c->g, cb, end - first, what, err);
    if (!value)
        return false;
    c->last_use = value;
    for (uint32_t i = 0; i < c->n_arena; i++)
        c->arena[i]->last_use = value;
    return true;
}

bool cmd_submit(struct cmd *c, struct hlm_err *err)
{
    if (c->err.kind)
        return fail_from(err, &c->err, "");
    if (c->g->dry)
        return fail_as(err, HLM_ERR_STATE, "%s: nothing can be computed in a dry run", c->name);
    HLM_ASSERT(c->ended);
    if (c->now.profiled != c->g->profile && !take_other(c, err))
        return false;
    /* The next run overwrites the time stamps. Profiling waits for every run; otherwise the times
     * of runs that happen to be done are enough. */
    if (c->now.profiled && !gpu_wait_for(c->g, c->last_use, err))
        return false;
    prof_collect(c);
    double limit = limit_flop(c);
    for (uint32_t first = 0, end; first < c->n_stretch; first = end) {
        double flop = c->stretch[first].flop;
        end = first + 1;
        while (end < c->n_stretch && end - first < MAX_JOINED &&
               flop + c->stretch[end].flop <= limit)
            flop += c->stretch[end++].flop;
        if (!submit_stretches(c, first, end, err))
            return false;
    }
    c->timed = c->now.query != VK_NULL_HANDLE;
    return true;
}
