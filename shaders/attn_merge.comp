#version 450
// attn_merge: merges the runs of keys of one (head, token), divides and gates. See attn.comp.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_attn p; };
layout(binding = 0) readonly buffer Part { vec4 part[]; };
layout(binding = 1) readonly buffer P { vec4 proj[]; };
layout(binding = 1) readonly buffer P1 { float proj1[]; };
layout(binding = 2) readonly buffer Step { segment seg[]; };
layout(binding = 3) writeonly buffer Out { vec4 y[]; };
#include "attn.glsl"

const uint ROUND = 4;       // runs that are loaded at a time

void main()
{
    uint h = gl_WorkGroupID.x, t = gl_WorkGroupID.y, quads = p.head_dim / 4;
    uint at = run_at(t, h, 0);
    uint pos = pos_of(t, p.n_seg), low = first_key(pos - t % p.tile);
    uint n_run = min(p.n_split, (pos - low) / p.split_len + 1);
    float m = NEVER, l = 0.0;
    for (uint s = lane(); s < n_run; s += WG)
        m = max(m, part[at + s * (quads + 1) + quads].x);
    m = wg_max(m);
    for (uint s = lane(); s < n_run; s += WG) {
        vec4 ml = part[at + s * (quads + 1) + quads];
        l += exp1(ml.x - m) * ml.y;
    }
    l = wg_sum(l);
    for (uint d = lane(); d < quads; d += WG) {
        vec4 o = vec4(0);
        [[dont_unroll]] for (uint s = 0; s < n_run; s += ROUND) {
            float of_run[ROUND];
            vec4 v[ROUND];
            [[unroll]] for (uint e = 0; e < ROUND; e++) {
                uint run = at + min(s + e, n_run - 1) * (quads + 1);
                of_run[e] = part[run + quads].x;
                v[e] = part[run + d];
            }
            [[unroll]] for (uint e = 0; e < ROUND; e++)
                o += s + e < n_run ? exp1(of_run[e] - m) * v[e] : vec4(0);
        }
        y[(t * p.n_head + h) * quads + d] = gated(t, h, d, o / l);
    }
}
