/* gguf_index: finds keys and tensors by name. See gguf_parts.h. */
#include "file/gguf_parts.h"

#include <stdlib.h>
#include <string.h>

bool gguf_index_init(struct gguf_index *ix, uint64_t n)
{
    uint32_t n_slot = 2;
    while (n_slot < 2 * n)
        n_slot *= 2;
    ix->name = mem_alloc(n, sizeof *ix->name);
    ix->slot = mem_alloc(n_slot, sizeof *ix->slot);
    ix->mask = n_slot - 1;
    return ix->name && ix->slot;
}

void gguf_index_finish(struct gguf_index *ix)
{
    free(ix->name);
    free(ix->slot);
    *ix = (struct gguf_index){ 0 };
}

/* The slot of the name, or the free one where it belongs. */
static uint32_t *index_slot(const struct gguf_index *ix, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = name; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    uint32_t i = (uint32_t)(h ^ h >> 32) & ix->mask;
    while (ix->slot[i] && strcmp(ix->name[ix->slot[i] - 1], name))
        i = (i + 1) & ix->mask;
    return &ix->slot[i];
}

/* False if the name is there already. */
bool gguf_index_add(struct gguf_index *ix, const char *name)
{
    uint32_t *slot = index_slot(ix, name);
    if (*slot)
        return false;
    ix->name[ix->n++] = name;
    *slot = ix->n;
    return true;
}

uint32_t gguf_index_find(const struct gguf_index *ix, const char *name)
{
    return *index_slot(ix, name);
}
