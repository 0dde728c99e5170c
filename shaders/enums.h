/* enums: the enums that C and GLSL share. In GLSL an enum is a list of constants. Every number is
 * written out, and no name is used twice. */
#ifndef HLM_ENUMS_H
#define HLM_ENUMS_H
#ifdef VULKAN
#define ENUM(tag) const uint
#define END ;
#else
#define ENUM(tag) enum tag {
#define END };
#endif

/* Tensor types, with GGUF's ids: of weights in files, of packed weights on the device
 * (weight.glsl), and of all tensors. */
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
    EPI_ADD_GATED = 2,      /* y = res + product * sigmoid(gate[t]) */
    EPI_ACT = 3             /* y = activation of the product: its act_kind is added to this */
END

/* What linear.comp does to x as it reads it. */
ENUM(linear_in)
    IN_PLAIN = 0,
    IN_NORM = 1             /* RMS over n_in, times a weight */
END

/* The activation between the matrices of a feed-forward network. */
ENUM(act_kind)
    ACT_SWIGLU = 0,         /* silu(gate) * up, arXiv 2002.05202; with a limit L
                               min(silu(gate), L) * clamp(up, -L, L) */
    ACT_RELU2 = 1           /* max(up, 0)^2, arXiv 2109.08668: there is no gate */
END

/* The rows of x in kernels that take the entries of a batch by expert (moe_sort.comp). */
ENUM(grouped_by)
    GROUPED_NOT = 0,        /* no experts: tokens in their order */
    GROUPED_TOKEN = 1,      /* a row for each token */
    GROUPED_ENTRY = 2       /* a row for each entry */
END

/* What moe_linear.comp does with the products of a token's experts. */
ENUM(expert_out)
    OUT_SLOTS = 0,          /* stores a row for each */
    OUT_SUM = 1,            /* stores their weighted sum */
    OUT_SUM_ADD = 2,        /* the same, added to res */
    OUT_SLOTS_ADD = 3,      /* adds each to its row */
    OUT_ACT = 4             /* stores a row for each: its activation (ACT) */
END

/* How a router chooses experts and weighs them. */
ENUM(route)
    ROUTE_SOFTMAX = 0,
    ROUTE_SIGMOID = 1
END

/* The gate of attention's output: none, a sigmoid for each element, a sigmoid for each head. */
ENUM(attention_gate)
    GATE_NONE = 0, GATE_ELEM = 1, GATE_HEAD = 2
END

#undef ENUM
#undef END
#endif
