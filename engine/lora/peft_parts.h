/* peft_parts: shared by peft.c (the folder), peft_import.c (the way back), peft_config.c
 * (settings), peft_map.c (names, and where the numbers of a module are), peft_st.c and peft_st_in.c
 * (safetensors files). */
#pragma once
#include "lora/lora_parts.h"
#include "lora/hf.h"
#include "lora/peft.h"

#include <jansson.h>

/* ---- modules (peft_map.c) -------------------------------------------------------------------- */

/* The heads of Gated DeltaNet; nv 0: the architecture has none. */
struct peft_heads {
    uint32_t nk, nv, s; /* K heads, V heads, numbers of a head */
    bool tiled;
};

/* A matrix of the checkpoint that has an adapter. */
struct peft_module {
    char name[112];
    enum hf_order order;
    bool draft;                     /* belongs to a draft block */
    const struct gguf_tensor *x[2]; /* its tensors in the base; [1] NULL: there is only one */
    const struct lora_pair *p[2];   /* their factors; NULL: no adapter on that one */
    uint32_t expert;
    uint64_t n_in, n_out;
    uint32_t rank; /* of both pairs together */
    double scale;  /* alpha / rank, as PEFT will compute it */
};

struct peft {
    const struct hlm_peft_params *params;
    struct hlm_err *err;
    struct gguf *file;
    struct lora_file_base fb;
    const struct hf_names *names;
    struct lora_file *lora;
    double alpha; /* in the adapter file */
    struct peft_heads heads;
    bool any_name;              /* matrices that checkpoints do not have are passed over */
    bool rslora;                /* the adapter was made with a scale of alpha / sqrt(rank) */
    uint32_t n_layer;           /* main blocks */
    struct peft_module *module; /* of all blocks, draft blocks too */
    uint64_t n_module, cap_module;
    float *row; /* memory for one row */
    uint64_t done, total;
};
/* Fills names, heads, n_layer and module, in the order of the adapter. */
bool peft_map(struct peft *p);
/* Where the model has column c of a module; and its row o: the result is the index of the tensor in
 * x[] that has it, *row its row there. */
uint64_t peft_column(const struct peft *p, const struct peft_module *m, uint64_t c);
uint32_t peft_row(const struct peft *p, const struct peft_module *m, uint64_t o, uint64_t *row);
/* Write row r of a module's A (n_in numbers) or B (rank numbers). */
void peft_row_a(const struct peft *p, const struct peft_module *m, uint64_t r, float *to);
void peft_row_b(const struct peft *p, const struct peft_module *m, uint64_t r, float *to);
/* The name of a gate. Then all its values with the delta added, in the checkpoint's order. */
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
    /* writes row r of tensor i; a row is the last dimension. False stops the writing */
    bool (*row)(void *user, uint64_t i, uint64_t r, float *to);
    void *user;
};
/* Writes a temporary file, reads it back, and renames it. room: memory for the longest row. */
bool st_write(const char *path, const struct st *s, float *room, struct hlm_err *err);

/* ---- reading safetensors (peft_st_in.c) ------------------------------------------------------ */

struct st_in {
    const char *path;
    struct file_in f;
    json_t *head;
    uint64_t data; /* where the bytes of tensors begin */
};
struct st_found {
    enum dtype type;
    uint64_t shape[2], n, at, bytes;
};
bool st_open(struct st_in *s, const char *path, struct hlm_err *err);
void st_close(struct st_in *s); /* also when opening failed */
/* A matrix by its name, which the file has. */
bool st_find(const struct st_in *s, const char *name, struct st_found *t, struct hlm_err *err);
bool st_read(const struct st_in *s, const struct st_found *t, float *to, struct hlm_err *err);

/* ---- settings (peft_config.c) ---------------------------------------------------------------- */

struct peft_config {
    const char *path;
    json_t *root;
    bool rslora;
};
/* Refuses what hlm cannot do; warns of settings that it does not know. */
bool peft_config_read(struct peft_config *c, const char *path, struct hlm_err *err);
void peft_config_free(struct peft_config *c); /* takes a zeroed one */
/* The factor of a module whose factors have this rank. */
bool peft_config_scale(const struct peft_config *c, const char *module, uint64_t rank,
                       double *scale, struct hlm_err *err);
