/* ops: one op on the device between guard bands - what the test_ops_*.c are written with.
 *
 * A rig holds one arena for everything the op is given, a scratch arena for what it makes, and one
 * cmd. The arena is mirrored on the host: every byte starts as part of a NaN unless it was put
 * there, and after the run every byte that was not declared as written must be what it was - bands,
 * columns beside a view, inputs. Scratch starts as the same NaN, with a band at either end. */
#pragma once
#include "ops/op.h"
#include "ops/pack.h"
#include "ref/ref.h"
#include "test.h"

#define OPS_SEED 20240611u /* of every rig, so that a case can be run alone */

struct rig {
    struct gpu *g;
    const char *op; /* under which the worst error is noted */
    struct arena *mem, *scratch;
    struct cmd *c;
    uint8_t *image, *free, *back; /* of mem: what it holds, 1 where the op writes, what came */
    uint64_t n_image;
    tensor head, tail; /* of scratch */
    struct tape *tape; /* of a cmd that trains: ops_train.h */
    struct arena *kept;
    void **own; /* host memory that goes with the rig */
    uint32_t n_own;
    struct rng rng;
    struct hlm_err err;
    bool ran, checked; /* the cmd has run well; its kernels are noted as checked */
};

/* Opens a rig on g. */
struct rig rig_open(struct gpu *g, const char *op);
void rig_close(struct rig *r);
/* Memory that rig_close frees. */
void *rig_alloc(struct rig *r, uint64_t n, uint64_t size);

/* A tensor [n_row][n] in rows of stride, from column col; bands around it. No values. */
tensor rig_view(struct rig *r, enum dtype dtype, uint32_t n, uint32_t n_row, uint32_t stride,
                uint32_t col);
/* Gives t's elements (F32, F16; Q8_0, dense) the values v [n_row][n]. */
void rig_put(struct rig *r, tensor t, const float *v);
void rig_put_words(struct rig *r, tensor t, const void *words); /* I32 */
/* The op may write t's elements, or those of rows [row, row + n). */
void rig_writes(struct rig *r, tensor t);
void rig_writes_rows(struct rig *r, tensor t, uint32_t row, uint32_t n);

/* rig_view and rig_put in one, dense and with odd strides. */
tensor rig_dense(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
tensor rig_strided(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
tensor rig_words(struct rig *r, const void *words, uint32_t n);
/* Step and history of a batch; the step is written by the op when `moves`. */
struct batch rig_batch(struct rig *r, uint32_t n_tok, const struct step *step, const int32_t *ids,
                       uint32_t n_ids, bool moves);

/* n normal numbers times scale, in memory of the rig. */
float *rig_normal(struct rig *r, uint64_t n, double scale);
double *rig_doubles(struct rig *r, const float *v, uint64_t n);

/* A matrix of random valid blocks; v: its values as dtype_to_f32 has them,
 * [n_expert * n_out][n_in]. Products with normal x are about gain * 1. beside: right behind the
 * matrix made before. */
struct weight {
    linear w;
    const float *v, *base, *lora_a, *lora_b;
};
struct weight rig_weight(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, double gain, bool beside);
/* The same from blocks at hand: n_out * n_expert rows as in a file. */
struct weight rig_blocks(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, const void *rows, bool beside);
/* The same matrix with low-rank factors beside it, whose product is in v; base: without it. share:
 * a matrix whose A it has too, its B right behind that one's. */
struct weight rig_lora(struct rig *r, struct weight w, uint32_t rank, const struct weight *share);
/* The same matrix, and rows of x or dy, rounded as paths have them whose operands are f16
 * (weight.glsl, halves.comp). */
struct weight rig_f16_weight(struct rig *r, struct weight w);
float *rig_f16_rows(struct rig *r, const float *v, uint32_t n, uint32_t n_row);
/* One block of random codes; its scales are about `scale`, or any there are (extreme). */
void random_block(struct rng *rng, enum dtype dtype, double scale, bool extreme, uint8_t *block);
enum { N_WEIGHT_TYPE = 28 };
extern const enum dtype weight_types[N_WEIGHT_TYPE];

/* A device of its own that binds no more than max_range at once: matrices come in pieces. Opens a
 * case, which is skipped or fails when there is none. The caller closes it. */
struct gpu *ops_open_small(uint64_t max_range);

/* Whether --brief leaves the kernel out: its module has no instruction of subgroups, so where its
 * constants do not follow their size either it is the same program on any. */
bool ops_brief_skips(enum kernel k);

/* Commits, uploads, runs the cmd, reads back, checks the bands and all that may not change. */
bool rig_run(struct rig *r);
/* Rows of t as floats, [n_row][n], in memory of the rig; of mem as it came back, or of scratch. */
float *rig_get(struct rig *r, tensor t);
/* t is near want [n_row][n]: by the tolerance of its type, or of tol when that is above 0. What
 * lies between rows of a scratch tensor must be untouched. */
bool rig_near(struct rig *r, const char *what, tensor t, const double *want, double tol);
/* The same for values at hand. */
bool rig_near_values(struct rig *r, const char *what, const float *got, const double *want,
                     uint32_t n, uint32_t n_row, double tol);
/* The case has held what the cmd made against the reference by itself; rig_near and its like say so
 * too. The kernels that the cmd dispatched count as checked, if it has run well. */
void rig_checked(struct rig *r);
/* NMSE allowed, by the type of what is compared. */
double ops_tolerance(enum dtype dtype);
/* Logs the worst NMSE of each op so far (shown with -v); opens a case for the validation layer's
 * count. */
void ops_report(struct gpu *g);
