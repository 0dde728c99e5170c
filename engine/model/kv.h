/* kv: what a session remembers of the tokens it has read: keys and values of attention layers, the
 * convolution window and state of recurrent layers. The model gives the sizes; the session owns the
 * memory. */
#pragma once
#include "ops/op.h"

/* What a recurrent layer keeps; n_head 0: the layer is not recurrent. */
struct recurrent_shape {
    uint32_t n_head, n_row, n; /* the state of a head: n_row rows of n numbers */
    uint32_t d_conv, conv_k;   /* the window: conv_k - 1 inputs of d_conv channels */
};

struct layer_shape { /* what a layer keeps; 0: it has nothing of that kind */
    uint32_t n_kv_head, head_dim;
    uint32_t window; /* a token sees this many keys; 0: all */
    struct recurrent_shape recurrent;
    uint32_t n_expert; /* for counting how often each is chosen */
};

struct layer_cache {
    struct kv_layer kv;
    struct recurrent recurrent;
    struct moe_layer moe;
};

struct kv {
    uint32_t n_layer, n_ctx, n_seq, n_slot;
    struct layer_cache *layer;
    /* kv: keys and values of every position; a shorter history is a prefix of them. state: what
     * overwrites the past, so that snapshots must copy it: the states and windows of recurrent
     * layers, in slots, and the rings of sliding-window layers. */
    struct arena *kv, *state;
};

struct kv_params {
    uint32_t n_layer;
    const struct layer_shape *shape; /* [n_layer] */
    uint32_t n_ctx, n_batch;         /* positions; the most tokens of a batch */
    uint32_t n_seq, n_slot;          /* sequences; state slots of all of them */
    enum dtype type;                 /* of keys and values: F16, F32 or Q8_0 */
};
/* Takes memory for all layers in two new arenas, which stay uncommitted so that a plan can be made.
 * kv_finish must be called even after a failure. */
bool kv_init(struct kv *kv, struct gpu *g, const struct kv_params *p, struct hlm_err *err);
void kv_finish(struct kv *kv); /* takes a zeroed one */

/* A part of what overwrites the past, as one range: of a recurrent layer the state or the window in
 * one slot; of a sliding-window layer the ring of keys or of values of one sequence. */
struct kv_part {
    uint32_t layer;
    bool ring;
    tensor t; /* what it belongs to, for the sizes of rows and heads */
    uint64_t offset, bytes;
};
static inline tensor kv_part_tensor(const struct kv_part *p) /* as a place to copy from or to */
{
    return (tensor){ .arena = p->t.arena,
                     .offset = p->t.offset + p->offset,
                     .dtype = I32,
                     .n = 1024,
                     .n_row = 1,
                     .stride = 1024 };
}
/* The parts that belong to sequence seq with its state in a slot, in an order that is always the
 * same. Begin with at = 0; false: there are no more. */
bool kv_next_part(const struct kv *kv, uint32_t seq, uint32_t slot, uint32_t *at,
                  struct kv_part *part);
/* The bytes of all these parts. */
uint64_t kv_part_bytes(const struct kv *kv);
