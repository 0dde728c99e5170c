// gate: the decay and the write strength of Gated DeltaNet, in f32, computed here and nowhere else.
// ssm_a is -exp(A_log) as the file stores it; a and b are the raw projections of one V head.
float delta_decay(float ssm_a, float dt_bias, float a)
{
    return exp1(ssm_a * softplus(a + dt_bias));
}
float delta_beta(float b) { return sigmoid(b); }
