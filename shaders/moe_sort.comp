#version 450
// moe_sort: the (token, slot) entries of a batch sorted by expert, and the list of tiles that cover
// them, so that each expert's weights are read once per tile instead of once per token. Within an
// expert the order is that of the batch, on every device: a workgroup counts all entries, then
// places one chunk of them, and each lane places those of its own experts.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_moe_sort p; };
layout(binding = 0) readonly buffer Id { uint id[]; };             // [n_tok][id_stride]
layout(binding = 1) writeonly buffer Entries { uint entries[]; };  // [n_tok * n_used]
layout(binding = 2) writeonly buffer Tiles { uint tiles[]; };      // count; expert, first entry,
                                                                   // entries

const uint MAX_EXPERT = 512;
shared uint count[MAX_EXPERT], before[MAX_EXPERT];     // of all entries; of those before the chunk,
                                                        // then the place of the next in the chunk
uint expert(uint i) { return id[i / p.n_used * p.id_stride + i % p.n_used]; }

void main()
{
    uint n = p.n_tok * p.n_used, chunk = gl_WorkGroupID.x * p.chunk;
    for (uint e = lane(); e < p.n_expert; e += WG)
        count[e] = before[e] = 0;
    barrier();
    for (uint i = lane(); i < n; i += WG) {
        uint e = expert(i);
        atomicAdd(count[e], 1u);
        if (i < chunk)
            atomicAdd(before[e], 1u);
    }
    barrier();
    if (lane() == 0) {
        uint at = 0, n_tile = 0;
        for (uint e = 0; e < p.n_expert; e++) {
            for (uint done = 0; chunk == 0 && done < count[e]; done += p.tile) {
                tiles[1 + 3 * n_tile] = e;
                tiles[2 + 3 * n_tile] = at + done;
                tiles[3 + 3 * n_tile] = min(p.tile, count[e] - done);
                n_tile++;
            }
            before[e] += at;
            at += count[e];
        }
        if (chunk == 0)
            tiles[0] = n_tile;
    }
    barrier();
    for (uint e = lane(); e < p.n_expert; e += WG) {
        uint at = before[e];
        for (uint i = chunk; i < min(n, chunk + p.chunk); i++)
            if (expert(i) == e)
                entries[at++] = i;
    }
}
