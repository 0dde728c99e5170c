// linear_many: the tokens of a workgroup of the kernels for many tokens. Without GROUPED they are a
// run of the batch. With it they are a tile of one expert's entries (moe_sort.comp). Entry e of a
// batch is slot e % n_used of token e / n_used; its product goes to row e of y, and x is read from
// the token's row (GROUPED_TOKEN) or from row e (GROUPED_ENTRY). Include after defining
// ENTRIES_BINDING; the next binding has the tiles.
layout(constant_id = SPEC_grouped) const uint GROUPED = GROUPED_NOT;
// the entries by expert; the number of tiles, then each tile's expert, first entry and entries
layout(set = 0, binding = ENTRIES_BINDING) readonly buffer Entries { uint entries[]; };
layout(set = 0, binding = ENTRIES_BINDING + 1) readonly buffer Tiles { uint tiles[]; };

struct owned {
    uint w_row;         // first row of W
    uint first, n;      // tokens or places in entries
};

// False: the workgroup has nothing to do.
bool own_tokens(uint per_group, out owned o)
{
    uint i = gl_WorkGroupID.y;
    if (GROUPED == GROUPED_NOT) {
        o.w_row = 0;
        o.first = i * per_group;
        o.n = min(per_group, p.n_tok - o.first);
        return true;
    }
    if (i >= tiles[0])
        return false;
    uint e = tiles[1 + 3 * i] - p.expert0;
    o.w_row = e * p.n_out;
    o.first = tiles[2 + 3 * i];
    o.n = tiles[3 + 3 * i];
    return e < p.n_expert;
}

uint y_row(owned o, uint j) { return GROUPED == GROUPED_NOT ? o.first + j : entries[o.first + j]; }
uint x_row(owned o, uint j)
{
    return GROUPED == GROUPED_TOKEN ? y_row(o, j) / p.n_used : y_row(o, j);
}
