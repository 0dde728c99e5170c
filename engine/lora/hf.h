/* hf: what a checkpoint on Hugging Face calls the matrices of a GGUF file, and in which order it
 * keeps heads. Each architecture has a table hf_<arch> in its models/<arch>.c; peft_map.c exports
 * adapters by it (see peft.h). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the rows of the checkpoint's matrix (or its columns) are among GGUF's. */
enum hf_order {
    HF_AS_IS,
    HF_V_ROWS,    /* V heads, each of the same number of rows */
    HF_V_COLS,    /* V heads, as columns; so columns of A */
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
    /* The checkpoint has this matrix and another in one: the stem of the other, and whether that
     * one comes first. NULL: it is alone. */
    const char *other;
    bool second;
};
#define HF(stem_, module_)                                                                         \
    {                                                                                              \
        .stem = stem_, .module = module_                                                           \
    }
#define HF_ORDERED(stem_, module_, order_)                                                         \
    {                                                                                              \
        .stem = stem_, .module = module_, .order = order_                                          \
    }
/* The first and the second of two that the checkpoint fuses. */
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
    const char *layers; /* what stands before the number of a layer: "model.layers." */
    const char *mixer;  /* the module that has the gates A_log, dt_bias and D */
    /* Of Gated DeltaNet: does GGUF keep V heads as the checkpoint (by K head), or tiled (the first
     * of every K head first)? */
    enum { HF_NO_V_HEADS, HF_V_BY_K_HEAD, HF_V_TILED } v_heads;
    /* Writes what stands before a module of draft block i. NULL: draft blocks are numbered after
     * the other layers. */
    void (*draft)(uint32_t i, const char *stem, char *name, size_t size);
    struct hf_list list[2];
};
#define ARCH(name) extern const struct hf_names hf_##name;
#include "models/models.def"
#undef ARCH
