#version 450
// adam: one update of AdamW, after which the gradients are zero. If their norm is not finite
// nothing changes. The numbers on the device are scale times those that are saved; moments belong
// to the gradient with respect to the saved numbers.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "adam.glsl"

layout(binding = 2) buffer Grads { float grads[]; };
layout(binding = 3) buffer Values { float values[]; };
layout(binding = 4) buffer First { float m[]; };
layout(binding = 5) buffer Second { float v[]; };
layout(binding = 6) readonly buffer Hyper { adam_hyper h; };
layout(binding = 7) readonly buffer Norm { float norm[]; };

void main()
{
    if (norm[2] == 0.0)
        return;
    float clip = norm[1];
    walk w = walk_begin();
    for (uint row = w.row; row < w.end; row += w.by) {
        adam_row r = rows[row];
        float s = scale[row], keep = r.gate != 0 ? h.keep_gates : h.keep;
        uint at = value_at(r), of = moment_at(r);
        for (uint i = w.lane; i < r.n; i += w.width) {
            float g = clip * (s * grads[at + i]);
            float m1 = h.beta1 * m[of + i] + h.rest1 * g;
            float v1 = h.beta2 * v[of + i] + h.rest2 * (g * g);
            m[of + i] = m1;
            v[of + i] = v1;
            values[at + i] = values[at + i] * keep -
                             s * (h.step * (m1 / (sqrt(v1) * h.root + h.eps)));
            grads[at + i] = 0.0;
        }
    }
}
