/* gpu: everything that the engine says to a GPU - device, arena, cmd - without a Vulkan type.
 *
 * A gpu is one device with one queue. An arena is one buffer that owns its memory. A cmd is a list
 * of dispatches, recorded once by running model code and submitted any number of times. The order
 * of the dispatches inside a cmd follows from what each declares to read and write; no other file
 * contains a barrier. Only one thread may use a gpu at a time. Read gpu_cmd.c first. */
#pragma once
#include "gpu/kernels.h"
#include "gpu/tensor.h"

/* ---- device ---------------------------------------------------------------------------------- */

/* Preferred first: discrete, integrated, other, CPU. */
enum gpu_kind { GPU_DISCRETE, GPU_INTEGRATED, GPU_CPU, GPU_OTHER };

struct gpu_caps {
    char name[256], driver[256]; /* driver: its name and version */
    char uuid[33];               /* hexadecimal; copies of a software driver have the same */
    enum gpu_kind kind;
    uint32_t api_version; /* as VK_MAKE_API_VERSION makes it, with variant 0 */
    uint64_t heap_bytes;  /* size of the largest device-local heap */
    uint64_t free_bytes;  /* the driver's budget minus what is in use; heap_bytes if the driver does
                             not report it */
    uint64_t max_range;   /* the most bytes that a binding can address */
    uint64_t max_alloc;   /* the most bytes of one allocation or buffer */
    uint32_t align;       /* a binding's offset is a multiple of this */
    uint32_t max_shared;  /* bytes of workgroup memory */
    uint32_t max_invocations; /* the most in a workgroup */
    uint32_t subgroup;        /* lanes of a subgroup */
    bool subgroup_arith;      /* compute shaders have subgroup arithmetic and shuffles; required */
    bool unified;             /* the host can see all device memory: no staging copies are needed */
    bool loop_budget; /* the driver silently ends the loops of an invocation after 65535 rounds in
                         total (Mesa's llvmpipe before 23): stay below 60000 */
    /* features that the device has; shown by --list-devices */
    bool f16, bf16_store, int_dot, coopmat, timeline, memory_budget;
    /* The size of f16 matrices, [m][k] by [k][n], that a subgroup of `subgroup` lanes multiplies
     * with f32 sums. m 0: the device has no size that kernels can use. */
    struct {
        uint32_t m, n, k, subgroup;
    } coop;
};

struct gpu_params {
    const char *device;    /* NULL: the preferred kind; a number: the device with that number;
                              otherwise a part of a device's name */
    const char *cache_dir; /* the folder of the pipeline cache file; NULL: no file is kept */
    bool validate;   /* turns on the validation layer with core and synchronization checks; each
                        message is logged as an error and counted */
    bool profile;    /* takes the time of every dispatch */
    uint64_t memory; /* the most bytes of device memory for all arenas together; 0: 95 % of what
                        is free, so that other programs and the driver have the rest */
    /* Counts pipelines as they are created. Those that the cache on disk has are not counted. */
    hlm_progress preparing;
    void *preparing_user;
    bool test_staging;       /* for tests: treats the device as not unified */
    uint64_t test_max_alloc; /* for tests: a smaller caps.max_alloc */
    uint64_t test_max_range; /* for tests: a smaller caps.max_range */
};

struct gpu;

/* NULL with a reason: there is no Vulkan loader, no device that matches, or no device at all (the
 * reason then names packages with drivers). */
struct gpu *gpu_open(const struct gpu_params *params, struct hlm_err *err);
void gpu_close(struct gpu *g); /* takes NULL; waits until the device has finished */
const struct gpu_caps *gpu_caps(const struct gpu *g);
/* Fills out[0..max) in the order of the devices' numbers (--device). Returns how many devices there
 * are, or -1 on failure. */
int gpu_list(struct gpu_caps *out, int max, struct hlm_err *err);
uint32_t gpu_validation_count(const struct gpu *g);
/* False, always with the same reason, after the device has been lost. */
bool gpu_ok(const struct gpu *g, struct hlm_err *err);

/* ---- memory ---------------------------------------------------------------------------------- */

/* MEM_HOST is mapped and coherent, for small data that both the host and the device use. */
enum gpu_mem { MEM_DEVICE, MEM_HOST };

/* An arena begins empty. arena_take returns ranges, then arena_commit allocates exactly what was
 * taken; before that the arena cannot be used. Where the driver limits the size of a buffer, an
 * arena consists of several; no range crosses from one to the next. */
struct arena *arena_create(struct gpu *g, const char *purpose, enum gpu_mem mem,
                           struct hlm_err *err);
/* Returns the range's offset in bytes from the arena's start, a multiple of align. align is at
 * least 16; 0 means the device's alignment of bindings. */
uint64_t arena_take(struct arena *a, uint64_t bytes, uint64_t align);
/* Takes as much as `like` has taken, so that every offset in `like` is also valid here. */
void arena_take_like(struct arena *a, const struct arena *like);
/* Its rows follow each other without gaps. */
tensor arena_tensor(struct arena *a, enum dtype dtype, uint32_t n, uint32_t n_row);
/* Allocates what was taken, filled with zeros. The reason of a failure says how much was asked for
 * and how much is free. */
bool arena_commit(struct arena *a, struct hlm_err *err);
/* Takes NULL; waits until the device has finished the arena's last use. */
void arena_destroy(struct arena *a);
uint64_t arena_bytes(const struct arena *a); /* what has been taken so far */
/* The memory that this needs, with the driver's rounding. Nothing is allocated to find out. */
uint64_t arena_cost(const struct arena *a);
const char *arena_purpose(const struct arena *a);
/* The mapped bytes of a MEM_HOST arena; valid until the arena is destroyed. */
void *arena_map(struct arena *a, uint64_t offset);

/* The plan: what all arenas of the gpu cost, committed or not, by purpose, in the order in which
 * they were created. Fills at most max entries and returns how many purposes there are. A gpu whose
 * memory has to be staged owns one arena itself, the staging slots. */
struct gpu_memory {
    char purpose[64];
    bool on_host; /* in the host's memory, so not part of the device's budget */
    uint64_t bytes;
};
uint32_t gpu_plan(const struct gpu *g, struct gpu_memory *out, uint32_t max);
/* Bytes that the driver has given and that have not been returned, for one purpose or (NULL) for
 * all. When every arena is committed, these are the bytes of the plan. */
uint64_t gpu_allocated(const struct gpu *g, const char *purpose);
uint64_t gpu_budget(const struct gpu *g); /* params.memory, or what was chosen for 0 */
/* Bytes of the device's memory that anybody can still get; 0: neither the driver nor the system
 * reports it. Asks the driver. */
uint64_t gpu_left(const struct gpu *g);

/* A dry run: the code that creates an object also finds out what the object would cost. While a gpu
 * is dry nothing is allocated, written or run. arena_commit checks only that buffers can be as
 * large as the ranges that were taken, and leaves the arena uncommitted. cmd_dispatch checks its
 * arguments and adds nothing to the list; cmd_copy, cmd_fill and gpu_write do nothing. cmd_end only
 * reports whether recording succeeded, and leaves the cmd unfinished, so that cmd_submit fails.
 * arena_cost and gpu_plan count what was taken from arenas as always. gpu_dry returns the previous
 * setting, which the caller restores. */
bool gpu_dry(struct gpu *g, bool dry);
bool gpu_is_dry(const struct gpu *g);

/* Faults for tests, counted over all gpus of this process. Each happens once. After gpu_test_fail
 * the n-th request to a driver from now is refused for lack of memory; after gpu_test_lose the n-th
 * submission or wait from now finds the device lost. 1: the next one, 0: none. The result is the
 * number of requests that were left before the previous fault, 0 if it has happened. */
uint64_t gpu_test_fail(uint64_t n);
uint64_t gpu_test_lose(uint64_t n);
void gpu_test_staging(bool on); /* gpus that are opened from now on have params.test_staging */

/* Uploading weights. gpu_stage returns host memory for up to gpu_stage_max bytes. The caller fills
 * it before the next gpu_stage or gpu_stage_end; the bytes will be at offset in dst when
 * gpu_stage_end has returned true. */
uint64_t gpu_stage_max(const struct gpu *g);
void *gpu_stage(struct gpu *g, struct arena *dst, uint64_t offset, uint64_t bytes,
                struct hlm_err *err);
bool gpu_stage_end(struct gpu *g, struct hlm_err *err);

/* Small transfers. They run after everything that was submitted before, and return when they are
 * done. offset counts bytes from the tensor's start. */
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
}; /* in workgroups; the largest dimension belongs in x */
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

/* scratch: a MEM_DEVICE arena for intermediate tensors. Cmds that never run at the same time may
 * share it. While it is uncommitted it grows as cmds are recorded; once it is committed, a cmd that
 * needs more fails. */
struct cmd *cmd_create(struct gpu *g, const char *name, struct arena *scratch, struct hlm_err *err);
void cmd_destroy(struct cmd *c); /* takes NULL; waits until the device has finished it */
struct gpu *cmd_gpu(const struct cmd *c);
struct arena *cmd_scratch_arena(const struct cmd *c);
/* The tape of a cmd that trains (tape.h); NULL: it does not train. */
struct tape;
void cmd_set_tape(struct cmd *c, struct tape *t);
struct tape *cmd_tape(const struct cmd *c);

/* A scratch arena holds two block scratches, of which the cmd uses one. cmd_scratch takes a tensor
 * from it; the tensor stays until that block scratch begins anew. Every block of a model begins
 * with cmd_begin_block, which changes to the other block scratch and empties it: the block finds
 * its input in the block scratch of the block before and leaves its output in its own.
 * cmd_restart_block empties the one in use, for a block whose input and output lie elsewhere. */
tensor cmd_scratch(struct cmd *c, enum dtype dtype, uint32_t n, uint32_t n_row);
void cmd_begin_block(struct cmd *c);
void cmd_restart_block(struct cmd *c);

/* Sets whether products recorded from now on may take f16 operands; the default is false. Sums are
 * f32 in any case. */
void cmd_set_f16(struct cmd *c, bool on);
/* What is recorded from now on is work of this layer, by which times are summed (gpu_layer_times);
 * NO_LAYER, as at first: of none. */
#define NO_LAYER UINT32_MAX
void cmd_set_layer(struct cmd *c, uint32_t i);
bool cmd_f16(const struct cmd *c);
/* Sets whether the rows of what is recorded from now on are independent tokens, for example of
 * several conversations; the default is false. Each row of a result then has exactly the bits that
 * it has when its token is computed alone, whatever the other rows hold. Meant for a few tokens:
 * kernels for many tokens are not taken. */
void cmd_set_each(struct cmd *c, bool on);
bool cmd_each(const struct cmd *c);

/* Appends a dispatch. The uses are the bindings of set 0, in order; there must be as many as the
 * kernel has. A binding covers the tensor's rows from its offset; kernels get tensor.col as a
 * number. A dispatch of zero workgroups is dropped. After the first failure, and on a lost device,
 * recording calls do nothing. The cmd fails if spec sets a constant that the shader does not have,
 * or lacks a size that the shader needs. */
void cmd_dispatch(struct cmd *c, enum kernel k, struct grid grid, struct spec spec,
                  const void *push, size_t n_push, const struct use *use, uint32_t n_use);
/* Both start at the tensors' offsets; sizes are multiples of 4 bytes. */
void cmd_copy(struct cmd *c, tensor dst, tensor src, uint64_t bytes);
void cmd_fill(struct cmd *c, tensor dst, uint64_t bytes, uint32_t word);
/* Declares the floating-point operations of the next dispatch. They show where a cmd must be cut,
 * so that no submission runs too long. */
void cmd_work(struct cmd *c, double flop);
/* The first failure of a recording sticks to c. cmd_fail() is for what the device cannot do
 * (HLM_ERR_UNSUPPORTED). cmd_fail_as() takes the kind: HLM_ERR_WONT_FIT where fewer tokens would
 * fit. */
void cmd_fail(struct cmd *c, const char *fmt, ...) HLM_PRINTF(2, 3);
void cmd_fail_as(struct cmd *c, enum hlm_error kind, const char *fmt, ...) HLM_PRINTF(3, 4);
/* True when recording has failed or the device is lost: from then on scratch tensors are empty, and
 * ops do nothing. */
bool cmd_failed(const struct cmd *c);

bool cmd_check(const struct cmd *c,
               struct hlm_err *err); /* true if recording has succeeded so far */

/* Ends recording: creates missing pipelines (on several threads), writes descriptor sets, records
 * command buffers. The scratch arena must be committed. */
bool cmd_end(struct cmd *c, struct hlm_err *err);
/* Runs the whole list after everything that was submitted before, in one queue submission, or in
 * several if it might take longer than a watchdog allows. Does not wait. */
bool cmd_submit(struct cmd *c, struct hlm_err *err);
bool gpu_wait(struct gpu *g, struct hlm_err *err); /* until everything that was submitted has run */
/* The number of the newest submission, and waiting until that of a number has run. */
uint64_t gpu_submitted(const struct gpu *g);
bool gpu_wait_for(struct gpu *g, uint64_t submission, struct hlm_err *err);

uint32_t cmd_n_dispatch(const struct cmd *c);
/* The constants that any dispatch of the kernel sets, as bits `id` of spec.def. */
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
/* Whether the time of every dispatch is taken, from the next submission on: params.profile at
 * first. A cmd that was ended under the other setting is recorded once more when it is next
 * submitted, and keeps both. */
void gpu_set_profile(struct gpu *g, bool on);
/* The times of the kernels that ran since gpu_open or the last reset, longest first, while times
 * were taken. */
uint32_t gpu_times(struct gpu *g, struct gpu_kernel_time *out, uint32_t max);
/* The same by layers, in microseconds, of the first max layers, 128 at most. Returns how many have
 * run. */
uint32_t gpu_layer_times(struct gpu *g, double *us, uint32_t max);
void gpu_times_reset(struct gpu *g);

/* n_record: cmds that were ended; n_submit: queue submissions */
struct gpu_counts {
    uint64_t n_submit, n_record, n_pipeline, n_pipeline_cached;
    double pipeline_s;
};
struct gpu_counts gpu_counts(const struct gpu *g);
