// coop: a tile of a product by cooperative matrices (VK_KHR_cooperative_matrix), with f16 operands
// and f32 sums. A workgroup owns ROWS rows of the result by TOKS tokens. Its SUBGROUPS are arranged
// SG_M by SG_N over that. Each has FRAGS_M by FRAGS_N sums of FM by FN numbers, sizes that the
// device supports. A step stages DEPTH of the dimension that is summed over: the left operand in
// a_tile, by rows or, with A_TURNED, by columns; the right one in b_tile, by tokens. Include after
// common.glsl and weight.glsl, and define coop_store.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

layout(constant_id = SPEC_rows) const uint ROWS = 128;
layout(constant_id = SPEC_toks) const uint TOKS = 64;
layout(constant_id = SPEC_fm) const uint FM = 16;
layout(constant_id = SPEC_fn) const uint FN = 16;
layout(constant_id = SPEC_fk) const uint FK = 16;
layout(constant_id = SPEC_subgroups) const uint SUBGROUPS = 8;
const uint DEPTH = 64;
const uint SG_N = TOKS / FN > 1 && SUBGROUPS > 1 ? 2 : 1, SG_M = SUBGROUPS / SG_N;
const uint FRAGS_M = ROWS / (SG_M * FM), FRAGS_N = TOKS / (SG_N * FN);

// Row lengths in units of eight f16. One more than a row has, so that neighbouring rows begin in
// other memory banks.
const uint B_STRIDE = DEPTH / 8 + 1;
#ifdef A_TURNED
const uint A_STRIDE = ROWS / 8 + 1, A_LINES = DEPTH;
#else
const uint A_STRIDE = DEPTH / 8 + 1, A_LINES = ROWS;
#endif
shared uvec4 a_tile[A_LINES * A_STRIDE];
shared uvec4 b_tile[TOKS * B_STRIDE];

coopmat<float, gl_ScopeSubgroup, FM, FN, gl_MatrixUseAccumulator> sums[FRAGS_M * FRAGS_N];

// Where this subgroup's sums begin in the tile.
uvec2 coop_first()
{
    return uvec2(gl_SubgroupID % SG_M * FRAGS_M * FM, gl_SubgroupID / SG_M * FRAGS_N * FN);
}

void coop_clear()
{
    [[unroll]] for (uint i = 0; i < FRAGS_M * FRAGS_N; i++)
        sums[i] = coopmat<float, gl_ScopeSubgroup, FM, FN, gl_MatrixUseAccumulator>(0.0);
}

// Writes a block of 32 weights to a_tile from unit `at` on; one part, if the weights have two.
void stage_block(uint at, vec4 w[8], uint part)
{
    [[unroll]] for (uint g = 0; g < 8; g++) {
        w[g] = half_operand(w[g]);
        if (part > 0)
            w[g] -= half_first(w[g]);
    }
    [[unroll]] for (uint q = 0; q < 4; q++)
        a_tile[at + q] = uvec4(half_words(w[2 * q]), half_words(w[2 * q + 1]));
}

// Adds the product of the staged operands to the sums.
void coop_step()
{
    uvec2 first = coop_first();
    [[unroll]] for (uint k = 0; k < DEPTH; k += FK) {
        coopmat<float16_t, gl_ScopeSubgroup, FM, FK, gl_MatrixUseA> a[FRAGS_M];
        [[unroll]] for (uint i = 0; i < FRAGS_M; i++) {
            uint m = first.x + i * FM;
#ifdef A_TURNED
            coopMatLoad(a[i], a_tile, k * A_STRIDE + m / 8, A_STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
#else
            coopMatLoad(a[i], a_tile, m * A_STRIDE + k / 8, A_STRIDE,
                        gl_CooperativeMatrixLayoutRowMajor);
#endif
        }
        [[unroll]] for (uint j = 0; j < FRAGS_N; j++) {
            coopmat<float16_t, gl_ScopeSubgroup, FK, FN, gl_MatrixUseB> b;
            coopMatLoad(b, b_tile, (first.y + j * FN) * B_STRIDE + k / 8, B_STRIDE,
                        gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint i = 0; i < FRAGS_M; i++)
                sums[j * FRAGS_M + i] = coopMatMulAdd(a[i], b, sums[j * FRAGS_M + i]);
        }
    }
}

// Takes the result for row m of the tile and token n.
void coop_store(uint m, uint n, float v);

void subgroup_sync()
{
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

// Passes all sums to coop_store, through a part of a_tile for each subgroup. No subgroup may still
// be reading a_tile.
void coop_finish()
{
    uvec2 first = coop_first();
    uint at = gl_SubgroupID * (FM * FN / 4);
    [[unroll]] for (uint f = 0; f < FRAGS_M * FRAGS_N; f++) {
        uint m0 = first.x + f % FRAGS_M * FM, n0 = first.y + f / FRAGS_M * FN;
        coopMatStore(sums[f], a_tile, at, FM / 4, gl_CooperativeMatrixLayoutColumnMajor);
        subgroup_sync();
        for (uint e = gl_SubgroupInvocationID; e < FM * FN; e += gl_SubgroupSize)
            coop_store(m0 + e % FM, n0 + e / FM, uintBitsToFloat(a_tile[at + e / 4][e % 4]));
        subgroup_sync();
    }
}
