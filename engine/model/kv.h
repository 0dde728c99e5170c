/* kv: what a timeline remembers - keys and values of attention layers, convolution window and
 * recurrent state of linear layers. Sizes come from the model; the bytes are the session's. */
#pragma once
#include "ops/op.h"

/* What a recurrent layer keeps; n_head 0: the layer is not recurrent. */
struct recurrent_shape {
    uint32_t n_head, n_row, n; /* the state of a head: n_row rows of n numbers */
    uint32_t d_conv, conv_k;   /* the window: conv_k - 1 inputs of d_conv channels */
};

struct layer_shape { /* what one layer keeps; zeros where it keeps nothing */
    uint32_t n_kv_head, head_dim;
    uint32_t window; /* keys that a token sees; 0: all */
    struct recurrent_shape recurrent;
    uint32_t n_expert; /* nothing is kept but how often each was chosen */
};

struct layer_cache {
    struct kv_layer kv;
    struct recurrent recurrent;
    struct moe_layer moe;
};

struct kv {
    uint32_t n_layer, n_ctx;
    struct layer_cache *layer;
    /* kv: keys and values of every position, which a shorter history cuts by itself. state: what
     * the past is lost in, so that a snapshot must hold it - recurrent states, windows, and the
     * keys and values of layers that see only the newest. */
    struct arena *kv, *state;
};

/* Takes the layers' room in two fresh arenas and leaves them uncommitted: their sizes are
 * the plan's. n_batch: tokens of a batch at most. type: F16, F32 or Q8_0, of keys and values. */
bool kv_init(struct kv *kv, struct gpu *g, uint32_t n_layer, const struct layer_shape *shape,
             uint32_t n_ctx, uint32_t n_batch, enum dtype type, struct hlm_err *err);
void kv_finish(struct kv *kv); /* takes a zeroed one */
