#version 450
// sample: the next token, from what sample_prep has made. One workgroup for a segment, without
// sorting the vocabulary.
//
// The order is that of llama.cpp: biases, penalties, top-k, top-p, min-p, temperature. Each of the
// three cuts keeps the largest logits, so each is a threshold: for top-k by counting, for top-p by
// summing probabilities, for min-p by a formula. The draw walks over the remaining tokens in the
// order of their ids. Sums have a fixed order: the same device, seed and history give the same
// token.
//
// The largest logits of the blocks bound the threshold from below: where k blocks have a logit of
// at least t, the k-th largest logit is at least t; likewise for their mass. Only the entries above
// that bound, the candidates, are looked at further, in shared memory. If there are more of them
// than it has room for, thresholds are found by bisection over all logits.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_sample p; };
layout(binding = 0) readonly buffer Work { float l[]; };                // [n_seg][n_vocab]
layout(binding = 1) readonly buffer Blocks { vec2 blocks[]; };          // [n_seg][n_block]: the
                                                                        // largest logit; the mass
layout(binding = 2) buffer Step { segment seg[]; };
layout(binding = 3) writeonly buffer Ids { uint ids[]; };               // the history; the token is
                                                                        // appended
layout(binding = 4) writeonly buffer Chosen { uint chosen[]; };         // [n_seg][2 turns][2]
#include "sample.glsl"

const uint MAX_BLOCK = 512, ROOM = 512;
shared float lane_mass[WG];
shared uint n_list, n_found, list[MAX_BLOCK];       // blocks with a candidate
shared uint found_id[ROOM], id[ROOM];               // candidates as they were found, and by id
shared float found_l[ROOM], v[ROOM], e[ROOM];       // e: their masses

// Floats as unsigned integers in the same order.
uint ordered(float f)
{
    uint u = floatBitsToUint(f);
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}
float unordered(uint u) { return uintBitsToFloat((u & 0x80000000u) != 0 ? u & 0x7fffffffu : ~u); }

// PCG hash chain over seed and position: one uniform number in [0, 1) with 24 bits.
uint pcg(uint x)
{
    uint s = x * 747796405u + 2891336453u;
    uint w = ((s >> ((s >> 28) + 4u)) ^ s) * 277803737u;
    return (w >> 22) ^ w;
}
float uniform01(uint s, uint pos)
{
    return float(pcg(pcg(pcg(seg[s].seed_lo) ^ seg[s].seed_hi) ^ pos) >> 8) * 5.9604645e-8;
}

// ---- bounds from the blocks

// How many blocks have a logit of at least t, or the mass of these logits.
float blocks_above(float t, bool mass, float top)
{
    float sum = 0.0;
    for (uint b = lane(); b < p.n_block; b += WG) {
        float x = blocks[block_at(b)].x;
        if (x >= t)
            sum += mass ? exp1(x - top) : 1.0;
    }
    return wg_sum(sum);
}

// All probabilities, relative to that of the largest logit.
float whole_mass(float top)
{
    float sum = 0.0;
    for (uint b = lane(); b < p.n_block; b += WG) {
        vec2 x = blocks[block_at(b)];
        sum += exp1(x.x - top) * x.y;
    }
    return wg_sum(sum);
}

// The largest t, at least `low`, at which the blocks have at least `want`; `low` if there is none.
float block_bound(float low, float top, bool mass, float want)
{
    uint lo = ordered(low), hi = ordered(top);
    while (lo < hi) {
        uint mid = lo + (hi - lo + 1) / 2;
        if (blocks_above(unordered(mid), mass, top) >= want)
            lo = mid;
        else
            hi = mid - 1;
    }
    return unordered(lo);
}

// ---- candidates

// Finds all entries of at least t, by id. False: there is no room for them.
bool gather(float t)
{
    if (lane() == 0)
        n_list = n_found = 0;
    barrier();
    for (uint b = lane(); b < p.n_block; b += WG)
        if (blocks[block_at(b)].x >= t)
            list[atomicAdd(n_list, 1u)] = b;
    barrier();
    uint n_block = n_list;
    for (uint k = 0; k < n_block; k++)
        for (uint i = list[k] * p.block + lane(); i < block_end(list[k]); i += WG) {
            float x = l[logit_at(i)];
            if (x < t)
                continue;
            uint at = atomicAdd(n_found, 1u);
            if (at < ROOM) {
                found_id[at] = i;
                found_l[at] = x;
            }
        }
    barrier();
    uint n = n_found;
    if (n > ROOM)
        return false;
    for (uint i = lane(); i < n; i += WG) {
        uint before = 0;
        for (uint j = 0; j < n; j++)
            before += found_id[j] < found_id[i] ? 1u : 0u;
        id[before] = found_id[i];
        v[before] = found_l[i];
    }
    barrier();
    return true;
}

// The largest candidate that, with those above it, makes at least `want` (of e); `low` if none
// does.
float candidate_threshold(float low, float want)
{
    float best = NEVER;
    for (uint i = lane(); i < n_found; i += WG) {
        float sum = 0.0;
        for (uint j = 0; j < n_found; j++)
            if (v[j] >= v[i])
                sum += e[j];
        if (v[i] >= low && sum >= want)
            best = max(best, v[i]);
    }
    return max(low, wg_max(best));
}

// Fills e: 1, or e^((v - top) t), of the candidates above the cut; and their sum.
float weigh(float cut, bool mass, float top, float t)
{
    float sum = 0.0;
    barrier();
    for (uint i = lane(); i < n_found; i += WG) {
        e[i] = v[i] < cut ? 0.0 : mass ? exp1((v[i] - top) * t) : 1.0;
        sum += e[i];
    }
    sum = wg_sum(sum);
    barrier();
    return sum;
}

// ---- all logits, when there are too many candidates

// Each lane owns a run of the vocabulary, so that the order of lanes is the order of ids.
uint run_begin() { return min(lane() * ((p.n_vocab + WG - 1) / WG), p.n_vocab); }
uint run_end() { return min((lane() + 1) * ((p.n_vocab + WG - 1) / WG), p.n_vocab); }

float above(float cut, bool mass, float top)
{
    float sum = 0.0;
    for (uint i = lane(); i < p.n_vocab; i += WG) {
        float x = l[logit_at(i)];
        if (x >= cut)
            sum += mass ? exp1(x - top) : 1.0;
    }
    return wg_sum(sum);
}

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

// ---- the draw, by lane 0

uint draw_candidate(float u)
{
    uint last = 0;
    for (uint i = 0; i < n_found; i++)
        if (e[i] > 0.0) {
            last = id[i];
            if (u < e[i])
                return last;
            u -= e[i];
        }
    return last;                // by rounding: the last token that is left
}

uint draw_all(float cut, float top, float t, float u)
{
    uint pick = WG, last = 0;
    for (uint i = 0; i < WG && pick == WG; i++)
        if (lane_mass[i] > 0.0) {
            last = i;
            if (u < lane_mass[i])
                pick = i;
            else
                u -= lane_mass[i];
        }
    bool past_end = pick == WG; // by rounding: takes the last token that is left
    if (past_end)
        pick = last;
    uint len = (p.n_vocab + WG - 1) / WG, found = 0;
    for (uint i = pick * len; i < min((pick + 1) * len, p.n_vocab); i++) {
        float x = l[logit_at(i)];
        if (x < cut)
            continue;
        float mass = exp1((x - top) * t);
        found = i;
        if (!past_end && u < mass)
            break;
        u -= mass;
    }
    return found;
}

void main()
{
    uint s = row(), n_past = seg[s].pos + p.advance, top_k = seg[s].top_k;
    float top = NEVER, low = unordered(ordered(NEVER) + 1), top_p = seg[s].top_p;
    for (uint b = lane(); b < p.n_block; b += WG)
        top = max(top, blocks[block_at(b)].x);
    top = wg_max(top);

    bool greedy = seg[s].temp <= 0.0, by_count = top_k > 0 && top_k < p.n_vocab;
    float least = seg[s].min_p > 0.0 ? top + log(seg[s].min_p) : low;
    float bound = low, mass = 0.0;
    if (greedy) {
        bound = top;
    } else if (by_count) {
        if (top_k <= p.n_block)
            bound = block_bound(low, top, false, float(top_k));
    } else if (top_p < 1.0) {
        mass = top_p * whole_mass(top);
        bound = block_bound(low, top, true, mass);
    } else {
        bound = clamp(least, low, top);
    }
    bound = min(bound, top);
    bool few = gather(bound);

    float cut = bound;
    if (!greedy && few) {
        if (by_count) {
            weigh(cut, false, top, 1.0);
            cut = candidate_threshold(cut, float(top_k));
        }
        if (top_p < 1.0) {
            float sum = weigh(cut, true, top, 1.0);
            cut = candidate_threshold(cut, by_count ? top_p * sum : mass);
        }
    } else if (!greedy) {
        cut = low;
        if (by_count)
            cut = threshold(cut, top, false, float(top_k));
        if (top_p < 1.0)
            cut = threshold(cut, top, true, by_count ? top_p * above(cut, true, top) : mass);
    }
    if (!greedy)
        cut = min(max(cut, least), top);

    float t = greedy ? 0.0 : 1.0 / seg[s].temp, sum = 0.0;
    if (few) {
        sum = weigh(cut, true, top, t);
    } else {
        float own = 0.0;
        for (uint i = run_begin(); i < run_end(); i++)
            if (l[logit_at(i)] >= cut)
                own += exp1((l[logit_at(i)] - top) * t);
        lane_mass[lane()] = own;
        barrier();
    }
    if (lane() != 0)
        return;
    if (!few)
        for (uint i = 0; i < WG; i++)
            sum += lane_mass[i];
    float u = greedy ? 0.0 : uniform01(s, n_past) * sum;
    uint next = few ? draw_candidate(u) : draw_all(cut, top, t, u);
    if (n_past < p.n_ids)
        ids[seg[s].seq * p.n_ids + n_past] = next;
    chosen[4 * s + 2 * seg[s].turn] = next;
    seg[s].turn = 1 - seg[s].turn;
    seg[s].pos = n_past;
    if (p.advance != 0) {
        uint slot = seg[s].slot_in;
        seg[s].slot_in = seg[s].slot_out;
        seg[s].slot_out = slot;
    }
}
