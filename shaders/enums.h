/* enums: what numbers stand for, named once for C and GLSL. An enum of C is a list of constants in
 * GLSL; every number is written out, and no name stands twice. */
#ifndef HLM_ENUMS_H
#define HLM_ENUMS_H
#ifdef VULKAN
#define ENUM(tag) const uint
#define END ;
#else
#define ENUM(tag) enum tag {
#define END };
#endif

/* Tensor types, by GGUF's ids: of weights in a file and packed on the device (weight.glsl), and of
 * every tensor. */
ENUM(dtype)
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11,
    Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19,
    IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23, I8 = 24, I16 = 25, I32 = 26, I64 = 27,
    F64 = 28, IQ1_M = 29, BF16 = 30, TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40, Q1_0 = 41,
    Q2_0 = 42, DTYPE_COUNT = 43
END

/* What the matrix kernels store. */
ENUM(epilogue)
    EPI_STORE = 0,          /* y = product */
    EPI_ADD = 1,            /* y = res + product */
    EPI_ADD_GATED = 2       /* y = res + product * sigmoid(gate[t]) */
END

/* What linear.comp does to x on the way in. */
ENUM(linear_in)
    IN_PLAIN = 0,
    IN_NORM = 1,            /* RMS over n_in, times a weight */
    IN_ACT = 2              /* an activation: its act_kind is added to this */
END

/* What a feed-forward does between its matrices. */
ENUM(act_kind)
    ACT_SWIGLU = 0,         /* silu(gate) * up, arXiv 2002.05202; with a limit L
                               min(silu(gate), L) * clamp(up, -L, L) */
    ACT_RELU2 = 1           /* max(up, 0)^2, arXiv 2109.08668: there is no gate */
END

/* Rows of x, of kernels that take a mixture's entries by expert (moe_sort.comp). */
ENUM(grouped_by)
    GROUPED_NOT = 0,        /* tokens in their order, and no experts */
    GROUPED_TOKEN = 1,      /* a row a token */
    GROUPED_ENTRY = 2       /* a row an entry */
END

/* What moe_linear.comp makes of the products of a token's chosen experts. */
ENUM(expert_out)
    OUT_SLOTS = 0,          /* a row each */
    OUT_SUM = 1,            /* weighted and summed */
    OUT_SUM_ADD = 2,        /* and added to res */
    OUT_SLOTS_ADD = 3       /* a row each, added to what is there */
END

/* How a router chooses experts and weighs them. */
ENUM(route)
    ROUTE_SOFTMAX = 0,
    ROUTE_SIGMOID = 1
END

/* What the output of attention is multiplied by: nothing, a sigmoid of as many numbers, a sigmoid
 * of one number a head. */
ENUM(attention_gate)
    GATE_NONE = 0, GATE_ELEM = 1, GATE_HEAD = 2
END

#undef ENUM
#undef END
#endif
