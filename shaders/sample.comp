#version 450
// sample: the next token, from logits to id, in one workgroup and without sorting.
//
// The order is that of llama.cpp: biases, penalties, top-k, top-p, min-p, temperature. Each of the
// three cuts keeps the largest logits, so each is a threshold, found by bisection on the bits of a
// float: for top-k by counting, for top-p by summing probabilities, for min-p by a formula. The
// draw walks over the remaining tokens in the order of their ids. Sums have a fixed order: the same
// device, seed and history give the same token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_sample p; };
layout(binding = 0) readonly buffer Logits { float logits[]; };
layout(binding = 1) readonly buffer Unused { uint unused[]; };  // bit i: vocabulary entry i is not
                                                                // a token
layout(binding = 2) buffer Step { segment seg[]; };
#define ROW gl_WorkGroupID.x
#define st seg[ROW]
layout(binding = 3) buffer Ids { uint ids[]; };                 // the history; the token is
                                                                // appended
layout(binding = 4) buffer Work { float l[]; };                 // [n_vocab] logits after masks and
                                                                // penalties
layout(binding = 5) buffer Count { uint count[]; };             // [n_vocab] occurrences, zero
                                                                // between calls
layout(binding = 6) writeonly buffer Chosen { uint chosen[]; }; // [2] read by the host: the token;
                                                                // 1: a logit is not finite. The
                                                                // host sets that back

layout(binding = 7) readonly buffer Bias { uint bias[]; };       // how many; then an id and what is
                                                                // added to its logit, each

const float NEVER = -1e30;
shared float lane_mass[WG];

// Floats as unsigned integers in the same order.
uint ordered(float f)
{
    uint u = floatBitsToUint(f);
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}
float unordered(uint u) { return uintBitsToFloat((u & 0x80000000u) != 0 ? u & 0x7fffffffu : ~u); }

// PCG hash chain over seed and position: one uniform number in [0, 1) with 24 bits.
uint pcg(uint v)
{
    uint s = v * 747796405u + 2891336453u;
    uint w = ((s >> ((s >> 28) + 4u)) ^ s) * 277803737u;
    return (w >> 22) ^ w;
}
float uniform01(uint pos)
{
    return float(pcg(pcg(pcg(st.seed_lo) ^ st.seed_hi) ^ pos) >> 8) * 5.9604645e-8;
}

// Each lane owns a run of the vocabulary, so that the order of lanes is the order of ids.
uint run_begin() { return min(lane() * ((p.n_vocab + WG - 1) / WG), p.n_vocab); }
uint run_end() { return min((lane() + 1) * ((p.n_vocab + WG - 1) / WG), p.n_vocab); }

// Sum of weight(l[ROW * p.n_vocab + i]) over l[ROW * p.n_vocab + i] >= cut: 1 each, or e^(l - top).
float above(float cut, bool mass, float top)
{
    float sum = 0.0;
    for (uint i = run_begin(); i < run_end(); i++)
        if (l[ROW * p.n_vocab + i] >= cut)
            sum += mass ? exp1(l[ROW * p.n_vocab + i] - top) : 1.0;
    return wg_sum(sum);
}

// The largest threshold, at least `low`, at which at least `want` is left.
float threshold(float low, float top, bool mass, float want)
{
    uint lo = ordered(low), hi = ordered(top);
    while (lo < hi) {
        uint mid = lo + (hi - lo + 1) / 2;
        if (above(unordered(mid), mass, top) >= want)
            lo = mid;
        else
            hi = mid - 1;
    }
    return unordered(lo);
}

void penalties(uint n_past)
{
    uint n = min(st.last_n, n_past), from = n_past - n;
    for (uint i = from + lane(); i < n_past; i += WG)
        if (ids[st.seq * p.n_ids + i] < p.n_vocab)
            atomicAdd(count[ROW * p.n_vocab + ids[st.seq * p.n_ids + i]], 1u);
    memoryBarrierBuffer();
    barrier();
    for (uint i = run_begin(); i < run_end(); i++) {
        uint c = count[ROW * p.n_vocab + i];
        if (c != 0) {
            float v = l[ROW * p.n_vocab + i];
            v = v <= 0.0 ? v * st.repeat : v / st.repeat;
            l[ROW * p.n_vocab + i] = v - float(c) * st.frequency - st.presence;
            count[ROW * p.n_vocab + i] = 0;
        }
    }
}

void main()
{
    uint n_past = st.pos + p.advance;
    float top = NEVER;
    for (uint i = run_begin(); i < run_end(); i++) {
        float v = logits[ROW * p.stride + i];
        bool out_of_use = st.allow_unused == 0 && (unused[i / 32] >> (i % 32) & 1u) != 0;
        l[ROW * p.n_vocab + i] = out_of_use || !(v > NEVER) ? NEVER : v;
        // asked of the bits: a compiler may take floats to be finite
        if (!out_of_use && (floatBitsToUint(v) & 0x7f800000u) == 0x7f800000u)
            chosen[4 * ROW + 2 * st.turn + 1] = 1u;
    }
    for (uint k = 0; k < bias[ROW * 129 + 0]; k++) {
        uint id = bias[ROW * 129 + 1 + 2 * k];
        float by = uintBitsToFloat(bias[ROW * 129 + 2 + 2 * k]);
        if (id >= run_begin() && id < run_end() && l[ROW * p.n_vocab + id] > NEVER)
            l[ROW * p.n_vocab + id] = by <= NEVER ? NEVER : l[ROW * p.n_vocab + id] + by;
    }
    if (st.last_n > 0 && (st.repeat != 1.0 || st.frequency != 0.0 || st.presence != 0.0))
        penalties(n_past);
    for (uint i = run_begin(); i < run_end(); i++)
        top = max(top, l[ROW * p.n_vocab + i]);
    top = wg_max(top);

    bool greedy = st.temp <= 0.0;
    float cut = top;
    if (!greedy) {
        cut = unordered(ordered(NEVER) + 1);
        if (st.top_k > 0 && st.top_k < p.n_vocab)
            cut = threshold(cut, top, false, float(st.top_k));
        if (st.top_p < 1.0)
            cut = threshold(cut, top, true, st.top_p * above(cut, true, top));
        if (st.min_p > 0.0)
            cut = max(cut, top + log(st.min_p));
        cut = min(cut, top);
    }

    // draw: mass of each lane's run, then the lane and the entry where the sum passes u
    float t_inv = greedy ? 0.0 : 1.0 / st.temp, mass = 0.0;
    for (uint i = run_begin(); i < run_end(); i++)
        if (l[ROW * p.n_vocab + i] >= cut)
            mass += exp1((l[ROW * p.n_vocab + i] - top) * t_inv);
    lane_mass[lane()] = mass;
    barrier();
    if (lane() == 0) {
        float sum = 0.0, u = 0.0;
        for (uint i = 0; i < WG; i++)
            sum += lane_mass[i];
        u = greedy ? 0.0 : uniform01(n_past) * sum;
        uint pick = WG, last = 0;
        for (uint i = 0; i < WG && pick == WG; i++) {
            if (lane_mass[i] > 0.0) {
                last = i;
                if (u < lane_mass[i])
                    pick = i;
                else
                    u -= lane_mass[i];
            }
        }
        bool past_end = pick == WG;     // by rounding: takes the last token that is left
        if (past_end)
            pick = last;
        uint len = (p.n_vocab + WG - 1) / WG, id = 0;
        for (uint i = pick * len; i < min((pick + 1) * len, p.n_vocab); i++)
            if (l[ROW * p.n_vocab + i] >= cut) {
                float e = exp1((l[ROW * p.n_vocab + i] - top) * t_inv);
                id = i;
                if (!past_end && u < e)
                    break;
                u -= e;
            }
        if (n_past < p.n_ids)
            ids[st.seq * p.n_ids + n_past] = id;
        chosen[4 * ROW + 2 * st.turn] = id;
        st.pos = n_past;
        if (p.advance != 0) {
            uint slot = st.slot_in;
            st.slot_in = st.slot_out;
            st.slot_out = slot;
        }
        st.turn = 1 - st.turn;
    }
}
