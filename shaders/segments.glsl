// segments: where a token of a batch belongs (push.h). Include after declaring the buffer
// Step { segment seg[]; }.
uint segment_of(uint t, uint n_seg) { return n_seg == 1 ? 0 : t; }
uint pos_of(uint t, uint n_seg) { return n_seg == 1 ? seg[0].pos + t : seg[t].pos; }
