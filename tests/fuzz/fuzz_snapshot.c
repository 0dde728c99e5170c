/* fuzz_snapshot: libFuzzer harness of the reader of saved sessions.
 *
 * make build/fuzz_snapshot && build/fuzz_snapshot -max_len=4096
 *
 * It needs no corpus: an input that is too short becomes a sound file, and most files are given the
 * right length and checksum, so that those are not what refuses them. */
#include "saved_tiny.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t max);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct hlm_err err = { 0 };
    struct saved s;
    struct file_in f = { .path = "fuzz.hlm", .mem = bytes, .bytes = n };
    if (saved_open(&s, &f, &tiny_want, &err)) {
        HLM_ASSERT(s.head.n_past <= tiny_want.n_ctx && s.head.n_known <= s.head.n_past + 1);
        for (uint32_t i = 0; i < s.head.n_known; i++)
            HLM_ASSERT(s.id[i] >= 0 && (uint32_t)s.id[i] < tiny_want.n_vocab);
        for (uint32_t i = 0; i < s.head.n_snap; i++)
            HLM_ASSERT(s.snap[i].n_past && s.snap[i].n_past <= s.head.n_past);
        HLM_ASSERT(s.note[s.head.n_note] == 0 && s.logits_at <= n);
    } else { /* a refusal is one line that names the file */
        HLM_ASSERT(err.kind && !strncmp(err.msg, "fuzz.hlm: ", 10) && !strchr(err.msg, '\n'));
    }
    saved_finish(&s);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed)
{
    struct tiny_bytes b = tiny_file(seed % 40, seed % 3 ? "note" : "");
    if (n < sizeof(struct saved_head) + 16 && b.n <= max) {
        memcpy(bytes, b.p, b.n);
        return b.n;
    }
    n = LLVMFuzzerMutate(bytes, n, max);
    if (n < sizeof(struct saved_head) + 16 || n > sizeof b.p || seed % 8 == 0)
        return n;
    memcpy(b.p, bytes, n);
    b.n = n;
    memcpy(b.p + offsetof(struct saved_head, file_bytes), &b.n, 8);
    tiny_seal(&b);
    memcpy(bytes, b.p, n);
    return n;
}
