// chunk: shared by the kernels of Mamba2's chunked form. Include after the push constants p and the
// bindings U1 { float u[]; }, U4 { vec4 u4[]; } [n_tok]: x, B, C, dt, decay. Chunk i of a run
// begins at token tok0 + i Q. Tokens past n_tok have dt = 0, so that they change nothing.
//
// A workgroup computes a tile of TILE rows and LANES * COLS columns of one matrix; a lane has ROWS
// by COLS of it, and neighbouring lanes have neighbouring columns. Dimension z of the grid counts
// the tiles of a matrix, rows first.
layout(constant_id = SPEC_q) const uint Q = 64;        // tokens of a chunk, a multiple of 4
layout(constant_id = SPEC_lanes) const uint LANES = 32;
layout(constant_id = SPEC_rows) const uint ROWS = 8;     // a multiple of 4
layout(constant_id = SPEC_cols) const uint COLS = 2;
const uint TILE = WG / LANES * ROWS;

uint d_inner() { return p.n_head * p.head_dim; }
uint b_col(uint group) { return d_inner() + group * p.d_state; }
uint c_col(uint group) { return b_col(group) + p.n_group * p.d_state; }
uint dt_col() { return d_inner() + 2 * p.n_group * p.d_state; }

uint lane_row() { return lane() / LANES * ROWS; }
uint chunk() { return gl_WorkGroupID.y; }
uint token(uint i) { return min(p.tok0 + chunk() * Q + i, p.n_tok - 1); }
uint tile_row(uint n_row) { return gl_WorkGroupID.z % ((n_row + TILE - 1) / TILE) * TILE; }
uint tile_col(uint n_row) { return gl_WorkGroupID.z / ((n_row + TILE - 1) / TILE) * LANES * COLS; }

// The running sums c of dt A inside a chunk, as high and low words, and dt: [Q] each, of
// (chunk, head). Differences of the words lose nothing, however far a sum has come.
uint sums_at(uint head) { return (chunk() * p.n_head + head) * 3 * Q; }
