// adam: walking over rows of what is trained. A workgroup has per_group rows of the table; as many
// lanes share a row as its first row has numbers, so that rows of a few numbers use all lanes too.
layout(push_constant) uniform Push { push_adam p; };
layout(binding = 0) readonly buffer Rows { adam_row rows[]; };
layout(binding = 1) readonly buffer Scale { float scale[]; };

struct walk { uint row, end, by, lane, width; };

// The grid's lines lie one behind the other.
uint group() { return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x; }

walk walk_begin()
{
    walk w;
    uint n = min(group() * p.per_group, p.n_row);
    w.end = p.row0 + min(n + p.per_group, p.n_row);
    w.width = WG;
    if (n < p.n_row)
        for (uint len = rows[p.row0 + n].n; w.width > 1 && w.width / 2 >= len;)
            w.width /= 2;
    w.row = p.row0 + n + lane() / w.width;
    w.by = WG / w.width;
    w.lane = lane() % w.width;
    return w;
}

// The row's first number, of what is bound.
uint value_at(adam_row r) { return 4 * (r.at - p.base); }
uint moment_at(adam_row r) { return r.moment - p.moment0; }
