/* ssm_in: see the header. */
#include "ssm_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ssm_in_heads {
    uint32_t n_k, n_v, dim;
};

/* Per K head: dim rows of q, dim of k, r dim of v, r dim of z; r = n_v / n_k. */
static uint8_t *interleave(const struct gguf_tensor *qkv, const struct gguf_tensor *z,
                           const struct ssm_in_heads *h)
{
    uint64_t row = qkv->n_bytes / qkv->dim[1], k_part = h->dim * row,
             v_part = k_part * (h->n_v / h->n_k);
    const uint8_t *q = qkv->data, *k = q + h->n_k * k_part, *v = k + h->n_k * k_part;
    uint8_t *all = mem_alloc(qkv->n_bytes + z->n_bytes, 1), *to = all;
    HLM_ASSERT(all && qkv->n_bytes == 2 * h->n_k * k_part + h->n_k * v_part &&
               z->n_bytes == h->n_k * v_part);

    for (uint64_t i = 0; i < h->n_k; i++, to += 2 * k_part + 2 * v_part) {
        memcpy(to, q + i * k_part, k_part);
        memcpy(to + k_part, k + i * k_part, k_part);
        memcpy(to + 2 * k_part, v + i * v_part, v_part);
        memcpy(to + 2 * k_part + v_part, z->data + i * v_part, v_part);
    }
    return all;
}

/* False when the block has no such pair of tensors. */
static bool rewrite(struct gguf_build *b, const struct gguf *g, const struct ssm_in_heads *h,
                    uint32_t i_block)
{
    char qkv_name[64], z_name[64], in_name[64];

    snprintf(qkv_name, sizeof qkv_name, "blk.%u.attn_qkv.weight", i_block);
    snprintf(z_name, sizeof z_name, "blk.%u.attn_gate.weight", i_block);
    snprintf(in_name, sizeof in_name, "blk.%u.ssm_in.weight", i_block);
    const struct gguf_tensor *qkv = gguf_tensor(g, qkv_name), *z = gguf_tensor(g, z_name);
    if (!qkv || !z || qkv->type != z->type)
        return false;
    uint8_t *data = interleave(qkv, z, h);
    uint64_t dim[2] = { qkv->dim[0], qkv->dim[1] + z->dim[1] };
    gb_tensor(b, in_name, qkv->type, 2, dim, data);
    gb_drop_tensor(b, qkv_name);
    gb_drop_tensor(b, z_name);
    free(data);
    return true;
}

struct gguf_build *ssm_in_build(const char *path, struct hlm_err *err)
{
    struct ssm_in_heads h;
    uint32_t n_block, n_done = 0;
    struct gguf *g = gguf_open(path, err);
    struct gguf_build *b = g ? gb_from(path, err) : NULL;

    if (b && gguf_u32(g, "qwen3next.block_count", REQUIRED, &n_block, err) &&
        gguf_u32(g, "qwen3next.ssm.group_count", REQUIRED, &h.n_k, err) &&
        gguf_u32(g, "qwen3next.ssm.time_step_rank", REQUIRED, &h.n_v, err) &&
        gguf_u32(g, "qwen3next.ssm.state_size", REQUIRED, &h.dim, err)) {
        for (uint32_t i = 0; i < n_block; i++)
            n_done += rewrite(b, g, &h, i);
        if (!n_done)
            fail(err, "%s: no layer with attn_qkv and attn_gate of one type", path);
    }
    gguf_close(g);
    if (n_done)
        return b;
    gb_free(b);
    return NULL;
}
