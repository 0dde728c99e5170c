// adam: a walk over rows of trained numbers. A workgroup has per_group rows of the table. As many
// lanes share a row as the first row has numbers, so that short rows also use all lanes.
layout(push_constant) uniform Push { push_adam p; };
layout(binding = 0) readonly buffer Rows { adam_row rows[]; };
layout(binding = 1) readonly buffer Scale { float scale[]; };

struct walk { uint row, end, by, lane, width; };

// The index of the workgroup: the lines of the grid follow one another.
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

// The index of the row's first number in the binding.
uint value_at(adam_row r) { return 4 * (r.at - p.base); }
uint moment_at(adam_row r) { return r.moment - p.moment0; }
