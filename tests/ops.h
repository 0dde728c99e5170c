/* ops: runs one op on the device between guard bands, for the tests test_ops_*.c.
 *
 * A rig has one arena for the arguments of the op, a scratch arena for its results, and one cmd.
 * The arena has a copy on the host. Its bytes are NaN until values are put there. After the run
 * every byte that was not declared as written must be unchanged: bands, columns beside a view,
 * inputs. Scratch begins as the same NaN, with a band at either end. */
#pragma once
#include "ops/op.h"
#include "ops/pack.h"
#include "ref/ref.h"
#include "test.h"

#define OPS_SEED 20240611u /* of every rig, so that a case can be run alone */

struct rig {
    struct gpu *g;
    const char *op; /* the name for the note of the worst error */
    struct arena *mem, *scratch;
    struct cmd *c;
    uint8_t *image, *free, *back; /* of mem: its content, 1 where the op writes, the result */
    uint64_t n_image;
    tensor head, tail; /* of scratch */
    struct tape *tape; /* of a cmd that trains: ops_train.h */
    struct arena *kept;
    void **own; /* host memory that goes with the rig */
    uint32_t n_own;
    struct rng rng;
    struct hlm_err err;
    bool ran, checked; /* the cmd ran without failure; its kernels count as checked */
};

/* Opens a rig on g. */
struct rig rig_open(struct gpu *g, const char *op);
void rig_close(struct rig *r);
/* Memory that rig_close frees. */
void *rig_alloc(struct rig *r, uint64_t n, uint64_t size);

/* A tensor [n_row][n] without values, in rows of stride, from column col, with bands around it. */
tensor rig_view(struct rig *r, enum dtype dtype, uint32_t n, uint32_t n_row, uint32_t stride,
                uint32_t col);
/* Gives t's elements (F32, F16; Q8_0, dense) the values v [n_row][n]. */
void rig_put(struct rig *r, tensor t, const float *v);
void rig_put_words(struct rig *r, tensor t, const void *words); /* I32 */
/* The op may write t's elements, or those of rows [row, row + n). */
void rig_writes(struct rig *r, tensor t);
void rig_writes_rows(struct rig *r, tensor t, uint32_t row, uint32_t n);

/* rig_view and rig_put in one: dense, and with odd strides. */
tensor rig_dense(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
tensor rig_strided(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
tensor rig_words(struct rig *r, const void *words, uint32_t n);
/* The step buffer and the history of a batch of one segment. moves: the op writes the step buffer.
 */
struct batch rig_batch(struct rig *r, uint32_t n_tok, const struct segment *seg, const int32_t *ids,
                       uint32_t n_ids, bool moves);

/* n normal numbers times scale, in memory of the rig. */
float *rig_normal(struct rig *r, uint64_t n, double scale);
double *rig_doubles(struct rig *r, const float *v, uint64_t n);

/* A matrix of random valid blocks. v: its values from dtype_to_f32, [n_expert * n_out][n_in].
 * Products with normal x are about gain * 1. beside: directly after the last matrix in memory. */
struct weight {
    linear w;
    const float *v, *base, *lora_a, *lora_b;
};
struct weight rig_weight(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, double gain, bool beside);
/* The same from given blocks: n_out * n_expert rows as in a file. */
struct weight rig_blocks(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, const void *rows, bool beside);
/* The same matrix with low-rank factors. v includes their product; base does not. share: a matrix
 * that has the same A; the new B lies directly after its B. */
struct weight rig_lora(struct rig *r, struct weight w, uint32_t rank, const struct weight *share);
/* The same matrix, and rows of x or dy, rounded as for paths with f16 operands (weight.glsl,
 * halves.comp). */
struct weight rig_f16_weight(struct rig *r, struct weight w);
float *rig_f16_rows(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
/* One block of random codes. Its scales are about `scale`; extreme: they are any that exist. */
void random_block(struct rng *rng, enum dtype dtype, double scale, bool extreme, uint8_t *block);
enum { N_WEIGHT_TYPE = 28 };
extern const enum dtype weight_types[N_WEIGHT_TYPE];

/* Opens another device whose bindings have at most max_range bytes, so that matrices are run slab
 * by slab. Opens a case, which is skipped or fails without a device. The caller closes it. */
struct gpu *ops_open_small(uint64_t max_range);

/* True if --brief leaves the kernel out. Its module has no subgroup instructions, so if its
 * constants do not depend on the subgroup size either, it is the same program for every size. */
bool ops_brief_skips(enum kernel k);

/* Commits, uploads, runs the cmd, reads back, and checks everything that must not change. */
bool rig_run(struct rig *r);
/* Rows of t after the run as floats, [n_row][n], in memory of the rig. t is in mem or scratch. */
float *rig_get(struct rig *r, tensor t);
/* Checks that t is near want [n_row][n], within the tolerance of its type, or within tol if that is
 * above 0. The bytes between rows of a scratch tensor must be unchanged. */
bool rig_near(struct rig *r, const char *what, tensor t, const double *want, double tol);
/* The segment of b is `was` after n_tok tokens in all, the last of which wrote slot 0 or 2. */
void rig_advanced(struct rig *r, const struct batch *b, struct segment was, uint32_t n_tok,
                  uint32_t slot);
/* The same for given values. */
bool rig_near_values(struct rig *r, const char *what, const float *got, const double *want,
                     uint32_t n, uint32_t n_row, double tol);
/* Declares that the case has compared the results with the reference itself; rig_near and the other
 * comparisons do this too. The kernels that the cmd dispatched then count as checked, if it ran
 * without failure. */
void rig_checked(struct rig *r);
/* The NMSE that is allowed, by the type of the compared tensor. */
double ops_tolerance(enum dtype dtype);

/* Rows of a joint projection, as the mixers have them. */
struct rig_rows {
    const float *v;
    uint32_t n, n_row;
};
/* Columns [col, col + n) as doubles. */
double *rig_columns(struct rig *r, const struct rig_rows *p, uint32_t col, uint32_t n);
/* Logs the worst NMSE of each op so far (shown with -v), and opens a case for the messages of the
 * validation layer. */
void ops_report(struct gpu *g);
