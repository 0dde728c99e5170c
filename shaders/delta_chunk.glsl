// delta_chunk: shared by the kernels of the chunked Gated DeltaNet: the heads and tokens of a
// workgroup. Include after the push constants p.
//
// V heads are numbered by K head, so that those of one K head are adjacent, and from k_head0, the
// first that is bound. The numbers of a V head and a chunk lie in the slot of both.
uint n_shared() { return p.n_v_head / p.n_k_head; }         // V heads of a K head
uint k_head_of(uint v) { return p.k_head0 + v / n_shared(); }
uint v_head_of(uint v)
{
    uint k = k_head_of(v), i = v % n_shared();
    return p.tiled != 0 ? i * p.n_k_head + k : k * n_shared() + i;
}
uint slot_of(uint v, uint chunk) { return v * p.n_slot + chunk; }

// Rows of the convolution's output, in vec4s.
uint u_row4() { return (2 * p.n_k_head + p.n_v_head) * (p.d_state / 4); }
uint q4_of(uint v) { return k_head_of(v) * (p.d_state / 4); }
uint k4_of(uint v) { return (p.n_k_head + k_head_of(v)) * (p.d_state / 4); }
uint v4_of(uint v) { return (2 * p.n_k_head + v_head_of(v)) * (p.d_state / 4); }

// The rows of a chunk's gates, [GATE_ROWS][chunk]. G is the sum of log decays up to and with a
// token, as a high and a low word: after strong decays, the last place of one float would be an
// error as large as the weak decays that follow.
const uint EXP_G = 0, EXP_REST = 1, BETA = 2, G_HI = 3, G_LO = 4;   // rest: G of the end less it
uint gates_of(uint slot) { return slot * GATE_ROWS * p.chunk; }

// Tile number t of those on and below the diagonal: its row and column.
uvec2 lower_tile(uint t)
{
    uint i = uint((sqrt(8.0 * float(t) + 1.0) - 1.0) / 2.0);
    if (i * (i + 1) / 2 > t)
        i--;
    if ((i + 1) * (i + 2) / 2 <= t)
        i++;
    return uvec2(i, t - i * (i + 1) / 2);
}

struct doc_chunk { uint t0, n; bool begins, ends; };        // n 0: not in use
doc_chunk doc_chunk_from(ivec4 v) { return doc_chunk(v.x, v.y, v.z != 0, v.w != 0); }
