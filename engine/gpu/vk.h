/* vk: what the gpu_*.c files share: Vulkan's headers, private structs and functions. No other file
 * includes it. Read gpu.h first, then gpu_cmd.c.
 *
 * Time on the device is one number. Every queue submission raises the timeline semaphore to its own
 * value when it is done. An arena, a cmd or a staging slot remembers the value of its last use, and
 * is free when the timeline has reached it. */
#pragma once
#include <stdatomic.h>
#include <stdio.h>
#include <vulkan/vulkan.h>

#include "gpu/gpu.h"

/* A call that a driver may refuse for lack of memory. Tests make it fail (gpu_test_fail). */
#define GUARD(call) (fault_memory() ? VK_ERROR_OUT_OF_DEVICE_MEMORY : (call))

/* For a function with g, err and a label `fail`: when Vulkan refuses the call, err gets the reason,
 * and g remembers a lost device. */
#define VKTRY(call)                                                                                \
    do {                                                                                           \
        VkResult result_ = GUARD(call);                                                            \
        if (result_ < 0) {                                                                         \
            gpu_refused(g, result_, #call, err);                                                   \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

#define MAX_BIND 16 /* storage buffers of one kernel */
#define N_SLOT 4    /* of staging memory */
#define SLOT_BYTES (16ull << 20)
#define N_FLIGHT 256 /* submissions whose names are kept, for the report of a lost device */

/* ---- memory ---------------------------------------------------------------------------------- */

/* The top four bits of an offset into an arena are its span: arena_take uses span 0, the two block
 * scratches of a scratch arena are spans 1 and 2. A span is divided into chunks of caps.max_alloc
 * bytes. Each chunk is a separate buffer, as large as its ranges need. */
#define N_SPAN 3
#define SPAN_SHIFT 60
#define MAX_CHUNK 128 /* of a span: 256 GiB at the smallest caps.max_alloc that we know of */

struct arena_chunk {
    VkBuffer buf;
    VkDeviceMemory mem;
    uint8_t *map;   /* NULL if the host cannot see it */
    uint64_t bytes; /* of the buffer; before it is created, what has been taken so far */
    uint64_t given; /* of mem, as the driver rounded them */
};

struct arena {
    struct gpu *g;
    char purpose[64];
    enum gpu_mem mem;
    bool committed;
    struct arena *next;
    uint64_t end;      /* end of what was taken from span 0 */
    uint64_t too_big;  /* the largest range that was taken although no chunk can hold it */
    uint64_t beyond;   /* bytes that were taken past the last chunk */
    uint64_t last_use; /* a value of the timeline */
    struct arena_chunk chunk[N_SPAN][MAX_CHUNK];
};

/* Where a range of an arena is: a buffer and an offset in it. Asserts that the arena is committed
 * and that the range was taken. */
struct buffer_range {
    VkBuffer buf;
    uint64_t offset;
    uint8_t *map;
};
struct buffer_range arena_place(const struct arena *a, uint64_t offset, uint64_t bytes);
/* Takes a range in block scratch i_block of a scratch arena, from *at on; moves *at to its end. */
bool arena_scratch(struct arena *a, uint32_t i_block, uint64_t *at, uint64_t bytes,
                   uint64_t *offset, struct hlm_err *err);
/* Bytes that can still be allocated from a heap; false if neither the driver nor the system reports
 * them. */
bool heap_free(VkPhysicalDevice phys, enum gpu_kind kind, bool budget, uint32_t heap,
               uint64_t *bytes);
uint64_t host_bytes(void); /* of the machine */
bool arena_on_host(const struct arena *a);

/* For tests: whether this call is the one that fails (gpu_test_fail, gpu_test_lose), and whether
 * memory is staged. */
bool fault_memory(void);
bool fault_lost(void);
bool fault_staging(void);

/* ---- device ---------------------------------------------------------------------------------- */

struct pipe {
    enum kernel k;
    struct spec spec;
    VkPipeline handle; /* NULL before pipes_make, and if that failed: see result */
    VkResult result;
};

struct flight { /* a submission, for the report of a lost device */
    uint64_t value;
    char what[160];
};

struct slot {
    VkCommandBuffer cb;
    uint64_t value;
};

struct messages { /* of the validation layer */
    atomic_uint n;
    struct hlm_log log; /* where they go, whichever thread they come from */
};

struct gpu {
    struct gpu_caps caps;
    bool validate, profile, lost, dry;
    uint32_t heap;           /* the device's own */
    struct hlm_err lost_err; /* why the device was lost */
    struct messages messages;

    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
    VkPhysicalDevice phys;
    VkPhysicalDeviceLimits limits;
    VkPhysicalDeviceMemoryProperties memory;
    VkDevice dev;
    uint32_t family;
    VkQueue queue;
    double tick_us; /* microseconds per tick of a time stamp; 0: the queue has none */

    VkSemaphore timeline;
    /* values of the timeline: of the last submission, and the last one known to be reached */
    uint64_t submitted, done;
    struct flight flight[N_FLIGHT]; /* index: value % N_FLIGHT */
    /* the speed by which new cmds are cut into stretches; the slowest speed measured, 0: none yet
     */
    double flop_s, slowest;

    VkDescriptorSetLayout set_layout[MAX_BIND + 1];
    VkPipelineLayout layout[MAX_BIND + 1];
    struct pipe *pipe;
    uint32_t n_pipe;
    uint64_t cap_pipe;
    VkPipelineCache cache;
    char cache_path[512]; /* empty: no file is kept */
    uint64_t shader_hash;
    uint8_t cache_uuid[VK_UUID_SIZE];
    uint32_t driver_version;
    uint64_t *known; /* hashes of the pipelines that were in the cache file */
    uint64_t n_known;
    hlm_progress preparing;
    void *preparing_user;

    VkCommandPool pool; /* the slots' command buffers */
    struct slot slot[N_SLOT];
    uint32_t i_slot;
    /* N_SLOT x SLOT_BYTES, committed when first needed; NULL if all memory is mapped */
    struct arena *stage;
    uint64_t stage_at[N_SLOT];
    struct { /* what gpu_stage has handed out and not yet copied; slot NULL: nothing */
        struct slot *slot;
        struct copy_range {
            struct arena *arena;
            uint64_t offset, bytes;
        } to;
    } staged;

    uint64_t budget;                   /* bytes of device memory that arenas may have */
    uint64_t given_device, given_host; /* bytes that the driver has given for them */
    struct arena *arenas;              /* a list of all, in the order of their creation */
    struct cmd *cmds;                  /* a list of all */
    struct gpu_counts counts;
    struct gpu_kernel_time time[KERNEL_COUNT + 2]; /* of each kernel, of copies, of fills */
    double layer_us[128];
};

/* Makes Vulkan's refusal of a call the reason in err, and remembers a lost device. Always false. */
bool gpu_refused(struct gpu *g, VkResult r, const char *call, struct hlm_err *err);

/* ---- pipelines ------------------------------------------------------------------------------- */

bool pipes_open(struct gpu *g, const char *cache_dir, struct hlm_err *err);
void pipes_close(struct gpu *g);
/* The index of the pipeline, whether it has been created or not; UINT32_MAX if there is no memory.
 */
uint32_t pipe_find(struct gpu *g, enum kernel k, const struct spec *spec);
/* Creates all pipelines that pipe_find returned and that were not tried before. False when the
 * callback asked to stop. */
bool pipes_make(struct gpu *g, struct hlm_err *err);
bool pipe_ready(struct gpu *g, uint32_t i_pipe, struct hlm_err *err);

/* ---- recording ------------------------------------------------------------------------------- */

enum entry_op { OP_DISPATCH, OP_COPY, OP_FILL };

struct cmd_range { /* what an entry reads or writes: some columns of rows, all in bytes */
    struct arena *arena;
    uint64_t offset, bytes;
    uint64_t stride, col0, col1;
    bool write, read;
};

struct cmd_entry {
    enum entry_op op;
    enum kernel k;
    bool barrier; /* there is a barrier before it */
    uint32_t pipe;
    struct grid grid;
    uint32_t use, n_use;   /* its part of cmd.use; a copy has dst, src; a fill has dst */
    uint32_t push, n_push; /* its part of cmd.push */
    uint64_t bytes;        /* of a copy or fill */
    uint32_t word;         /* of a fill */
    uint32_t layer;        /* that it is work of, or NO_LAYER */
    double flop;
    VkDescriptorSet set;
};

struct stretch { /* entries [first, end), which share a command buffer */
    uint32_t first, end;
    double flop;
};

struct cmd {
    struct gpu *g;
    struct cmd *next;
    char name[64];
    struct hlm_err err; /* the first failure of recording */
    bool ended, transfers;

    struct arena *scratch;
    uint32_t i_block;     /* the block scratch in use, 0 or 1 */
    uint64_t block_at[2]; /* the end of what is taken in each */
    struct tape *tape;    /* NULL: it does not train */
    bool f16, each;
    uint32_t layer; /* of what is recorded now */

    struct cmd_entry *entry;
    struct cmd_range *use;
    uint8_t *push;
    struct arena **arena; /* all that its entries use, each once */
    uint32_t n_entry, n_use, n_push, n_arena;
    uint64_t cap_entry, cap_use, cap_push, cap_arena;
    uint32_t fresh; /* the uses from here on have no barrier after them yet */
    uint32_t n_barrier, n_dispatch;
    double pending_flop, flop;

    VkDescriptorPool sets;
    struct stretch *stretch;
    uint32_t n_stretch;
    struct cmd_buffers { /* the list as it is recorded */
        VkCommandPool pool;
        VkCommandBuffer *cb; /* [n_stretch] */
        VkQueryPool query;   /* NULL: times are not taken */
        uint32_t n_query;
        bool profiled; /* with a time stamp for each entry */
    } now, other;      /* other: under the other setting of profile; NULLs until it is wanted */
    bool timed;        /* the times of a submission have not been collected yet */
    double flop_s;     /* the speed that decides how many stretches a submission has */
    uint64_t last_use;
};

void barrier_full(VkCommandBuffer cb); /* everything after it sees all that was written before it */
void barrier_host(VkCommandBuffer cb); /* the host will see what was written */
/* Submits, and returns the submission's value of the timeline, 0 on failure. what: its name in the
 * report of a lost device. */
uint64_t gpu_queue(struct gpu *g, const VkCommandBuffer *cb, uint32_t n, const char *what,
                   struct hlm_err *err);
/* Before something is destroyed: waits for its last use even after a failure. */
void gpu_done_with(struct gpu *g, uint64_t value);

/* ---- copies ---------------------------------------------------------------------------------- */

bool copy_open(struct gpu *g, struct hlm_err *err);
void copy_close(struct gpu *g);
bool copy_zero(struct gpu *g, struct arena *a, struct hlm_err *err);

/* ---- times ----------------------------------------------------------------------------------- */

/* Creates the query pool, if times are wanted. */
bool prof_begin(struct cmd *c, struct hlm_err *err);
void prof_stamp(struct cmd *c, VkCommandBuffer cb, uint32_t i_entry); /* before an entry */
void prof_stamp_end(struct cmd *c, VkCommandBuffer cb);
void prof_collect(struct cmd *c); /* takes the times that are there, without waiting */
