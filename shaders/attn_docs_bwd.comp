#version 450
// attn_docs_bwd: the backward of the output gates, and what the rest of the backward needs of each
// (head, token). With y = s o, s = sigmoid(gate):
//   do = s dy,   dgate = (1 - s) y dy,   delta = sum of o do = sum of y dy
// so the output without its gate is not needed.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_gate) const uint GATE = GATE_NONE;
layout(push_constant) uniform Push { push_attn_docs p; };
layout(binding = 0) readonly buffer Dy { vec4 dy[]; };          // [n_tok][n_head][head_dim]
layout(binding = 1) readonly buffer Y { vec4 y[]; };
layout(binding = 2) readonly buffer P { vec4 proj[]; };
layout(binding = 2) readonly buffer P1 { float proj1[]; };
layout(binding = 3) readonly buffer First { uint first[]; };
layout(binding = 4) buffer Dp { vec4 dproj[]; };
layout(binding = 4) buffer Dp1 { float dproj1[]; };
layout(binding = 5) buffer Stat { vec4 stat[]; };       // gets delta, and first[t] as a float
layout(binding = 6) writeonly buffer Do { vec4 d_o[]; };        // not written without a gate

void main()
{
    uint h = gl_WorkGroupID.x, t = gl_WorkGroupID.y, quads = p.head_dim / 4;
    uint at = (t * p.n_head + h) * quads, g_at = t * p.p_stride + p.gate_col;
    uint d_at = t * p.d_stride + p.d_gate_col;
    float delta = 0.0, s_head = GATE == GATE_HEAD ? sigmoid(proj1[g_at + h]) : 1.0;
    for (uint i = lane(); i < quads; i += WG) {
        vec4 d = dy[at + i], yd = y[at + i] * d;
        delta += yd.x + yd.y + yd.z + yd.w;
        if (GATE == GATE_ELEM) {
            uint e = 2 * h * quads + i;
            vec4 g = proj[g_at / 4 + e];
            vec4 s = vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
            // 1 - s as the sigmoid of -gate, so that nothing cancels
            vec4 r = vec4(sigmoid(-g.x), sigmoid(-g.y), sigmoid(-g.z), sigmoid(-g.w));
            dproj[d_at / 4 + e] += r * yd;
            d_o[at + i] = s * d;
        }
        if (GATE == GATE_HEAD)
            d_o[at + i] = s_head * d;
    }
    delta = wg_sum(delta);
    if (lane() > 0)
        return;
    stat[h * p.n_tok + t].zw = vec2(delta, float(first[t]));
    if (GATE == GATE_HEAD)
        dproj1[d_at + h] += sigmoid(-proj1[g_at + h]) * delta;
}
