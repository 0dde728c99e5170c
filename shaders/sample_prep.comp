#version 450
// sample_prep: logits after masks, biases and penalties, and of each block of them the largest and
// the mass: the sum of e^(l - largest). One workgroup for (block, segment). It counts the tokens of
// the history that lie in its block.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_sample p; };
layout(binding = 0) readonly buffer Logits { float logits[]; };         // [n_seg][stride]
layout(binding = 1) readonly buffer Unused { uint unused[]; };          // bit i: vocabulary entry i
                                                                        // is not a token
layout(binding = 2) readonly buffer Step { segment seg[]; };
layout(binding = 3) readonly buffer Ids { uint ids[]; };                // [n_seq][n_ids] history
layout(binding = 4) writeonly buffer Work { float l[]; };               // [n_seg][n_vocab]
layout(binding = 5) buffer Count { uint count[]; };                     // [n_seg][n_vocab], zero
                                                                        // between calls
// [n_seg][2 turns][2], read by the host: the token; 1: a logit is not finite. The host sets that
// back.
layout(binding = 6) writeonly buffer Chosen { uint chosen[]; };
// [n_seg][bias_words]: how many; an id and what is added to its logit, each
layout(binding = 7) readonly buffer Bias { uint bias[]; };
layout(binding = 8) writeonly buffer Blocks { vec2 blocks[]; };         // [n_seg][n_block]
#include "sample.glsl"

bool penalised(uint s)
{
    return seg[s].last_n > 0 &&
           (seg[s].repeat != 1.0 || seg[s].frequency != 0.0 || seg[s].presence != 0.0);
}

void count_history(uint s, uint first, uint end)
{
    uint n_past = seg[s].pos + p.advance, n = min(seg[s].last_n, n_past);
    uint history = seg[s].seq * p.n_ids;
    for (uint i = n_past - n + lane(); i < n_past; i += WG) {
        uint id = ids[history + i];
        if (id >= first && id < end)
            atomicAdd(count[logit_at(id)], 1u);
    }
    memoryBarrierBuffer();
    barrier();
}

float biased(uint s, uint i, float v)
{
    uint at = s * p.bias_words;
    for (uint k = 0; k < bias[at]; k++)
        if (bias[at + 1 + 2 * k] == i && v > NEVER) {
            float by = uintBitsToFloat(bias[at + 2 + 2 * k]);
            v = by <= NEVER ? NEVER : v + by;
        }
    return v;
}

float less_likely(uint s, uint i, float v)
{
    uint c = atomicExchange(count[logit_at(i)], 0u);    // atomic: other lanes have counted
    if (c == 0)
        return v;
    v = v <= 0.0 ? v * seg[s].repeat : v / seg[s].repeat;
    return v - float(c) * seg[s].frequency - seg[s].presence;
}

// Entry i, and whether its logit is a number. That is asked of the bits: a compiler may take floats
// to be finite.
float entry(uint s, uint i, bool counted)
{
    float v = logits[s * p.stride + i];
    bool out_of_use = seg[s].allow_unused == 0 && (unused[i / 32] >> (i % 32) & 1u) != 0;
    if (!out_of_use && (floatBitsToUint(v) & 0x7f800000u) == 0x7f800000u)
        chosen[4 * s + 2 * seg[s].turn + 1] = 1u;
    v = biased(s, i, out_of_use || !(v > NEVER) ? NEVER : v);
    return counted ? less_likely(s, i, v) : v;
}

void main()
{
    uint s = row(), b = gl_WorkGroupID.x, first = b * p.block, end = block_end(b);
    bool counted = penalised(s);
    if (counted)
        count_history(s, first, end);
    float top = NEVER, mass = 0.0;
    for (uint i = first + lane(); i < end; i += WG) {
        float v = entry(s, i, counted);
        l[logit_at(i)] = v;
        // the mass of what this lane has seen, relative to its largest
        float larger = max(top, v);
        mass = mass * exp1(top - larger) + exp1(v - larger);
        top = larger;
    }
    float most = wg_max(top);
    mass = wg_sum(mass * exp1(top - most));
    if (lane() == 0)
        blocks[block_at(b)] = vec2(most, mass);
}
