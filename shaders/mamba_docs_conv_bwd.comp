#version 450
// mamba_docs_conv_bwd: the backward of mamba_docs_conv. A lane walks over TOKS tokens of four
// channels, and over the few tokens after them that read their inputs. A token adds to the gradient
// of every input that it read, back to the beginning of its document.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 4) readonly buffer Du { vec4 du4[]; };         // [n_tok][d_conv]
layout(binding = 5) buffer Dp { vec4 dp4[]; };
#include "mamba_docs_conv.glsl"

vec4 silu_bwd(vec4 v)
{
    vec4 s = vec4(sigmoid(v.x), sigmoid(v.y), sigmoid(v.z), sigmoid(v.w));
    return s * (1.0 + v * (1.0 - s));
}

void main()
{
    uint first = gl_WorkGroupID.x * CHANNELS, t0 = gl_WorkGroupID.y * TOKS;
    uint end = min(first + CHANNELS, d_conv()), t1 = min(t0 + TOKS, p.n_tok);
    for (uint ch = first + 4 * lane(); ch < end; ch += 4 * WG) {
        vec4 w[CONV_K], x[CONV_K], dx[CONV_K], bias = conv_b4[ch / 4];
        taps(ch, w);
        inputs_before(ch, t0, x);
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            dx[j] = vec4(0.0);
        [[dont_unroll]] for (uint t = t0; t < t1 + CONV_K - 1; t++) {
            [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
                dx[j] = dx[j + 1];
            dx[CONV_K - 1] = vec4(0.0);
            if (t < p.n_tok) {
                vec4 v = next_input(ch, t, bias, w, x);
                vec4 dv = du4[(t * p.y_stride + ch) / 4] * silu_bwd(v);
                uint n = t - first_of[t];
                [[unroll]] for (uint j = 0; j < CONV_K; j++)
                    if (CONV_K - 1 - j <= n)
                        dx[j] += w[j] * dv;
            }
            if (t >= t0 + CONV_K - 1)
                dp4[((t - (CONV_K - 1)) * p.dp_stride + p.dp_col + d_inner() + ch) / 4] += dx[0];
        }
    }
}
