// attn_docs: what attention over a row of documents shares, forward and backward: which keys a
// token sees, and how a workgroup works on many rows (of queries, or of keys) side by side against
// one row of the other kind after the other. Include after declaring p.
//
// A row's head_dim is spread over SLICES lanes, slice s having the quads i * SLICES + s. Products
// of rows are gathered a round at a time and added up over the slices in their order; what comes
// of them is added up row by row, so that a token gets the same wherever its document stands and
// whatever its neighbours are.
layout(constant_id = SPEC_quads) const uint QUADS = 1;    // of a slice
layout(constant_id = SPEC_slices) const uint SLICES = 1;  // head_dim = 4 * QUADS * SLICES
layout(constant_id = SPEC_heads) const uint HEADS = 1;    // query heads of a workgroup
layout(constant_id = SPEC_round) const uint ROUND = 1;    // rows of a round
layout(constant_id = SPEC_window) const uint WINDOW = 0;  // 1: p.window newest keys only
const uint ROWS = WG / SLICES;                  // that a workgroup owns, a lane a slice of one

uint slice() { return lane() % SLICES; }
uint owned() { return lane() / SLICES; }
uint quad(uint i) { return i * SLICES + slice(); }

// A row that all lanes read. Where a load costs more than a shuffle (CPU devices: one loads eight
// quads as fast as one quad) it comes spread over the lanes.
const uint LOADS = (QUADS * SLICES + WG - 1) / WG;
#define ROW(row, from, at) \
    vec4 row[LOADS]; \
    if (ONE_SUBGROUP != 0) \
        [[unroll]] for (uint of_ = 0; of_ < LOADS; of_++) \
            row[of_] = from[(at) + min(of_ * WG + lane(), QUADS * SLICES - 1)]
#define QUAD(to, row, from, at, i) \
    vec4 to; \
    if (ONE_SUBGROUP != 0) \
        to = subgroupShuffle(row[i * SLICES / WG], i * SLICES % WG + slice()); \
    else \
        to = from[(at) + quad(i)]

// The first key that token t sees, whose document begins at `first`.
uint first_key(uint t, uint first)
{
    return WINDOW != 0 && t - first >= p.window ? t + 1 - p.window : first;
}

// A workgroup that is one subgroup needs no more, and without a barrier a CPU device starts it
// several times faster.
void meet()
{
    if (ONE_SUBGROUP != 0)
        subgroupBarrier();
    else
        barrier();
}

// Products of slices, n numbers of an array, become those of rows, the same in all of its lanes.
// part: shared, n * WG.
#define ADD_SLICES(s, n) \
    if (SLICES > 1) { \
        meet(); \
        [[unroll]] for (uint at_ = 0; at_ < n; at_++) \
            part[at_ * WG + lane()] = s[at_]; \
        meet(); \
        [[unroll]] for (uint at_ = 0; at_ < n; at_++) { \
            s[at_] = 0.0; \
            [[unroll]] for (uint of_ = 0; of_ < SLICES; of_++) \
                s[at_] += part[at_ * WG + owned() * SLICES + of_]; \
        } \
    }

// Weight of a key with score s, from what attn_docs left of its query: maximum, 1 / sum.
float weight_of(float s, vec4 stat) { return exp1(s - stat.x) * stat.y; }
