/* gpu: the whole GPU vocabulary - device, arena, cmd - without a Vulkan type.
 *
 * A gpu is one device with one queue. An arena is one buffer that owns its memory. A cmd is a list
 * of dispatches, recorded once by running model code and submitted any number of times. Ordering
 * inside a cmd is found from what each dispatch says it reads and writes; nobody else writes a
 * barrier. One thread per gpu. Read gpu_cmd.c first. */
#pragma once
#include "gpu/kernels.h"
#include "gpu/tensor.h"

/* ---- device ---------------------------------------------------------------------------------- */

/* in order of preference: 0 1 3 2 */
enum gpu_kind { GPU_DISCRETE, GPU_INTEGRATED, GPU_CPU, GPU_OTHER };

struct gpu_caps {
    char name[256], driver[256]; /* driver: name and version text */
    char uuid[33];               /* hexadecimal; equal on copies of a software driver */
    enum gpu_kind kind;
    uint32_t api_version;     /* as in VK_API_VERSION, 0 in the variant */
    uint64_t heap_bytes;      /* of the largest device-local heap */
    uint64_t free_bytes;      /* driver's budget less use; heap_bytes where the driver does
                                 not tell */
    uint64_t max_range;       /* bytes a binding may span */
    uint64_t max_alloc;       /* bytes of one allocation or buffer */
    uint32_t align;           /* of a binding's offset */
    uint32_t max_shared;      /* bytes of workgroup memory */
    uint32_t max_invocations; /* of a workgroup */
    uint32_t subgroup;        /* size */
    bool subgroup_arith;      /* subgroupAdd, subgroupShuffle and the like in compute
                                 shaders; required */
    bool unified;             /* all device memory is host-visible: no staging copy needed */
    bool loop_budget;         /* driver stops a shader invocation's loops after 65535 rounds
                                 in all, silently (Mesa's llvmpipe before 23): keep
                                 below 60000 */
    /* what is there; shown by --list-devices */
    bool f16, bf16_store, int_dot, coopmat, timeline, memory_budget;
    /* f16 matrices that a subgroup of so many lanes multiplies with f32 sums: [m][k] by [k][n]. m
     * 0: none of a size that kernels take */
    struct {
        uint32_t m, n, k, subgroup;
    } coop;
};

struct gpu_params {
    const char *device;      /* NULL: discrete before integrated before CPU; "1": by number; else
                                part of a name */
    const char *cache_dir;   /* where the pipeline cache file lives; NULL: none is kept */
    bool validate;           /* validation layer with core and synchronization checks; each message
                                is logged as an error and counted */
    bool profile;            /* time stamps around every dispatch */
    uint64_t memory;         /* bytes of device memory that arenas may have in all; 0: what is free,
                                less a twentieth for others and for the driver itself */
    bool test_staging;       /* for tests: not unified even where the device is */
    uint64_t test_max_alloc; /* for tests: a smaller caps.max_alloc */
    uint64_t test_max_range; /* for tests: a smaller caps.max_range */
};

struct gpu;

/* NULL with a reason: no loader, no device (the reason names packages that bring one), no
 * such device. */
struct gpu *gpu_open(const struct gpu_params *params, struct hlm_err *err);
void gpu_close(struct gpu *g); /* takes NULL; waits for the device */
const struct gpu_caps *gpu_caps(const struct gpu *g);
/* Fills out[0..max) in enumeration order (the numbers of --device); returns how many there are, -1
 * on failure. */
int gpu_list(struct gpu_caps *out, int max, struct hlm_err *err);
uint32_t gpu_validation_count(const struct gpu *g);
/* False once the device is lost; the reason stays. */
bool gpu_ok(const struct gpu *g, struct hlm_err *err);

/* ---- memory ---------------------------------------------------------------------------------- */

/* MEM_HOST: mapped, coherent, for small things both sides touch */
enum gpu_mem { MEM_DEVICE, MEM_HOST };

/* An arena starts empty: arena_take hands out ranges, arena_commit allocates exactly what was
 * taken, and only then can it be used. Several VkBuffers stand behind it where the driver caps a
 * buffer's size; no range taken crosses from one to the next. Sizes of uncommitted arenas are what
 * --plan prints. */
struct arena *arena_create(struct gpu *g, const char *purpose, enum gpu_mem mem,
                           struct hlm_err *err);
/* Bytes from the arena's start; a multiple of align (at least 16; 0: the device's
 * binding alignment). */
uint64_t arena_take(struct arena *a, uint64_t bytes, uint64_t align);
/* Takes what `like` has taken: an offset there has as much room here. */
void arena_take_like(struct arena *a, const struct arena *like);
/* rows lie dense */
tensor arena_tensor(struct arena *a, enum dtype dtype, uint32_t n, uint32_t n_row);
bool arena_commit(struct arena *a, struct hlm_err *err); /* contents are zero; out of memory:
                                                        asked, free */
void arena_destroy(struct arena *a);                     /* takes NULL; waits until its last use
                                                            is done */
uint64_t arena_bytes(const struct arena *a);             /* taken so far */
/* What that costs: bytes as the driver rounds them, asked for without allocating. */
uint64_t arena_cost(const struct arena *a);
const char *arena_purpose(const struct arena *a);
void *arena_map(struct arena *a, uint64_t offset); /* MEM_HOST only; valid until it is
                                                      destroyed */

/* The plan: what the arenas that there are cost, committed or not, by purpose in the order in which
 * they were made. Returns how many purposes there are (at most max filled). A gpu owns one arena
 * itself: the staging ring, where memory has to be staged. */
struct gpu_memory {
    char purpose[64];
    bool on_host; /* not out of the device's own memory, so not of its budget */
    uint64_t bytes;
};
uint32_t gpu_plan(const struct gpu *g, struct gpu_memory *out, uint32_t max);
/* Bytes that the driver has given and not got back; purpose NULL: all. Once every arena is
 * committed that is the plan. */
uint64_t gpu_allocated(const struct gpu *g, const char *purpose);
uint64_t gpu_budget(const struct gpu *g); /* params.memory, or what stands for 0 */

/* While a gpu is dry nothing is allocated, written or run: arena_commit says only whether there are
 * buffers so large, cmd_end whether recording went well, and both leave things as they are. So the
 * code that makes something also tells what it will cost. Returns what was set before. */
bool gpu_dry(struct gpu *g, bool dry);
bool gpu_is_dry(const struct gpu *g);

/* For tests, of every gpu of this process, each happening once: the n-th thing from now that is
 * asked of a driver is refused for want of memory; the n-th submission or wait from now finds the
 * device lost. 1: the next, 0: none. They return how far away the one asked for before still was: 0
 * when it has happened. */
uint64_t gpu_test_fail(uint64_t n);
uint64_t gpu_test_lose(uint64_t n);
void gpu_test_staging(bool on); /* gpus opened from now on have params.test_staging */

/* Weights on their way in. gpu_stage returns memory for bytes (at most gpu_stage_max) that will
 * stand at offset in dst once gpu_stage_end has returned true; the memory is the caller's to fill
 * until its next gpu_stage. */
uint64_t gpu_stage_max(const struct gpu *g);
void *gpu_stage(struct gpu *g, struct arena *dst, uint64_t offset, uint64_t bytes,
                struct hlm_err *err);
bool gpu_stage_end(struct gpu *g, struct hlm_err *err);

/* Small blocking transfers; ordered after everything submitted before. byte counts from the
 * tensor's offset. */
bool gpu_write(struct gpu *g, tensor dst, uint64_t offset, const void *src, uint64_t bytes,
               struct hlm_err *err);
bool gpu_read(struct gpu *g, tensor src, uint64_t offset, void *dst, uint64_t bytes,
              struct hlm_err *err);

/* ---- recording ------------------------------------------------------------------------------- */

struct cmd;

/* The specialization constants of shaders/spec.def; a constant that is not named is 0. cmd_dispatch
 * sets one_subgroup itself. */
struct HLM_NAMED spec {
#define CONSTANT(id, name) uint32_t name;
#include "shaders/spec.def"
#undef CONSTANT
};
enum { N_CONSTANT = sizeof(struct spec) / sizeof(uint32_t) };
struct grid {
    uint32_t x, y, z;
}; /* workgroups; the large dimension belongs in x */
struct use {
    tensor t;
    bool write, read;
};

#define SPEC(...) ((struct spec){ __VA_ARGS__ })
#define GRID(x, y, z) ((struct grid){ (x), (y), (z) })
#define PUSH(...) &(__VA_ARGS__), sizeof(__VA_ARGS__)
#define READ(tensor_)                                                                              \
    {                                                                                              \
        .t = (tensor_), .read = true                                                               \
    }
#define WRITE(tensor_)                                                                             \
    {                                                                                              \
        .t = (tensor_), .write = true                                                              \
    }
#define BOTH(tensor_)                                                                              \
    {                                                                                              \
        .t = (tensor_), .read = true, .write = true                                                \
    }
#define USES(...)                                                                                  \
    (const struct use[]){ __VA_ARGS__ },                                                           \
        (uint32_t)(sizeof((const struct use[]){ __VA_ARGS__ }) / sizeof(struct use))

/* scratch: an uncommitted or committed MEM_DEVICE arena for intermediate tensors; several cmds
 * that never run at once may share it. It grows while uncommitted; afterwards a cmd that needs
 * more fails. */
struct cmd *cmd_create(struct gpu *g, const char *name, struct arena *scratch, struct hlm_err *err);
void cmd_destroy(struct cmd *c); /* takes NULL; waits until it has run */
struct gpu *cmd_gpu(const struct cmd *c);
struct arena *cmd_scratch_arena(const struct cmd *c);
/* What training hangs on a cmd (tape.h); NULL: nothing. */
struct tape;
void cmd_set_tape(struct cmd *c, struct tape *t);
struct tape *cmd_tape(const struct cmd *c);

/* A scratch arena holds two block scratches, of which the cmd uses one. cmd_scratch takes a tensor
 * from it; the tensor stays until that block scratch begins anew. Every block of a model begins
 * with cmd_begin_block, which changes to the other block scratch and empties it: the block finds
 * its input in the block scratch of the block before and leaves its output in its own.
 * cmd_restart_block empties the one in use, for a block whose input and output stand elsewhere. */
tensor cmd_scratch(struct cmd *c, enum dtype dtype, uint32_t n, uint32_t n_row);
void cmd_begin_block(struct cmd *c);
void cmd_restart_block(struct cmd *c);

/* May products take f16 operands in what is recorded from here on? At first they may not. Sums are
 * f32 in any case. */
void cmd_set_f16(struct cmd *c, bool on);
bool cmd_f16(const struct cmd *c);

/* Appends a dispatch. Bindings are the uses, in order, at set 0; their number must be the kernel's.
 * The range bound is the tensor's rows from its offset (tensor.col is not applied: kernels get it
 * as a number). A grid with a zero is dropped. After the first failure, and on a lost device,
 * recording calls do nothing. The cmd fails where spec gives the kernel a constant that its shader
 * does not have, or lacks a size that the shader needs. */
void cmd_dispatch(struct cmd *c, enum kernel k, struct grid grid, struct spec spec,
                  const void *push, size_t n_push, const struct use *use, uint32_t n_use);
/* from both offsets; 4-byte sizes */
void cmd_copy(struct cmd *c, tensor dst, tensor src, uint64_t bytes);
void cmd_fill(struct cmd *c, tensor dst, uint64_t bytes, uint32_t word);
/* Floating-point operations of the dispatches that follow until the next call, for cutting work
 * to measure. */
void cmd_work(struct cmd *c, double flop);
/* The first failure of a recording sticks to c. cmd_fail() is for what the device cannot do
 * (HLM_ERR_UNSUPPORTED), the other says another kind: HLM_ERR_WONT_FIT where fewer tokens would do.
 */
void cmd_fail(struct cmd *c, const char *fmt, ...) HLM_PRINTF(2, 3);
void cmd_fail_as(struct cmd *c, enum hlm_error kind, const char *fmt, ...) HLM_PRINTF(3, 4);
/* Recording has failed or the device is lost: tensors are empty from here on, and ops
 * do nothing. */
bool cmd_failed(const struct cmd *c);

bool cmd_check(const struct cmd *c, struct hlm_err *err); /* recording has gone well so far */

/* Ends recording: makes missing pipelines (on several threads), writes descriptor sets, records
 * command buffers. The scratch arena must be committed by now. */
bool cmd_end(struct cmd *c, struct hlm_err *err);
/* Runs the whole list after everything submitted before it: one queue submission unless its work is
 * more than a watchdog would bear, then several. Does not wait. */
bool cmd_submit(struct cmd *c, struct hlm_err *err);
bool gpu_wait(struct gpu *g, struct hlm_err *err); /* until everything submitted has run */

uint32_t cmd_n_dispatch(const struct cmd *c);
/* The constants, bit `id` each (spec.def), that some dispatch of the kernel gives; 0: there is
 * none. */
uint64_t cmd_constants(const struct cmd *c, enum kernel k);
uint32_t cmd_n_barrier(const struct cmd *c);

/* ---- counters -------------------------------------------------------------------------------- */

struct gpu_kernel_time {
    const char *name;
    uint64_t n;
    double us;
    uint64_t bytes;
    double flop;
};
/* Summed since gpu_open or the last reset, kernels that ran, most time first; needs
 * params.profile. */
uint32_t gpu_times(struct gpu *g, struct gpu_kernel_time *out, uint32_t max);
void gpu_times_reset(struct gpu *g);

/* n_record: cmds ended; n_submit: queue submissions */
struct gpu_counts {
    uint64_t n_submit, n_record, n_pipeline, n_pipeline_cached;
    double pipeline_s;
};
struct gpu_counts gpu_counts(const struct gpu *g);
