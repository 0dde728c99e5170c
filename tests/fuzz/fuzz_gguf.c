/* fuzz_gguf: libFuzzer harness of the GGUF reader: any bytes as one file and as a split model, in
 * which a shard begins wherever the bytes say GGUF. `make fuzz` runs it for long, test_fuzz.c on
 * tests/corpus/gguf. */
#include "file/gguf_parts.h"
#include "gguf_build.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { MAX_PART = 8 };

struct fuzz_shards {
    const uint8_t *at[MAX_PART];
    uint64_t n_bytes[MAX_PART];
    uint32_t n;
};

static struct fuzz_shards cut(const uint8_t *bytes, uint64_t n)
{
    struct fuzz_shards p = { 0 };
    for (uint64_t i = 0; i + 4 <= n && p.n < MAX_PART; i++)
        if (!memcmp(bytes + i, "GGUF", 4))
            p.at[p.n++] = bytes + i;
    for (uint32_t i = 0; i < p.n; i++)
        p.n_bytes[i] = (uint64_t)((i + 1 < p.n ? p.at[i + 1] : bytes + n) - p.at[i]);
    return p;
}

/* A refusal is one line that names the file. */
static void check_refusal(const struct hlm_err *err, const char *name)
{
    HLM_ASSERT(err->kind && !strncmp(err->msg, name, strlen(name)) && !strchr(err->msg, '\n'));
}

static struct gguf *open_part(void *user, const char *path, struct hlm_err *err)
{
    const struct fuzz_shards *p = user;
    unsigned i = 0, count = 0;
    HLM_ASSERT(sscanf(path, "fuzz-%5u-of-%5u.gguf", &i, &count) == 2 && i > 1 && i <= count);
    if (i <= p->n)
        return gguf_parse(p->at[i - 1], p->n_bytes[i - 1], path, err);
    fail(err, "%s: there is no such shard", path);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_parse(bytes, n, "fuzz.gguf", &err);
    if (g)
        gguf_touch(g);
    else
        check_refusal(&err, "fuzz.gguf: ");
    gguf_close(g);

    struct fuzz_shards p = cut(bytes, n);
    for (uint32_t count = 1; p.n && count <= p.n; count += p.n > 1 ? p.n - 1 : 1) {
        char name[64];
        err = (struct hlm_err){ 0 };
        snprintf(name, sizeof name, "fuzz-00001-of-%05u.gguf", (unsigned)count);
        g = gguf_parse(p.at[0], p.n_bytes[0], name, &err);
        if (g && (g = gguf_join(g, open_part, &p, &err)))
            gguf_touch(g);
        else
            check_refusal(&err, "fuzz-0000");
        gguf_close(g);
    }
    return 0;
}
