// sample: shared by the two kernels of the sampler. Include after the push constants p. Logits are
// taken in blocks of p.block entries of the vocabulary.
const float NEVER = -1e30;      // an entry that is never chosen
uint row() { return gl_WorkGroupID.y; }     // the segment
// Of the logits after masks and penalties.
uint logit_at(uint i) { return row() * p.n_vocab + i; }
uint block_at(uint b) { return row() * p.blocks_stride + b; }
uint block_end(uint b) { return min((b + 1) * p.block, p.n_vocab); }
