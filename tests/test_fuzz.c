/* test_fuzz: inputs that the fuzzers found are run again: every file of tests/corpus goes through
 * its harness, as it is and with seeded changes.
 *
 * Each tests/fuzz/fuzz_NAME.c is a libFuzzer harness under `make fuzz`. It is part of this program
 * too; the Makefile renames its function to fuzz_NAME. To add one: write the file, put a few small
 * inputs into tests/corpus/NAME, and add the name to the list below. */
#define _POSIX_C_SOURCE 200809L
#include "file/file.h"
#include "test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HARNESSES(X) X(gguf) X(chat) X(snapshot) X(adapter) X(data)

enum { MIN_FILES = 5, MAX_BYTES = 200 << 10, N_ROUND = 40 };

typedef int fuzz_fn(const uint8_t *bytes, size_t n);
#define DECLARE(name) fuzz_fn fuzz_##name;
HARNESSES(DECLARE)
#undef DECLARE

/* libFuzzer's own mutator, for a harness that changes its input itself; here it does nothing. */
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t max);
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t max)
{
    (void)bytes;
    return n < max ? n : max;
}

/* Gives the harness a copy of exactly this size, so that a sanitizer sees every access outside. */
static void feed(fuzz_fn *fn, const uint8_t *bytes, uint64_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    HLM_ASSERT(exact);
    if (n)
        memcpy(exact, bytes, n);
    CHECK_EQ(fn(exact, n), 0);
    free(exact);
}

/* Makes one to three changes: a byte, a bit, a cut, one piece copied over another. */
static uint64_t mutate(struct rng *r, uint8_t *bytes, uint64_t n)
{
    for (uint64_t k = 1 + rng_u64(r) % 3; k && n; k--) {
        uint64_t at = rng_u64(r) % n, from = rng_u64(r) % n;
        switch (rng_u64(r) % 8) {
        case 0: n = at; break;
        case 1:
            memmove(bytes + at, bytes + from, min_u64(1 + rng_u64(r) % 16, n - max_u64(at, from)));
            break;
        case 2:
        case 3: bytes[at] ^= (uint8_t)(1 << rng_u64(r) % 8); break;
        default: bytes[at] = (uint8_t)rng_u64(r); break;
        }
    }
    return n;
}

static uint64_t feed_file(fuzz_fn *fn, const char *path, struct rng *r)
{
    struct hlm_err err = { 0 };
    uint64_t n = 0;
    uint8_t *bytes = (uint8_t *)file_read(path, MAX_BYTES, &n, &err);
    if (!CHECK_MSG(bytes, "%s", err.msg))
        return 0;
    feed(fn, bytes, n);
    uint8_t *changed = malloc(n + 1);
    HLM_ASSERT(changed);
    for (int i = 0; i < N_ROUND; i++) {
        memcpy(changed, bytes, n);
        feed(fn, changed, mutate(r, changed, n));
    }
    free(changed);
    free(bytes);
    return n;
}

static void replay(const char *name, fuzz_fn *fn)
{
    struct rng r = { 4711 };
    char path[600];
    uint32_t n_file = 0;
    uint64_t n_byte = 0;
    test_case("the corpus of fuzz_%s and %d changes of each file, seed %llu", name, N_ROUND,
              (unsigned long long)r.s);
    snprintf(path, sizeof path, "tests/corpus/%s", name);
    struct dirent **list = NULL;
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (*list[i]->d_name != '.') {
            snprintf(path, sizeof path, "tests/corpus/%s/%s", name, list[i]->d_name);
            n_byte += feed_file(fn, path, &r);
            n_file++;
        }
        free(list[i]);
    }
    free(list);
    CHECK_MSG(n_file >= MIN_FILES, "%u files in tests/corpus/%s", n_file, name);
    CHECK_MSG(n_byte <= MAX_BYTES, "%llu bytes", (unsigned long long)n_byte);
    test_note("%u files, %llu bytes", n_file, (unsigned long long)n_byte);
}

void test_fuzz(void)
{
#define REPLAY(name) replay(#name, fuzz_##name);
    HARNESSES(REPLAY)
#undef REPLAY
}
