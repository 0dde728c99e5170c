/* kv_stats: statistics of each layer (hlm_counters.h): how often each expert was chosen, and the
 * values of recurrent gates and states.
 *
 * All lie in one range of device memory, so that one read copies them to the host. Experts are
 * counted from the first batch on. Gates are those of the last batch with statistics (op.h:
 * batch.stats). */
#pragma once
#include "model/kv.h"

struct stats_place { /* of a layer, in words from the beginning of the range */
    uint32_t n_expert, n_head;
    uint32_t load, gates, state;
};

struct kv_layers { /* arrays of n */
    uint32_t n;
    const struct layer_shape *shape;
    struct layer_cache *cache;
};

struct kv_stats {
    struct gpu *gpu;
    uint32_t n_layer;
    struct stats_place *place;
    tensor all; /* I32; arena NULL: no layer has statistics */
    bool has_gates;
    bool ran;            /* it has been used, so there may be counts to read */
    uint32_t *now, *was; /* from the last read, and from the one before */
    struct cmd *states;  /* computes statistics of the states in caches; NULL: none */
    struct arena *own;   /* of kv_stats_open */
};

/* Takes memory in an uncommitted arena and makes the layers write their statistics there. */
bool kv_stats_init(struct kv_stats *s, struct gpu *g, struct arena *a, const struct kv_layers *l,
                   struct hlm_err *err);
/* Records statistics of the recurrent states in caches, of the sequence that the step buffer names
 * first; kv_stats_read runs the recording. */
bool kv_stats_states(struct kv_stats *s, const struct kv_layers *l, tensor step,
                     struct arena *scratch, struct hlm_err *err);
/* Moves `now` to `was` and reads the statistics into `now`. The arena must be committed. Waits for
 * the device. */
bool kv_stats_read(struct kv_stats *s, struct hlm_err *err);
/* The three above at once, in memory of its own, for caches that are in use already; ready to be
 * used. scratch NULL: there are no states in caches, and no step buffer. What was recorded with
 * these caches before writes no statistics. After a failure there are none. */
bool kv_stats_open(struct kv_stats *s, struct gpu *g, const struct kv_layers *l, tensor step,
                   struct arena *scratch, struct hlm_err *err);
/* Ends statistics, and takes them out of the layers. What was recorded with them is void. */
void kv_stats_close(struct kv_stats *s, const struct kv_layers *l);
void kv_stats_finish(struct kv_stats *s); /* takes a zeroed one */
