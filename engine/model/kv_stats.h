/* kv_stats: statistics of each layer beside its cache (hlm_counters.h) - how often experts were
 * chosen, what recurrent gates and states were like - and bringing them to the host.
 *
 * Places lie in one range, so that one read gets all of them. Experts are counted from the first
 * batch on; gates are those of the newest batch that told (op.h: batch.stats). */
#pragma once
#include "model/kv.h"

struct stats_place { /* of a layer; words from the range's start */
    uint32_t n_expert, n_head;
    uint32_t load, gates, state;
};

struct kv_stats {
    struct gpu *gpu;
    uint32_t n_layer;
    struct stats_place *place;
    tensor all; /* I32; arena NULL: no layer has anything to tell */
    bool has_gates;
    bool ran;            /* something may have been counted */
    uint32_t *now, *was; /* as they were read last, and the time before that */
    struct cmd *states;  /* looks at the states of caches; NULL: none is needed */
};

/* Takes room in an uncommitted arena, and lets layer[] point there. */
bool kv_stats_init(struct kv_stats *s, struct gpu *g, struct arena *a, uint32_t n_layer,
                   const struct layer_shape *shape, struct layer_cache *layer, struct hlm_err *err);
/* The recurrent states of caches are to be told of: recorded here, and run whenever they are
 * asked for; shape and layer as above. */
bool kv_stats_states(struct kv_stats *s, const struct layer_shape *shape,
                     const struct layer_cache *layer, struct arena *scratch, struct hlm_err *err);
/* Of a committed arena. Waits. */
bool kv_stats_read(struct kv_stats *s, struct hlm_err *err);
void kv_stats_finish(struct kv_stats *s); /* takes a zeroed one */
