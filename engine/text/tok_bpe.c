/* tok_bpe: merges the bytes of a piece into tokens, pair by pair, in the order of ranks. It takes
 * O(n log n), so that a piece of a megabyte does no harm. */
#include "text/tok_parts.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct merge {
    int32_t left, right;
    uint32_t rank;
    int32_t id;
}; /* rank NONE: free slot */

/* A symbol in the list of the piece being merged. rank and made are those of the pair that begins
 * here. */
struct symbol {
    int32_t id, made;
    uint32_t prev, next, rank;
};

bool bpe_init(struct bpe *b, uint64_t n_merge, struct hlm_err *err)
{
    uint32_t bits = 4;
    while (bits < 31 && (1ull << bits) < n_merge + n_merge / 2)
        bits++;
    b->shift = 64 - bits;
    b->mask = (1u << bits) - 1;
    if (n_merge <= b->mask / 2 + b->mask / 4)
        b->table = mem_alloc(1ull << bits, sizeof *b->table);
    if (!b->table)
        return fail_memory(err, "tokenizer: no memory for %llu merges",
                           (unsigned long long)n_merge);
    memset(b->table, 0xff, sizeof *b->table << bits);
    memset(b->byte_id, 0xff, sizeof b->byte_id);
    return true;
}

void bpe_finish(struct bpe *b)
{
    free(b->table);
    free(b->sym);
    free(b->heap);
    *b = (struct bpe){ 0 };
}

/* The entry of a pair, or the free one where it would go. */
static struct merge *slot(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)((key ^ key >> 29) * 0x9e3779b97f4a7c15u >> b->shift);
    while (b->table[i].rank != NONE && (b->table[i].left != left || b->table[i].right != right))
        i = (i + 1) & b->mask;
    return &b->table[i];
}

void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    struct merge *m = slot(b, left, right);
    if (m->rank == NONE)
        *m = (struct merge){ left, right, rank, id };
}

/* A binary heap of rank << 32 | position: the lowest rank comes first, then the leftmost. */
static void heap_down(uint64_t *heap, uint64_t n, uint64_t i)
{
    uint64_t e = heap[i];
    for (uint64_t kid; (kid = 2 * i + 1) < n; i = kid) {
        kid += kid + 1 < n && heap[kid + 1] < heap[kid];
        if (heap[kid] >= e)
            break;
        heap[i] = heap[kid];
    }
    heap[i] = e;
}

static void heap_push(uint64_t *heap, uint64_t n, uint64_t e)
{
    uint64_t i = n;
    for (; i && heap[(i - 1) / 2] > e; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

/* Looks up the pair that begins at symbol i. False when it does not merge. */
static bool look(struct bpe *b, uint32_t i, uint32_t end)
{
    struct symbol *s = &b->sym[i];
    const struct merge *m = s->next == end ? NULL : slot(b, s->id, b->sym[s->next].id);
    s->rank = m ? m->rank : NONE;
    s->made = m ? m->id : -1;
    return s->rank != NONE;
}

bool bpe_piece(struct bpe *b, const char *piece, uint64_t n_byte, struct hlm_ids *out,
               struct hlm_err *err)
{
    if (n_byte >= NONE)
        return fail(err, "tokenizer: a piece of %llu bytes is too long",
                    (unsigned long long)n_byte);
    /* Each merge takes one pair off the heap and adds at most two, so there are never over 2 n. */
    if (!tok_room((void **)&b->sym, &b->sym_cap, n_byte, sizeof *b->sym, err) ||
        !tok_room((void **)&b->heap, &b->heap_cap, 2 * n_byte, sizeof *b->heap, err))
        return false;
    struct symbol *sym = b->sym;
    uint32_t n = 0;
    for (uint64_t i = 0; i < n_byte; i++) {
        int32_t id = b->byte_id[(uint8_t)piece[i]];
        if (id >= 0) { /* a byte without a token is dropped; tok_create() warned */
            sym[n] = (struct symbol){ .id = id, .prev = n - 1, .next = n + 1 };
            n++;
        }
    }

    uint64_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++)
        if (look(b, i, n))
            b->heap[n_heap++] = (uint64_t)sym[i].rank << 32 | i;
    for (uint64_t i = n_heap / 2; i-- > 0;)
        heap_down(b->heap, n_heap, i);

    while (n_heap) {
        uint32_t i = (uint32_t)b->heap[0], rank = (uint32_t)(b->heap[0] >> 32);
        b->heap[0] = b->heap[--n_heap];
        heap_down(b->heap, n_heap, 0);
        if (sym[i].rank != rank) /* stale: one of the pair has merged with another symbol */
            continue;
        uint32_t gone = sym[i].next, next = sym[gone].next;
        sym[i].id = sym[i].made;
        sym[i].next = next;
        sym[gone].rank = NONE;
        if (next != n)
            sym[next].prev = i;
        if (look(b, i, n))
            heap_push(b->heap, n_heap++, (uint64_t)sym[i].rank << 32 | i);
        if (i && look(b, sym[i].prev, n))
            heap_push(b->heap, n_heap++, (uint64_t)sym[sym[i].prev].rank << 32 | sym[i].prev);
    }
    for (uint32_t i = 0; i < n; i = sym[i].next)
        if (!tok_ids_push(out, &sym[i].id, 1, err))
            return false;
    return true;
}
