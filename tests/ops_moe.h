/* ops_moe: mixtures of experts, one for each row of a table, for the device and the reference. */
#pragma once
#include "ops.h"

#define MOE_EPS 1e-6f
#define SWIGLU                                                                                     \
    {                                                                                              \
        ACT_SWIGLU, 0                                                                              \
    }
#define RELU2                                                                                      \
    {                                                                                              \
        ACT_RELU2, 0                                                                               \
    }
#define CUT                                                                                        \
    {                                                                                              \
        ACT_SWIGLU, 0.3f                                                                           \
    }

struct moe_row {
    uint32_t n_expert, n_used, n_embd, n_ff, n_ff_shared, n_tok; /* n_ff_shared 0: no shared
                                                                    expert */
    enum dtype gate, up, down; /* of the experts; gate and up are one matrix when of one type */
    enum dtype shared;         /* of the shared expert and its gate */
    uint32_t tie;              /* expert e has the router's row of expert e % tie; 0: its own */
    bool sigmoid;              /* with a bias, renormalised unless raw; without a shared gate */
    bool raw;
    uint32_t n_group, n_group_used, n_latent;
    struct act act; /* the shared expert's limit is twice this one */
    uint32_t rank;  /* rank of adapters; 0: none */
    float pull;     /* raises the first expert's bias and lowers the last one's */
    /* for a backward */
    bool frozen; /* the input's gradient is not wanted */
};

/* Both have the same numbers, which live as long as the rig. */
struct moe_pair {
    struct moe m;
    struct ref_moe ref;
    struct weight gate, up, down;
};

/* merged: the row's rank is that of adapters on the router and all experts, which are merged into
 * the reference's matrices. Otherwise it is that of adapters on the routed experts only, and the
 * reference has the matrices without them. */
struct moe_pair moe_make(struct rig *r, const struct moe_row *row, bool merged);
/* The second part of a case's name, after the name of the op. */
const char *moe_text(const struct moe_row *row, char text[200]);
