/* peft_parts: what peft.c (the folder), peft_map.c (which module has which numbers) and peft_st.c
 * (safetensors files) share. */
#pragma once
#include "lora/lora_parts.h"
#include "lora/hf.h"
#include "lora/peft.h"

#include <jansson.h>

/* ---- modules (peft_map.c) -------------------------------------------------------------------- */

struct heads {
    uint32_t nk, nv, s;
    bool tiled;
}; /* nv 0: a family without */

/* A matrix of the checkpoint that has an adapter. */
struct module {
    char name[112];
    enum hf_order order;
    bool draft;
    const struct gguf_tensor *x[2]; /* of the base; [1] NULL: there is one alone */
    const struct lora_pair *p[2];   /* NULL: none on that one */
    uint32_t expert;
    uint64_t n_in, n_out;
    uint32_t rank; /* of both together */
    double scale;  /* alpha / rank, as HF is to have it */
};

struct peft {
    const struct hlm_peft_params *params;
    struct hlm_err *err;
    struct gguf *file;
    struct lora_file_base fb;
    const struct hf_names *names;
    struct lora_file *lora;
    double alpha; /* of the adapter's file */
    struct heads heads;
    uint32_t n_layer;      /* main blocks */
    struct module *module; /* draft ones among them */
    uint64_t n_module, cap_module;
    float *row; /* room for one */
    uint64_t done, total;
};
/* Fills names, heads, n_layer and modules, in the adapter's order. */
bool peft_map(struct peft *p);
/* Row r of a module's A (n_in numbers) or B (rank numbers). */
void peft_row_a(const struct peft *p, const struct module *m, uint64_t r, float *to);
void peft_row_b(const struct peft *p, const struct module *m, uint64_t r, float *to);
/* A gate's name and all its values, absolute, in the checkpoint's order. */
bool peft_gate_name(const struct peft *p, const struct gguf_tensor *x, char *name, size_t size);
bool peft_gate(const struct peft *p, const struct lora_delta *d, float *to);

/* ---- safetensors (peft_st.c) ----------------------------------------------------------------- */

struct st_tensor {
    char name[160];
    uint64_t shape[2];
    uint32_t n_dim;
};
struct st {
    uint64_t n;
    json_t *metadata;
    void (*tensor)(void *user, uint64_t i, struct st_tensor *t);
    /* row r of tensor i, of its last dimension; false stops it */
    bool (*row)(void *user, uint64_t i, uint64_t r, float *to);
    void *user;
};
/* Written and read back. room: for the longest row. */
bool st_write(const char *path, const struct st *s, float *room, struct hlm_err *err);
