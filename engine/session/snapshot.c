/* snapshot: copies of the recurrent state that a session can go back to - which are kept, which are
 * evicted, and the copying. When a snapshot may be used is decided in session.c.
 *
 * On a card the slots are in host memory: there is plenty of it, and a copy over the bus takes
 * milliseconds, while reading the tokens again takes seconds. */
#include "session/snapshot.h"

#include "hlm.h"

#include <string.h>

enum { LOGITS_ALIGN = 256 };

/* ---- making and ending ----------------------------------------------------------------------- */

bool snapshots_init(struct snapshots *k, struct gpu *g, const struct kv *kv, uint32_t seq,
                    tensor logits, uint64_t budget, struct hlm_err *err)
{
    *k = (struct snapshots){ .gpu = g, .kv = kv, .seq = seq, .logits = logits };
    k->state_bytes = kv_part_bytes(kv);
    k->logits_bytes = tensor_row_bytes(logits);
    k->slot_bytes = align_up(k->state_bytes, LOGITS_ALIGN) + k->logits_bytes;
    char all[32], cap[32];
    if (k->state_bytes > gpu_caps(g)->max_alloc) /* a snapshot is one range */
        return fail_size(
            err, HLM_ERR_WONT_FIT,
            &(struct hlm_err){ .need = k->state_bytes, .have = gpu_caps(g)->max_alloc },
            "state: the layers keep %s, the largest buffer of %s has %s",
            bytes_text(all, k->state_bytes), gpu_caps(g)->name,
            bytes_text(cap, gpu_caps(g)->max_alloc));
    if (!(k->arena = arena_create(g, "snapshots", MEM_HOST, err)))
        return false;
    /* if the slots are device memory too, the context is worth more than they are */
    uint64_t some = gpu_caps(g)->unified ? min_u64(512ull << 20, gpu_budget(g) / 16) : 512ull << 20;
    some /= kv->n_seq;
    bool none = budget == HLM_SNAPSHOT_NONE;
    uint64_t n = none ? 0 : budget ? budget / k->slot_bytes : max_u64(2, some / k->slot_bytes);
    k->n_slot = (uint32_t)min_u64(n, MAX_SLOT);
    for (uint32_t i = 0; i < k->n_slot; i++)
        k->slot_at[i] = arena_take(k->arena, k->slot_bytes, 0);
    if (!none && !k->n_slot && !gpu_is_dry(g))
        log_msg(HLM_LOG_WARN,
                "a snapshot of this model takes %llu bytes, the budget for snapshots has "
                "%llu: none are kept",
                (unsigned long long)k->slot_bytes, (unsigned long long)budget);
    return true;
}

void snapshots_finish(struct snapshots *k)
{
    cmd_destroy(k->cmd);
    arena_destroy(k->arena);
    *k = (struct snapshots){ 0 };
}

/* ---- the list -------------------------------------------------------------------------------- */

static void drop_snapshot(struct snapshots *k, uint32_t i)
{
    memmove(&k->at[i], &k->at[i + 1], (--k->n - i) * sizeof *k->at);
}

void snapshots_cut(struct snapshots *k, uint32_t n_past)
{
    while (k->n && k->at[k->n - 1].n_past > n_past)
        k->n--;
}

static struct snapshot *find_snapshot(struct snapshots *k, uint32_t n_past)
{
    for (uint32_t i = 0; i < k->n; i++)
        if (k->at[i].n_past == n_past)
            return &k->at[i];
    return NULL;
}

const struct snapshot *snapshots_best(const struct snapshots *k, uint32_t most, uint32_t n)
{
    for (uint32_t i = k->n; i-- > 0;) {
        const struct snapshot *s = &k->at[i];
        if (s->n_past <= most && s->slot != NO_SLOT && (s->n_past < n || s->has_logits))
            return s;
    }
    return NULL;
}

uint32_t snapshots_evicted(const struct snapshots *k, uint32_t n_past, uint32_t most)
{
    for (uint32_t i = k->n; i-- > 0;)
        if (k->at[i].n_past <= most && k->at[i].n_past > n_past && k->at[i].slot == NO_SLOT)
            return k->at[i].n_past;
    return 0;
}

static bool is_wanted(const struct snapshots *k, uint32_t n_past)
{
    for (uint32_t i = 0; i < k->n_want; i++)
        if (k->want[i] == n_past)
            return true;
    return false;
}

/* Evicts a snapshot and returns its slot: one that is no longer wanted, else the one whose tokens
 * are the fewest to read again. */
static uint32_t evict(struct snapshots *k)
{
    struct snapshot *least = NULL;
    uint64_t cost = UINT64_MAX;
    for (uint32_t i = 0, before = 0; i < k->n; i++) {
        struct snapshot *s = &k->at[i];
        if (s->slot == NO_SLOT)
            continue;
        uint64_t c = s->n_past - before + (is_wanted(k, s->n_past) ? 1ull << 32 : 0);
        if (c < cost) {
            cost = c;
            least = s;
        }
        before = s->n_past;
    }
    uint32_t slot = least->slot;
    least->slot = NO_SLOT;
    k->n_evicted++;
    return slot;
}

uint32_t snapshots_held(const struct snapshots *k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n; i++)
        n += k->at[i].slot != NO_SLOT;
    return n;
}

bool snapshots_free(const struct snapshots *k) { return snapshots_held(k) < k->n_slot; }

static uint32_t free_slot(struct snapshots *k)
{
    bool taken[MAX_SLOT] = { false };
    for (uint32_t i = 0; i < k->n; i++)
        if (k->at[i].slot != NO_SLOT)
            taken[k->at[i].slot] = true;
    for (uint32_t i = 0; i < k->n_slot; i++)
        if (!taken[i])
            return i;
    return evict(k);
}

struct snapshot *snapshots_add(struct snapshots *k, uint32_t n_past)
{
    if (!k->n_slot)
        return NULL;
    struct snapshot *s = find_snapshot(k, n_past);
    if (!s) {
        uint32_t i = 0;
        if (k->n == MAX_SNAPSHOT) { /* there are fewer slots: forget the first that was evicted */
            while (k->at[i].slot != NO_SLOT)
                i++;
            drop_snapshot(k, i);
        }
        for (i = k->n++; i > 0 && k->at[i - 1].n_past > n_past; i--)
            k->at[i] = k->at[i - 1];
        s = &k->at[i];
        *s = (struct snapshot){ .n_past = n_past, .slot = NO_SLOT };
    }
    if (s->slot == NO_SLOT)
        s->slot = free_slot(k);
    return s;
}

/* ---- choosing -------------------------------------------------------------------------------- */

/* Adds a position to the wanted ones. If there are then more of them than slots, the one is dropped
 * that costs the fewest tokens to read again. That is never the new one: one that would save fewer
 * than WORTH tokens is not added at all. */
static void want_snapshot(struct snapshots *k, uint32_t n_past)
{
    uint32_t i = k->n_want, least = 0;
    if (is_wanted(k, n_past))
        return;
    while (i > 0 && k->want[i - 1] > n_past)
        i--;
    if (k->n_want == k->n_slot && n_past - (i ? k->want[i - 1] : 0) < WORTH)
        return;
    memmove(&k->want[i + 1], &k->want[i], (k->n_want - i) * sizeof *k->want);
    k->want[i] = n_past;
    if (k->n_want++ < k->n_slot)
        return;
    for (uint32_t j = 0, before = 0, cost = UINT32_MAX; j < k->n_want; before = k->want[j++])
        if (j != i && k->want[j] - before < cost) {
            cost = k->want[j] - before;
            least = j;
        }
    memmove(&k->want[least], &k->want[least + 1], (--k->n_want - least) * sizeof *k->want);
}

void snapshots_aim(struct snapshots *k, uint32_t from, uint32_t to, const uint32_t *at, uint32_t n)
{
    k->n_want = 0;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->at[i].slot != NO_SLOT)
            k->want[k->n_want++] = k->at[i].n_past;
    for (uint32_t i = 0; k->n_slot && i < n; i++)
        if (at[i] >= from && at[i] <= to && at[i] > 0)
            want_snapshot(k, at[i]);
}

static bool is_kept(const struct snapshots *k, uint32_t n_past, bool has_logits)
{
    const struct snapshot *s = snapshots_best(k, n_past, UINT32_MAX);
    return s && s->n_past == n_past && (s->has_logits || !has_logits);
}

uint32_t snapshots_stop(const struct snapshots *k, uint32_t n_past, uint32_t to)
{
    for (uint32_t i = 0; i < k->n_want && k->want[i] < to; i++)
        if (k->want[i] > n_past && !is_kept(k, k->want[i], false))
            return k->want[i];
    return to;
}

bool snapshots_wanted(const struct snapshots *k, uint32_t n_past, bool has_logits)
{
    return is_wanted(k, n_past) && !is_kept(k, n_past, has_logits);
}

/* ---- copying --------------------------------------------------------------------------------- */

/* A place in the snapshot's slot, to copy from or to. */
static tensor place_in(const struct snapshots *k, const struct snapshot *s, uint64_t offset)
{
    return (tensor){ .arena = k->arena,
                     .offset = k->slot_at[s->slot] + offset,
                     .dtype = I32,
                     .n = 1024,
                     .n_row = 1,
                     .stride = 1024 };
}

tensor snapshots_slot(const struct snapshots *k, const struct snapshot *s)
{
    return place_in(k, s, 0);
}

tensor snapshots_logits(const struct snapshots *k, const struct snapshot *s)
{
    return place_in(k, s, k->slot_bytes - k->logits_bytes);
}

static void copy_either_way(struct cmd *c, bool keep, tensor kept, tensor state, uint64_t bytes)
{
    cmd_copy(c, keep ? kept : state, keep ? state : kept, bytes);
}

static bool copy_snapshot(struct snapshots *k, const struct snapshot *s, uint32_t state_slot,
                          bool keep, struct arena *scratch, struct hlm_err *err)
{
    struct kv_part part;
    cmd_destroy(k->cmd);
    k->cmd = cmd_create(k->gpu, keep ? "keep snapshot" : "restore snapshot", scratch, err);
    if (!k->cmd)
        return false;
    uint64_t offset = 0;
    for (uint32_t at = 0; kv_next_part(k->kv, k->seq, state_slot, &at, &part);) {
        copy_either_way(k->cmd, keep, place_in(k, s, offset), kv_part_tensor(&part), part.bytes);
        offset += part.bytes;
    }
    if (s->has_logits)
        copy_either_way(k->cmd, keep, snapshots_logits(k, s), tensor_rows(k->logits, state_slot, 1),
                        k->logits_bytes);
    return (!k->state_bytes && !s->has_logits) || (cmd_end(k->cmd, err) && cmd_submit(k->cmd, err));
}

bool snapshots_keep(struct snapshots *k, uint32_t n_past, uint32_t state_slot, bool has_logits,
                    struct arena *scratch, struct hlm_err *err)
{
    struct snapshot *s = snapshots_add(k, n_past);
    if (!s)
        return true;
    s->has_logits = has_logits;
    if (copy_snapshot(k, s, state_slot, true, scratch, err))
        return true;
    drop_snapshot(k, (uint32_t)(s - k->at));
    return false;
}

bool snapshots_restore(struct snapshots *k, const struct snapshot *from, uint32_t state_slot,
                       struct arena *scratch, struct hlm_err *err)
{
    return copy_snapshot(k, from, state_slot, false, scratch, err);
}
