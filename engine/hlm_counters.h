/* hlm_counters.h: the figures of an engine at work, in one plain struct. The engine fills it, the
 * programs publish it in shared memory (ui/ring.h) and print it.
 *
 * It crosses the border between processes as it is: no pointers, no padding, members of fixed size.
 * A change raises HLM_COUNTERS_VERSION. Sums count since the model was opened; text that is too
 * long is cut; what is not known is zero. */
#ifndef HLM_COUNTERS_H
#define HLM_COUNTERS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HLM_COUNTERS_VERSION = 5,
    HLM_MAX_COUNTED = 64,
    HLM_MAX_PURPOSE = 16,
    HLM_MAX_LAYER = 128,
    HLM_MAX_BAR = 32768, /* what is beyond is not shown */
};

enum hlm_state {
    HLM_IDLE,    /* no work is under way */
    HLM_LOADING, /* weights on their way to the device; done, total: bytes */
    HLM_READING, /* a prompt or other given tokens; done, total: tokens */
    HLM_GENERATING,
    HLM_TRAINING,   /* a step; done, total: rows of it */
    HLM_VALIDATING, /* done, total: rows */
};

struct hlm_kernel_count {
    char name[24];
    uint64_t n, bytes; /* dispatches; bytes that they may touch */
    double us, flop;
};

/* Statistics of a layer, when params.layers is set. Experts are counted since the model was opened,
 * for every token that goes through them; padding, what training runs a second time, and validation
 * do not count. The counts of an inactive session are added when it next runs or is destroyed.
 * Gates are those of the newest batch that was looked at: a batch of a prompt, a token a few times
 * a second, a training row. States are those after it, of a training row those that its chunks went
 * on from. */
struct hlm_layer_count {
    uint64_t n_chosen;         /* choices: tokens times the experts that each takes */
    uint32_t n_expert, bar_at; /* 0: has none; of its first expert in bar[] */
    float load_max;            /* share of the choices that the busiest expert has */
    float load_unused;         /* share of the experts that were never chosen */
    float load_even;           /* entropy of the choices over its largest: 1 when all have alike */
    uint32_t n_head, n_tok;    /* recurrent heads, 0: has none; tokens that its gates are of */
    float decay, decay_min, decay_max; /* what the state is multiplied by at a token; mean, least,
                                          most over tokens and heads */
    float write;                       /* mean of what new is written by: beta, of Mamba2 dt */
    float state_rms, state_max; /* root of the mean square, largest magnitude; infinite when one is
                                   no finite number */
    float delta_max;            /* magnitude of the largest delta that training gave its gates */
    uint32_t n_state;           /* states that this is of, heads times chunks; 0: none yet */
    float us; /* microseconds of its kernels, while they were timed; needs no params.layers */
};

/* Memory for one purpose, of everything that is alive. */
struct hlm_memory_count {
    char purpose[32];    /* "weights" "kv" "state" "scratch" ... */
    uint64_t plan, real; /* as laid out; as the driver has given it */
    uint32_t on_host, spare;
};

struct hlm_counters {
    char model[128], arch[32], device[128], driver[128];
    /* For the program that publishes the counters: the newest error that it printed, and how many.
     * The engine leaves them empty. */
    char error[192];
    uint64_t n_error;
    uint32_t state;         /* enum hlm_state */
    uint32_t n_validation;  /* messages of the validation layer */
    uint32_t n_ctx, n_used; /* of the session at work: positions, those taken */
    uint64_t done, total;   /* of the work under way; total 0: none that is measured */

    uint64_t n_read;      /* tokens read for the first time */
    uint64_t n_reused;    /* tokens that were not read again, because their state was kept */
    uint64_t n_reread;    /* tokens that were read again */
    uint64_t n_gen;       /* tokens that were generated */
    double read_s, gen_s; /* seconds of reading and generating */
    double read_per_s;    /* tokens read a second, of the current prompt or the last */
    double gen_per_s;     /* tokens generated a second, of the current answer or the last */

    uint64_t n_step, step;                            /* of training: steps in all, steps done */
    uint64_t n_counted;                               /* tokens whose loss counted */
    double loss, loss_mtp, valid_loss, lr, grad_norm; /* of the newest step, validation */
    double train_per_s; /* tokens of rows a second, padding not counted */

    uint64_t n_submit, n_record, n_pipeline; /* queue submissions, recordings, pipelines */
    /* Memory by purpose; that of sessions is the one's that works or worked last. */
    uint64_t weight_bytes, adapter_bytes, kv_bytes, state_bytes, scratch_bytes, snapshot_bytes,
        other_bytes;
    uint64_t train_bytes; /* of a training run, without weights and adapters */

    uint64_t budget_bytes;           /* of the device, that all purposes together may take */
    uint64_t heap_bytes, free_bytes; /* that the device has; that anybody can still get of them */
    uint64_t n_memory;
    struct hlm_memory_count memory[HLM_MAX_PURPOSE];
    uint64_t n_snapshot, snapshot_max; /* of the session at work: kept now, room for */
    uint64_t n_evicted;                /* snapshots that others took the room of */

    double clip_norm;             /* 0: gradients are not clipped */
    double best_loss;             /* of validation, at best_step; holds if n_valid is not 0 */
    uint64_t best_step, n_valid;  /* n_valid: validations in this process */
    uint64_t epoch;               /* whole passes done */
    uint64_t n_saved, saved_step; /* checkpoints written, and the step of the newest */

    /* What the program adds: why its newest turn read tokens again, "" when it did not; the newest
     * sample answer of a training. */
    char why[160];
    uint64_t sample_step, n_sample; /* n_sample: so far */
    char sample_prompt[160], sample_text[640];

    /* Since hlm_kernels_reset, the slowest first; only with params.profile. */
    uint64_t n_kernel;
    struct hlm_kernel_count kernel[HLM_MAX_COUNTED];

    uint64_t n_layer; /* with statistics, draft blocks last; 0: params.layers is not set */
    struct hlm_layer_count layer[HLM_MAX_LAYER];
    uint8_t bar[HLM_MAX_BAR]; /* for drawing: an expert's choices in 255ths of those of the
                                 busiest expert of its layer; hlm_expert_loads is exact */
};

#ifdef __cplusplus
}
#endif
#endif
