/* merge: adapters put into a model file for good, W' = W + scale B A, without a device.
 *
 * The result is a file of its own: the model's keys as they are, its tensors in their order, and of
 * those that no adapter reaches every byte. What is reached is quantised again, row by row; nothing
 * is held but the factors. */
#pragma once
#include "base/base.h"

struct hlm_merged {               /* what became of one tensor; good during the call */
    const char *name, *from, *to; /* types */
    bool gate;                    /* a gate: of the rest only size says something */
    /* With D what the adapters add, W the tensor before and W' after, both dequantised: */
    double size;  /* |D| / |W| */
    double kept;  /* <W' - W, D> / <D, D>: how much of D arrived */
    double noise; /* |W' - W - D| / |D|: what came along, 1 being as much */
};

struct hlm_lora {
    const char *path;
    float scale;
};

struct hlm_merge_params {
    const char *model, *out;
    const struct hlm_lora *adapter;
    uint32_t n_adapter;
    const char *type; /* of the matrices that are reached: "Q8_0"; NULL: their own */
    /* Not NULL: out is the model with its gates changed and nothing else, and here is written the
     * one adapter without them. */
    const char *gates_only;
    bool (*progress)(void *user, uint64_t done, uint64_t total); /* bytes; false stops it */
    void (*told)(void *user, const struct hlm_merged *t);
    void *user;
};
struct hlm_merge_sum {
    uint64_t n_matrix, n_gate, n_tensor, bytes;
};

/* Writes p->out beside its place, reads it back, and only then puts it there. False: nothing is
 * left behind, and what stood there stands; err unset: it was stopped. */
bool hlm_merge(const struct hlm_merge_params *p, struct hlm_merge_sum *sum, struct hlm_err *err);
