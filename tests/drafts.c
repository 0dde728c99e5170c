/* drafts: see the header. */
#include "drafts.h"
#include "hlm_test.h"

#include <stdlib.h>

/* Arrays with an entry for each block: the last entry is repeated for each block that is added. */
static void longer_arrays(struct gguf_build *b, const struct gguf *g, uint32_t n_block,
                          uint32_t n_more)
{
    for (uint64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        if (kv->type != GGUF_ARRAY || kv->elem == GGUF_STRING || kv->n != n_block)
            continue;
        uint64_t n = gguf_kv_bytes(kv), size = n / n_block;
        uint8_t *all = mem_alloc(n + n_more * size, 1);
        HLM_ASSERT(all);
        memcpy(all, kv->data, n);
        for (uint32_t k = 0; k < n_more; k++)
            memcpy(all + n + k * size, kv->data + n - size, size);
        gb_array(b, kv->key, kv->elem, n_block + n_more, all);
        free(all);
    }
}

/* Adds block k after the first draft block: a copy whose tensors' numbers are rotated by a share of
 * their length. */
static bool add_block(struct gguf_build *b, const struct gguf *g, uint32_t i_first, uint32_t k,
                      uint32_t n_block)
{
    char prefix[32], name[96];
    int n_prefix = snprintf(prefix, sizeof prefix, "blk.%u.", i_first);
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (strncmp(t->name, prefix, (size_t)n_prefix))
            continue;
        if (t->type != F32)
            return false;
        uint64_t turn = t->n_elem * k / n_block * sizeof(float);
        uint8_t *v = mem_alloc(t->n_bytes, 1);
        HLM_ASSERT(v);
        memcpy(v, t->data + turn, t->n_bytes - turn);
        memcpy(v + t->n_bytes - turn, t->data, turn);
        snprintf(name, sizeof name, "blk.%u.%s", i_first + k, t->name + n_prefix);
        gb_tensor(b, name, F32, t->n_dim, t->dim, v);
        free(v);
    }
    return true;
}

static struct gguf_build *build(const char *path, uint32_t n, struct hlm_err *err)
{
    char key[2][64];
    uint32_t n_block = 0, n_draft = 0;
    struct hlm_str arch = { 0 };
    struct gguf *g = gguf_open(path, err);
    struct gguf_build *b = g ? gb_from(path, err) : NULL;
    bool ok = b && gguf_str(g, "general.architecture", REQUIRED, &arch, err);
    if (ok) {
        snprintf(key[0], sizeof key[0], "%.*s.block_count", (int)arch.n, arch.p);
        snprintf(key[1], sizeof key[1], "%.*s.nextn_predict_layers", (int)arch.n, arch.p);
        ok = gguf_u32(g, key[0], REQUIRED, &n_block, err) &&
             gguf_u32(g, key[1], REQUIRED, &n_draft, err) &&
             (n_draft == 1 || fail(err, "%s: %u draft blocks, expected 1", path, n_draft));
    }
    if (ok) {
        longer_arrays(b, g, n_block, n - 1);
        gb_u32(b, key[0], n_block + n - 1);
        gb_u32(b, key[1], n);
    }
    for (uint32_t k = 1; ok && k < n; k++)
        ok = add_block(b, g, n_block - 1, k, n) || fail(err, "%s: not of F32", path);
    gguf_close(g);
    if (ok)
        return b;
    gb_free(b);
    return NULL;
}

const char *drafts_file(const char *fixture_path, uint32_t n)
{
    struct hlm_err err = { 0 };
    if (n <= 1)
        return fixture("%s", fixture_path);
    struct gguf_build *b = build(fixture("%s", fixture_path), n, &err);
    const char *path = test_scratch("drafts.gguf");
    bool ok = CHECK_OK(b && gb_write(b, path, &err), err);
    gb_free(b);
    return ok ? path : NULL;
}
