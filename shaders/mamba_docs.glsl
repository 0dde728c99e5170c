// mamba_docs: shared by the kernels of Mamba2 for rows of documents (op.h: docs). Include after the
// push constants p. Chunk i of a run is entry chunk0 + i of the table. A chunk belongs to one
// document, so a token's result does not depend on where its document stands. For tokens past the
// end of a chunk, the last token is read, with weight 0.
//
// A workgroup computes a tile of TILE rows and LANES * 4 columns of one matrix; a lane has ROWS
// rows of four columns, and neighbouring lanes read neighbouring words. Dimension z of the grid
// counts the tiles of a matrix, rows first. Workgroup memory is not used, because on a CPU device
// it is not faster than other memory.
layout(constant_id = SPEC_lanes) const uint LANES = 8;
layout(constant_id = SPEC_rows) const uint ROWS = 8;    // a multiple of 4
const uint TILE = WG / LANES * ROWS;

layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer U4 { vec4 u4[]; };

struct chunk { uint first, n; bool begins, ends; };     // tokens; begins or ends a document

uint i_chunk() { return gl_WorkGroupID.y; }             // of the run
chunk this_chunk()
{
    uvec4 c = chunks[p.chunk0 + i_chunk()];
    return chunk(c.x, c.y, c.z != 0, c.w != 0);
}
uint token(chunk c, uint i) { return (c.first + min(i, c.n - 1)) * p.u_stride / 4; }    // in u4

uint d_inner() { return p.n_head * p.head_dim; }
uint b_col(uint group) { return d_inner() + group * p.d_state; }
uint c_col(uint group) { return b_col(group) + p.n_group * p.d_state; }
uint per_group() { return p.n_head / p.n_group; }
uint sums_at(uint head, uint which)
{
    return ((i_chunk() * p.n_head + head) * MAMBA_SUMS + which) * p.q;
}
uint terms_at(uint head, uint which)
{
    return ((i_chunk() * p.n_head + head) * MAMBA_TERMS + which) * p.q;
}
uint pair_at(uint head) { return (i_chunk() * p.n_head + head) * p.q * p.q; }
uint state_at(uint head) { return (i_chunk() * p.n_head + head) * p.d_state * p.head_dim; }

// Drivers load a value only once if they can see that it is the same in all lanes.
uint lane_row() { return LANES == WG ? 0 : lane() / LANES * ROWS; }
uint tile_row(uint n_row)
{
    return gl_WorkGroupID.z % ((n_row + TILE - 1) / TILE) * TILE + lane_row();
}
uint tile_col(uint n_row)
{
    return (gl_WorkGroupID.z / ((n_row + TILE - 1) / TILE) * LANES + lane() % LANES) * 4;
}

// acc[i][j] += the dot product of n numbers of u4 from a[i] on with n numbers from b[j] on.
void rows_by_rows(uint a[ROWS], uint b[4], uint n, inout vec4 acc[ROWS])
{
    [[dont_unroll]] for (uint k = 0; k < n / 4; k++) {
        vec4 v[4];
        [[unroll]] for (uint j = 0; j < 4; j++)
            v[j] = u4[b[j] + k];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 r = u4[a[i] + k];
            acc[i] += vec4(dot(r, v[0]), dot(r, v[1]), dot(r, v[2]), dot(r, v[3]));
        }
    }
}

vec4 exp4(vec4 x) { return vec4(exp1(x.x), exp1(x.y), exp1(x.z), exp1(x.w)); }
