// attn_docs: shared by the kernels for attention over a row of documents, forward and backward:
// which keys a token sees, and how a workgroup combines many rows (of queries, or of keys) with one
// row of the other kind after the other. Include after declaring p.
//
// The head_dim of a row is spread over SLICES lanes: slice s has the quads i * SLICES + s. Products
// of rows are collected for a round of rows and added up over the slices in their order. The
// results are added up row by row. So a token's result does not depend on where its document stands
// or what is next to it.
layout(constant_id = SPEC_quads) const uint QUADS = 1;    // of a slice
layout(constant_id = SPEC_slices) const uint SLICES = 1;  // head_dim = 4 * QUADS * SLICES
layout(constant_id = SPEC_heads) const uint HEADS = 1;    // query heads of a workgroup
layout(constant_id = SPEC_round) const uint ROUND = 1;    // rows of a round
layout(constant_id = SPEC_window) const uint WINDOW = 0;  // 1: p.window newest keys only
const uint ROWS = WG / SLICES;                  // rows of a workgroup; a lane has a slice of one

uint slice() { return lane() % SLICES; }
uint owned() { return lane() / SLICES; }
uint quad(uint i) { return i * SLICES + slice(); }

// A row that all lanes read. Where a load costs more than a shuffle, each lane loads a part of it
// (a CPU device loads eight quads as fast as one).
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

// The first key that token t sees. Its document begins at `first`.
uint first_key(uint t, uint first)
{
    return WINDOW != 0 && t - first >= p.window ? t + 1 - p.window : first;
}

// Enough for a workgroup that is one subgroup; without a barrier a CPU device starts it several
// times faster.
void meet()
{
    if (ONE_SUBGROUP != 0)
        subgroupBarrier();
    else
        barrier();
}

// Adds up the products of slices, n numbers of an array, to products of rows, the same in all lanes
// of a row. part: shared, n * WG.
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

// The weight of a key with score s, from the maximum and 1 / sum that attn_docs stored.
float weight_of(float s, vec4 stat) { return exp1(s - stat.x) * stat.y; }
