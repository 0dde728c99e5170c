#version 450
// advance: moves the step buffer past a batch: the next batch begins after it and reads the other
// convolution window.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_advance p; };
layout(binding = 0) buffer Step { step st; };

void main()
{
    if (lane() == 0) {
        st.n_past += p.n_tok;
        st.i_window = 1 - st.i_window;
    }
}
