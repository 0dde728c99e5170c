#version 450
// linear: matrix times up to COLS vectors, the decode kernel and the plain one. A workgroup owns
// ROWS rows. Its lanes share the 32-element blocks of a row, and each weight that is read serves
// all columns.
//
// An operation on x as it is read saves a dispatch and a barrier, but every workgroup repeats it.
// IN_NORM: RMS over n_in, times a weight. IN_ACT: an activation of act.glsl; with SwiGLU x has 2
// n_in columns, gates first.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define CODEBOOK_BINDING 6
#include "linear.glsl"
#include "act.glsl"

layout(constant_id = SPEC_rows) const uint ROWS = 1;
layout(constant_id = SPEC_cols) const uint COLS = 1;
layout(constant_id = SPEC_in) const uint IN = IN_PLAIN;
layout(set = 0, binding = 5) readonly buffer NormW { vec4 norm_w[]; };

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, tok0 = gl_WorkGroupID.y * COLS;
    uint n_block = (p.n_in + 31) / 32;
    float scale[COLS], acc[ROWS * COLS];
    [[unroll]] for (uint i = 0; i < ROWS * COLS; i++)
        acc[i] = 0.0;

    if (IN == IN_NORM)
        [[unroll]] for (uint c = 0; c < COLS; c++) {
            float ss = 0.0;
            uint t = min(tok0 + c, p.n_tok - 1);
            for (uint k = lane() * 4; k < p.n_in; k += WG * 4) {
                vec4 v = load_x(t, k);
                ss += dot(v, v);
            }
            scale[c] = 1.0 / sqrt(wg_sum(ss) / float(p.n_in) + p.eps);
        }

    for (uint b = lane(); b < n_block; b += WG) {
        vec4 v[COLS * 8];
        vec2 v_sum[COLS];
        [[unroll]] for (uint c = 0; c < COLS; c++) {
            v_sum[c] = vec2(0.0);
            [[unroll]] for (uint i = 0; i < 8; i++) {
                uint k = 32 * b + 4 * i;
                v[c * 8 + i] = load_x(min(tok0 + c, p.n_tok - 1), k);
                if (IN == IN_NORM && k < p.n_in)
                    v[c * 8 + i] *= norm_w[k / 4] * scale[c];
                if (IN == IN_ACT + ACT_SWIGLU && k < p.n_in)
                    v[c * 8 + i] = act_swiglu(v[c * 8 + i],
                                              x[(min(tok0 + c, p.n_tok - 1) * p.x_stride +
                                                 p.x_col + p.n_in + k) / 4], p.limit);
                if (IN == IN_ACT + ACT_RELU2)
                    v[c * 8 + i] = act_relu2(v[c * 8 + i]);
                if (HAS_MIN)
                    v_sum[c] += i < 4 ? vec2(sum4(v[c * 8 + i]), 0) : vec2(0, sum4(v[c * 8 + i]));
            }
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            quants w = weight_quants(min(row0 + r, p.n_out - 1) * p.row_q, n_block, b);
            [[unroll]] for (uint c = 0; c < COLS; c++)
                acc[r * COLS + c] += WEIGHT_DOT(w, v, c * 8, v_sum[c]);
        }
    }
    [[unroll]] for (uint c = 0; c < COLS; c++) {
        uint t = min(tok0 + c, p.n_tok - 1);
        float by = y_scale(t, t);
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            float sum = wg_sum(acc[r * COLS + c]) * by;
            if (lane() == 0 && row0 + r < p.n_out && tok0 + c < p.n_tok)
                store_y(tok0 + c, row0 + r, sum);
        }
    }
}
