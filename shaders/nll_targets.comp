#version 450
// nll_targets: the parts of nll.glsl for rows of logits that are a slice of a longer list, each
// with a target, and their gradient, which replaces them.
//
// The gradient is weight * (softmax - onehot). If only the target has the largest logit, the
// difference is computed as minus the sum of the other probabilities, so that it keeps its
// precision when the model is nearly right.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_gradient) const uint GRADIENT = 0;

layout(push_constant) uniform Push { push_nll_targets p; };
layout(binding = 0) buffer Logits { float l[]; };
layout(binding = 1) readonly buffer Targets { uint targets[]; };
layout(binding = 2) readonly buffer Slice { uint slice[]; };
layout(binding = 3) writeonly buffer Out { vec4 o[]; };
layout(binding = 4) readonly buffer Weight { float weight[]; };

#include "nll.glsl"

void main()
{
    uint row = gl_WorkGroupID.x, at = row * p.stride + p.col, end = at + p.n_vocab;
    uint k = slice[0] * p.n_row + row;
    uint id = k < p.n_target ? targets[k] : NO_ROW;
    if (id == NO_ROW) {
        if (GRADIENT != 0)
            for (uint i = at + lane(); i < end; i += WG)
                l[i] = 0.0;
        return;
    }
    vec3 parts = nll_parts(at, p.n_vocab);
    uint target = at + min(id, p.n_vocab - 1);
    float came = l[target];
    if (lane() == 0)
        o[k] = vec4(parts, came);
    if (GRADIENT == 0)
        return;
    if (ONE_SUBGROUP == 0)
        barrier();                      // every lane has read the target's logit
    float top = parts.x, n_top = parts.y, rest = parts.z;
    float scale = weight[0] / (n_top + rest);
    for (uint i = at + lane(); i < end; i += WG) {
        float e = share(l[i], top);
        if (i == target)
            e = came == top ? -((n_top - 1.0) + rest) : e - (n_top + rest);
        l[i] = scale * e;
    }
}
