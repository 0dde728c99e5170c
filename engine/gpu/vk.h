/* vk: what the gpu_*.c files share - Vulkan's headers, the private structs, and the calls between
 * them. Nothing outside gpu_*.c includes this. Read gpu.h first, then gpu_cmd.c.
 *
 * Time on the device is one number: every queue submission raises the timeline semaphore to its own
 * value, and an arena, a cmd or a staging slot remembers the value after which it is free. */
#pragma once
#include <stdatomic.h>
#include <stdio.h>
#include <vulkan/vulkan.h>

#include "gpu/gpu.h"

/* A call that a driver may refuse for want of memory; tests make it so (gpu_test_fail). */
#define GUARD(call) (fault_memory() ? VK_ERROR_OUT_OF_DEVICE_MEMORY : (call))

/* In a function with g, err and a label `fail`: what Vulkan refuses is told, a lost device sticks
 * to g. */
#define VKTRY(call)                                                                                \
    do {                                                                                           \
        VkResult result_ = GUARD(call);                                                            \
        if (result_ < 0) {                                                                         \
            gpu_refused(g, result_, #call, err);                                                   \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

#define MAX_BIND 16 /* storage buffers of one kernel */
#define N_SLOT 4    /* of the staging ring */
#define SLOT_BYTES (16ull << 20)
#define N_FLIGHT 256 /* submissions whose names are kept for the report of a lost device */

/* ---- memory ---------------------------------------------------------------------------------- */

/* An arena's offset has its span in the top four bits: 0 is what arena_take gives out, 1 and 2 are
 * the two block scratches of a scratch arena. A span is cut into chunks of caps.max_alloc bytes,
 * each a buffer of its own as long as what was taken from it needs. */
#define N_SPAN 3
#define SPAN_SHIFT 60
#define MAX_CHUNK 128 /* of a span: 256 GiB at the least cap we know of */

struct chunk {
    VkBuffer buf;
    VkDeviceMemory mem;
    uint8_t *map;   /* NULL where the host cannot see it */
    uint64_t bytes; /* of the buffer; until it is made, taken so far */
    uint64_t given; /* of mem */
};

struct arena {
    struct gpu *g;
    char purpose[64];
    enum gpu_mem mem;
    bool committed;
    struct arena *next;
    uint64_t end;      /* of what was taken from span 0 */
    uint64_t too_big;  /* the largest range taken that no chunk can hold */
    uint64_t beyond;   /* bytes taken past the last chunk */
    uint64_t last_use; /* timeline */
    struct chunk chunk[N_SPAN][MAX_CHUNK];
};

/* A range inside the one buffer that holds it. Asserts that the arena is committed and the range
 * taken. */
struct place {
    VkBuffer buf;
    uint64_t offset;
    uint8_t *map;
};
struct place arena_place(const struct arena *a, uint64_t offset, uint64_t bytes);
/* Where bytes fit in block scratch i_block of a scratch arena, at or after *at; moves *at to their
 * end. */
bool arena_scratch(struct arena *a, uint32_t i_block, uint64_t *at, uint64_t bytes,
                   uint64_t *offset, struct hlm_err *err);
/* Bytes that may still be allocated from a heap; false when nobody tells. */
bool heap_free(VkPhysicalDevice phys, enum gpu_kind kind, bool budget, uint32_t heap,
               uint64_t *bytes);
uint64_t host_bytes(void); /* of the machine */
bool arena_on_host(const struct arena *a);

/* For tests: whether this call is the one to fail (gpu_test_fail, gpu_test_lose). */
bool fault_memory(void);
bool fault_lost(void);
bool fault_staging(void);

/* ---- device ---------------------------------------------------------------------------------- */

struct pipe {
    enum kernel k;
    struct spec spec;
    VkPipeline handle; /* NULL until pipes_make, and if result tells why not */
    VkResult result;
};

struct flight { /* one submission, as the report of a lost device tells it */
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
    struct hlm_err lost_err; /* why, once lost */
    struct messages messages;

    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
    VkPhysicalDevice phys;
    VkPhysicalDeviceLimits limits;
    VkPhysicalDeviceMemoryProperties memory;
    VkDevice dev;
    uint32_t family;
    VkQueue queue;
    double tick_us; /* of a time stamp; 0: the queue has none */

    VkSemaphore timeline;
    uint64_t submitted, done;       /* timeline values: last given out, last known reached */
    struct flight flight[N_FLIGHT]; /* by value % N_FLIGHT */
    double flop_s, slowest; /* speed by which new cmds are cut; the least measured, 0: none yet */

    VkDescriptorSetLayout set_layout[MAX_BIND + 1];
    VkPipelineLayout layout[MAX_BIND + 1];
    struct pipe *pipe;
    uint32_t n_pipe;
    uint64_t cap_pipe;
    VkPipelineCache cache;
    char cache_path[512]; /* empty: none is kept */
    uint64_t shader_hash;
    uint8_t cache_uuid[VK_UUID_SIZE];
    uint32_t driver_version;
    uint64_t *known; /* hashes of the pipelines in the file's cache */
    uint64_t n_known;

    VkCommandPool pool; /* of the slots */
    struct slot slot[N_SLOT];
    uint32_t i_slot;
    struct arena *stage; /* N_SLOT x SLOT_BYTES, committed when first needed; NULL where all
                            memory is mapped */
    uint64_t stage_at[N_SLOT];
    struct { /* what gpu_stage has handed out; slot NULL: nothing */
        struct slot *slot;
        struct arena *dst;
        uint64_t offset, bytes;
    } staged;

    uint64_t budget;                   /* device memory that arenas may have */
    uint64_t given_device, given_host; /* what the driver has given for them */
    struct arena *arenas;              /* all, linked, in order of creation */
    struct cmd *cmds;                  /* all, linked */
    struct gpu_counts counts;
    struct gpu_kernel_time time[KERNEL_COUNT + 2]; /* kernels, copy, fill */
};

/* Puts what Vulkan refused into err; a lost device is remembered. Always false. */
bool gpu_refused(struct gpu *g, VkResult r, const char *call, struct hlm_err *err);

/* ---- pipelines ------------------------------------------------------------------------------- */

bool pipes_open(struct gpu *g, const char *cache_dir, struct hlm_err *err);
void pipes_close(struct gpu *g);
/* Index of the pipeline, made or not; UINT32_MAX without memory. */
uint32_t pipe_find(struct gpu *g, enum kernel k, const struct spec *spec);
void pipes_make(struct gpu *g); /* all that were found and have not been tried yet */
bool pipe_ready(struct gpu *g, uint32_t i_pipe, struct hlm_err *err);

/* ---- recording ------------------------------------------------------------------------------- */

enum entry_op { OP_DISPATCH, OP_COPY, OP_FILL };

struct range { /* what an entry reads or writes: columns of rows, all in bytes */
    struct arena *arena;
    uint64_t offset, bytes;
    uint64_t stride, col0, col1;
    bool write, read;
};

struct entry {
    enum entry_op op;
    enum kernel k;
    bool barrier; /* one stands before it */
    uint32_t pipe;
    struct grid grid;
    uint32_t use, n_use;   /* in cmd.use; a copy has dst, src; a fill has dst */
    uint32_t push, n_push; /* in cmd.push */
    uint64_t bytes;        /* of a copy or fill */
    uint32_t word;         /* of a fill */
    double flop;
    VkDescriptorSet set;
};

struct stretch { /* entries [first, end) in one command buffer */
    VkCommandBuffer cb;
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
    uint32_t i_block;     /* of the two block scratches, the one in use */
    uint64_t block_at[2]; /* of each, the end of what is taken */
    struct tape *tape;    /* NULL: it does not train */
    bool f16;

    struct entry *entry;
    struct range *use;
    uint8_t *push;
    struct arena **arena; /* those it touches, each once */
    uint32_t n_entry, n_use, n_push, n_arena;
    uint64_t cap_entry, cap_use, cap_push, cap_arena;
    uint32_t fresh; /* uses from here on are not behind a barrier yet */
    uint32_t n_barrier, n_dispatch;
    double pending_flop, flop;

    VkDescriptorPool sets;
    VkCommandPool pool;
    struct stretch *stretch;
    uint32_t n_stretch;
    VkQueryPool query; /* NULL: no times are taken */
    uint32_t n_query;
    bool timed;    /* a submission's times have not been collected yet */
    double flop_s; /* speed by which its stretches are joined */
    uint64_t last_use;
};

void barrier_full(VkCommandBuffer cb); /* all that was written before is seen behind it */
void barrier_host(VkCommandBuffer cb); /* the host will see what was written */
/* Submits; the timeline value it will reach, 0 on failure. what: for the report of a lost
 * device. */
uint64_t gpu_queue(struct gpu *g, const VkCommandBuffer *cb, uint32_t n, const char *what,
                   struct hlm_err *err);
bool gpu_wait_for(struct gpu *g, uint64_t value, struct hlm_err *err);
void gpu_done_with(struct gpu *g, uint64_t value); /* before destroying: waits at any price */

/* ---- copies ---------------------------------------------------------------------------------- */

bool copy_open(struct gpu *g, struct hlm_err *err);
void copy_close(struct gpu *g);
bool copy_zero(struct gpu *g, struct arena *a, struct hlm_err *err);

/* ---- times ----------------------------------------------------------------------------------- */

/* Makes the query pool, if times are wanted. */
bool prof_begin(struct cmd *c, struct hlm_err *err);
void prof_stamp(struct cmd *c, VkCommandBuffer cb, uint32_t i_entry); /* before an entry */
void prof_stamp_end(struct cmd *c, VkCommandBuffer cb);
void prof_collect(struct cmd *c); /* takes what is there, without waiting */
