/* fuzz: the targets of `make fuzz`, each in a file fuzz_NAME.c of its own. They take any bytes and
 * return 0; what is wrong crashes, fails an assertion or is seen by a sanitizer. `make test` runs
 * them over tests/corpus/NAME (test_fuzz.c).
 *
 * A new one is its file, its name in the list below and some small inputs. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define FUZZ_TARGETS(X) X(gguf) X(chat)

/* In a fuzzer's own build the Makefile renames its function to the one that libFuzzer calls. */
#define DECLARE(name) int fuzz_##name(const uint8_t *bytes, size_t n);
FUZZ_TARGETS(DECLARE)
#undef DECLARE
