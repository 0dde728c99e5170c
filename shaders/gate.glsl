// gate: the gates of the recurrent mixers: decay and write strength, in f32. They are computed only
// here. ssm_a is -exp(A_log), as the file stores it.

// Gated DeltaNet; a and b are the raw projections of one V head.
float delta_log_decay(float ssm_a, float dt_bias, float a)
{
    return ssm_a * softplus(a + dt_bias);
}
float delta_decay(float ssm_a, float dt_bias, float a)
{
    return exp1(delta_log_decay(ssm_a, dt_bias, a));
}
float delta_beta(float b) { return sigmoid(b); }
// The gradient of a, from that of the log decay; and of b, from the product of the write strength
// and its gradient.
float delta_log_decay_bwd(float ssm_a, float dt_bias, float a, float dg)
{
    return dg * (ssm_a * sigmoid(a + dt_bias));
}
float delta_beta_bwd(float b, float dbeta_beta) { return dbeta_beta * sigmoid(-b); }

// Mamba2; dt is the raw projection of one head. It is not clamped: models/README.md, "Mamba2".
struct mamba_gates { float dt, decay; };
mamba_gates mamba_gate(float ssm_a, float dt_bias, float dt)
{
    dt = softplus(dt + dt_bias);
    return mamba_gates(dt, exp1(ssm_a * dt));
}
