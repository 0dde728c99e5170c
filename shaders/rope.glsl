// rope: cosine and sine of position times frequency, with an error of about 1e-7 at any position.
//
// A frequency is given as a 64-bit fraction of a turn per position, which the host computes in
// double precision from the f32 frequency. position * fraction modulo 1 is integer arithmetic, so
// nothing is lost at long contexts. The rest is a polynomial on an eighth of a turn (Cephes' sinf
// and cosf).
void rope_cos_sin(uint pos, uvec2 turn, out float c, out float s)   // turn: x high word, y low word
{
    uint hi, lo;
    umulExtended(pos, turn.y, hi, lo);
    uint frac = pos * turn.x + hi;              // 2^-32 turns, modulo 1
    uint quarter = (frac + 0x20000000u) >> 30;
    int rest = int(frac - (quarter << 30));     // within an eighth of a turn of zero
    float x = float(rest) * 1.4629180792671596e-9;      // 2 pi / 2^32
    float q = x * x;
    float sn = ((-1.9515295891e-4 * q + 8.3321608736e-3) * q - 1.6666654611e-1) * q * x + x;
    float cs = ((2.443315711809948e-5 * q - 1.388731625493765e-3) * q + 4.166664568298827e-2) *
               q * q - 0.5 * q + 1.0;
    float a = (quarter & 1u) == 0u ? cs : sn, b = (quarter & 1u) == 0u ? sn : cs;
    c = quarter == 1u || quarter == 2u ? -a : a;
    s = quarter >= 2u ? -b : b;
}
