/* op_linear_parts: what op_linear, op_linear_bwd, op_product and op_grouped share, and the walk
 * over slabs, which op_embed and op_moe use too. Private to these files. */
#pragma once
#include "ops/op.h"

/* A workgroup's lanes; its rows; the tokens of each lane (for K_linear and coop.glsl, of the
 * workgroup); the tokens of the workgroup. */
struct linear_tile {
    uint32_t wg, rows, toks, toks_per_group;
};

/* The first of n paths that the device can run and that suits n_tok tokens. f16: it may take f16
 * operands. linear_pick and linear_bwd_pick do the same for the paths of op.h. */
const struct linear_path *linear_path_of(const struct linear_path *paths, uint32_t n,
                                         const struct gpu_caps *caps, uint32_t n_tok, bool f16);
const struct linear_path *linear_pick(struct cmd *c, uint32_t n_tok, bool f16);
const struct linear_path *linear_bwd_pick(struct cmd *c, uint32_t n_tok, bool f16);

/* The tile of a kernel that reads tiles through workgroup memory; of any forward kernel; of any
 * backward kernel. */
struct linear_tile linear_shared_tile(const struct linear_path *p, const struct gpu_caps *caps,
                                      uint32_t n_tok);
struct linear_tile linear_tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                                  enum dtype dtype, uint32_t n_out, uint32_t n_tok);
struct linear_tile linear_bwd_tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                                      uint32_t n_tok);
/* The most tokens of a tile of coop.glsl. */
uint32_t linear_coop_toks(const struct gpu_caps *caps);
/* The constants that all kernels for many tokens have. */
struct spec linear_many_spec(const struct linear_path *p, const struct gpu_caps *caps,
                             struct linear_tile t, enum dtype dtype, enum grouped_by grouped);
/* Rows of x as the path takes them: x itself, or a copy in f16. */
tensor linear_operand(struct cmd *c, const struct linear_path *p, tensor x);
/* A binding may begin at every row of w whose index is a multiple of this. */
uint32_t linear_row_unit(const struct gpu_caps *caps, const linear *w);

/* One step of a walk over a matrix by slabs, the rows that one binding can address:
 *
 *     for (struct slab s = slabs_of_rows(c, w, UINT32_MAX); slab_next(&s);)
 *
 * A slab of experts has all rows of each of its experts. If a binding cannot address even one row
 * or expert, the cmd fails and the walk has no steps. */
struct slab {
    uint32_t first, n; /* rows or experts [first, first + n) of the matrix */
    tensor rows;       /* their packed rows, for binding */
    linear units;      /* the matrix; for experts, a matrix whose rows are the experts */
    uint32_t step;     /* rows or experts of every slab but the last */
};
struct slab slabs_of_rows(struct cmd *c, const linear *w, uint32_t max_rows);
struct slab slabs_of_experts(struct cmd *c, const linear *w);
bool slab_next(struct slab *s);

/* True if four numbers of a row can be loaded at once. */
static inline bool tensor_in_quads(tensor t) { return t.stride % 4 == 0 && t.col % 4 == 0; }

/* dx += W^T dy for one slab of w: some of its rows, or with g some of its experts. */
struct linear_bwd_args {
    const struct linear_path *path;
    struct linear_tile tile;
    const linear *w;
    const struct slab *slab;
    tensor dy, dx;
    const struct grouping
        *g; /* NULL: dy holds one row per token and a column per row of the slab */
};
void linear_bwd_dispatch(struct cmd *c, const struct linear_bwd_args *a);

/* dw += dy^T x, the gradient of all of w, or with g of n_expert of its experts from expert0 on. */
struct linear_outer_args {
    const linear *w;
    tensor x, dy, dw;
    const struct grouping *g; /* NULL: x and dy hold one row per token */
    bool by_entry;            /* with g: x holds one row per entry, else one per token */
    uint32_t expert0, n_expert;
};
void linear_outer_dispatch(struct cmd *c, const struct linear_outer_args *a);

/* y = x with dropout; `id` is the number that the generator takes (tape.h). add: adds the result to
 * y. Row r of y is made from row r / n_used of x. */
void linear_dropout(struct cmd *c, tensor x, uint32_t id, uint32_t n_used, tensor y, bool add);
/* The input of l's A: x after dropout, in n_used rows for each row of x; x itself if there is no
 * dropout. */
tensor linear_dropped(struct cmd *c, tensor x, const struct lora *l, uint32_t n_used);
