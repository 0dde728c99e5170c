/* fuzz_gguf: libFuzzer harness of the GGUF reader. Part of no other program.
 *
 *   S="engine/base.c engine/dtype.c engine/file.c engine/file_io.c tests/gguf_build.c"
 *   clang -std=c17 -g -O1 -fsanitize=fuzzer,address,undefined tests/fuzz_gguf.c $S -lm -o fuzz_gguf
 *   ./fuzz_gguf -max_len=8192 corpus/
 *
 * With -DREPLAY and without =fuzzer it is a plain program that runs the files it is given. */
#include "gguf_build.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct err err = { 0 };
    struct gguf *g = gguf_parse(bytes, n, "fuzz.gguf", &err);
    if (g)
        gguf_touch(g);
    else /* whatever is refused is refused in one line that names the file */
        HLM_ASSERT(err.set && !strncmp(err.msg, "fuzz.gguf: ", 11) && !strchr(err.msg, '\n'));
    gguf_close(g);
    return 0;
}

#ifdef REPLAY
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        uint64_t n;
        char *bytes = file_read(argv[i], 1ull << 32, &n, NULL);
        if (!bytes)
            return 2;
        LLVMFuzzerTestOneInput((const uint8_t *)bytes, n);
        free(bytes);
    }
    return 0;
}
#endif
