// sum: long sums in single precision with small errors.

shared float sum_part[WG];

// Adds v to a sum; `lost` carries its rounding errors (Kahan).
void add(inout float sum, inout float lost, float v)
{
    precise float w = v - lost;
    precise float t = sum + w;
    precise float gone = t - sum;
    precise float rest = gone - w;
    lost = rest;
    sum = t;
}

// The sum of positive numbers over the workgroup, with an error of a few roundings: subgroups add
// as trees, and their sums are added with what each addition loses. The same in every lane.
float exact_sum(float v)
{
    v = subgroupAdd(v);
    if (ONE_SUBGROUP != 0)
        return v;
    if (subgroupElect())
        sum_part[gl_SubgroupID] = v;
    barrier();
    float sum = 0.0, lost = 0.0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        add(sum, lost, sum_part[i]);
    barrier();
    return sum;
}
