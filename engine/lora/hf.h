/* hf: the names and the order of heads that a checkpoint on Hugging Face has for the matrices of a
 * GGUF file. Each architecture has a table hf_<arch> in its models/<arch>.c; peft_map.c exports
 * adapters with it (see peft.h). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How the rows or columns of the checkpoint's matrix are ordered. */
enum hf_order {
    HF_AS_IS,
    HF_V_ROWS,    /* V heads, all with the same number of rows */
    HF_V_COLS,    /* V heads as columns, which are columns of A */
    HF_QKV_ROWS,  /* q, k, then V heads */
    HF_QKVZ_ROWS, /* by K head: q, k, v, z; z is in the other matrix */
    HF_BA_ROWS,   /* by K head: b, a; a is in the other matrix */
    HF_APPENDED,  /* all rows of the first matrix, then all of the second */
    HF_UPPER_HALF,
    HF_LOWER_HALF, /* halves of GGUF's rows */
};

struct hf_matrix {
    const char *stem;   /* the name within a GGUF block: attn_q of blk.3.attn_q.weight */
    const char *module; /* the name within the checkpoint's layer; * is the expert's number */
    enum hf_order order;
    const char *other; /* the stem of the matrix with which the checkpoint fuses this one; NULL:
                          not fused */
    bool second;       /* the other comes first */
};
#define HF(stem_, module_)                                                                         \
    {                                                                                              \
        .stem = stem_, .module = module_                                                           \
    }
#define HF_ORDERED(stem_, module_, order_)                                                         \
    {                                                                                              \
        .stem = stem_, .module = module_, .order = order_                                          \
    }
/* The first and the second of two matrices that the checkpoint fuses. */
#define HF_FIRST(stem_, module_, order_, other_)                                                   \
    {                                                                                              \
        .stem = stem_, .module = module_, .order = order_, .other = other_                         \
    }
#define HF_SECOND(stem_, module_, order_, other_)                                                  \
    {                                                                                              \
        .stem = stem_, .module = module_, .order = order_, .other = other_, .second = true         \
    }

struct hf_list {
    const struct hf_matrix *matrix;
    uint32_t n;
};
#define HF_LIST(array)                                                                             \
    {                                                                                              \
        array, sizeof(array) / sizeof((array)[0])                                                  \
    }

struct hf_names {
    const char *layers; /* the text before the number of a layer: "model.layers." */
    const char *mixer;  /* the module that has the gates A_log, dt_bias and D */
    /* The order of Gated DeltaNet's V heads in the GGUF file: by K head, as in the checkpoint, or
     * tiled (first the first V head of every K head). */
    enum { HF_NO_V_HEADS, HF_V_BY_K_HEAD, HF_V_TILED } v_heads;
    /* Writes the text before a module of draft block i. NULL: draft blocks are numbered after the
     * other layers. */
    void (*draft)(uint32_t i, const char *stem, char *name, size_t size);
    struct hf_list list[2];
};
#define ARCH(name) extern const struct hf_names hf_##name;
#include "models/models.def"
#undef ARCH
