#version 450
// linear: matrix times up to COLS vectors, the decode kernel and the plain one. A workgroup owns
// ROWS rows. Its lanes share the 32-element blocks of a row, and each weight that is read serves
// all columns.
//
// IN_NORM: x is normalised as it is read. That saves a dispatch and a barrier. The product is
// divided by the RMS afterwards, which every workgroup finds on the way.
//
// EPI_ACT with SwiGLU: the upper half of the matrix makes gates, the lower half what they gate. A
// workgroup owns ROWS / 2 rows of each, so y has half as many columns.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define CODEBOOK_BINDING 6
#include "linear.glsl"
#include "linear_sum.glsl"
#include "act.glsl"

layout(constant_id = SPEC_rows) const uint ROWS = 1;
layout(constant_id = SPEC_cols) const uint COLS = 1;
layout(constant_id = SPEC_in) const uint IN = IN_PLAIN;
layout(set = 0, binding = 5) readonly buffer NormW { vec4 norm_w[]; };
// With more columns than rows the weights of all rows are kept and x is read a column at a time,
// else x is kept and the weights are read a row at a time.
const bool MANY = COLS > ROWS;
const uint AT_ONCE = MANY ? 1 : COLS;
const bool PAIRS = EPI == EPI_ACT + ACT_SWIGLU;

// The sum of the quants from 4 i on times v[at + i] and the next three.
#define HALF_DOT(w, v, at, i) \
    (dot(w.q[i], v[at + i]) + dot(w.q[i + 1], v[at + i + 1]) + \
     dot(w.q[i + 2], v[at + i + 2]) + dot(w.q[i + 3], v[at + i + 3]))

// The r-th row of the workgroup whose first is row0.
uint row_of(uint row0, uint r)
{
    return PAIRS ? (r & 1u) * (p.n_out / 2) + row0 / 2 + r / 2 : row0 + r;
}

// Not 0: the sums of this many lanes, all of the workgroup, are added one after the other. A CPU
// device would do the same in a loop that is several times as slow.
layout(constant_id = SPEC_lanes) const uint LANES = 0;

float lanes_sum(float v)
{
    if (LANES == 0)
        return wg_sum(v);
    precise float sum = 0.0;
    [[unroll]] for (uint l = 0; l < LANES; l++)
        sum += subgroupShuffle(v, l);
    return sum;
}

// What becomes of the product, of two in turn: the gate's and the one that it gates.
float activated(float a, float b)
{
    return PAIRS ? act_swiglu(vec4(a), vec4(b), p.limit).x
                 : EPI == EPI_ACT + ACT_RELU2 ? act_relu2(vec4(a)).x : a;
}

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, tok0 = gl_WorkGroupID.y * COLS;
    uint n_block = (p.n_in + 31) / 32;
    float squares[COLS], acc[ROWS * COLS];
    [[unroll]] for (uint i = 0; i < ROWS * COLS; i++)
        acc[i] = 0.0;
    [[unroll]] for (uint c = 0; c < COLS; c++)
        squares[c] = 0.0;

    for (uint b = lane(); b < n_block; b += WG) {
        quants w[MANY ? ROWS : 1];
        vec4 v[AT_ONCE * 8];
        vec2 v_sum[AT_ONCE];
        [[unroll]] for (uint r = 0; MANY && r < ROWS; r++)
            w[r] = weight_quants(min(row_of(row0, r), p.n_out - 1) * p.row_q, n_block, b);
        [[unroll]] for (uint c0 = 0; c0 < COLS; c0 += AT_ONCE) {
            [[unroll]] for (uint c = 0; c < AT_ONCE; c++) {
                uint at = min(tok0 + c0 + c, p.n_tok - 1) * p.x_stride + p.x_col;
                v_sum[c] = vec2(0.0);
                [[unroll]] for (uint i = 0; i < 8; i++) {
                    uint k = 32 * b + 4 * i, in_k = clamp_in(k, p.n_in), j = c * 8 + i;
                    v[j] = x[(at + in_k) / 4];
                    if (IN == IN_NORM) {
                        squares[c0 + c] += k < p.n_in ? dot(v[j], v[j]) : 0.0;
                        v[j] *= norm_w[in_k / 4];
                    }
                    if (HAS_MIN)
                        v_sum[c] += i < 4 ? vec2(sum4(v[j]), 0) : vec2(0, sum4(v[j]));
                }
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                uint i = MANY ? r : 0;
                if (!MANY)
                    w[0] = weight_quants(min(row_of(row0, r), p.n_out - 1) * p.row_q, n_block, b);
                [[unroll]] for (uint c = 0; c < AT_ONCE; c++) {
                    uint to = r * COLS + c0 + c;
                    acc[to] = add_block(acc[to], w[i].d, w[i].m, HALF_DOT(w[i], v, c * 8, 0),
                                        HALF_DOT(w[i], v, c * 8, 4), v_sum[c]);
                }
            }
        }
    }
    [[unroll]] for (uint c = 0; c < COLS; c++) {
        uint t = min(tok0 + c, p.n_tok - 1);
        float by = y_scale(t, t);
        if (IN == IN_NORM)
            by *= 1.0 / sqrt(lanes_sum(squares[c]) / float(p.n_in) + p.eps);
        float sum[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            sum[r] = lanes_sum(acc[r * COLS + c]) * by;
        const uint step = PAIRS ? 2 : 1;
        [[unroll]] for (uint r = 0; r < ROWS; r += step)
            if (lane() == 0 && row_of(row0, r) < p.n_out / step && tok0 + c < p.n_tok)
                store_y(tok0 + c, row_of(row0, r), activated(sum[r], sum[min(r + 1, ROWS - 1)]));
    }
}
