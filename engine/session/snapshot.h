/* snapshot: copies in memory of the state after some prefixes of a conversation. */
#pragma once
#include "model/kv.h"

/* MAX_SLOT: copies at most, whatever the budget is. WORTH: a copy that saves reading fewer tokens
 * than this evicts no other copy, because reading so few takes one short submission. */
enum { MAX_SLOT = 128, MAX_SNAPSHOT = 256, NO_SLOT = MAX_SNAPSHOT, WORTH = 8 };

/* The state after the first n_past tokens. One without a slot was evicted; it is remembered so that
 * a second reading of its tokens can be explained. */
struct snapshot {
    uint32_t n_past, slot;
    bool has_logits;
};

/* All snapshots of a session, by ascending n_past, in slots of one size. A slot holds what a layer
 * cannot get back by itself: the parts of kv_next_part one after another, then logits. Keys and
 * values of full attention stay in their cache, so a snapshot is valid only while the ids of its
 * tokens are those of that cache. */
struct snapshots {
    struct gpu *gpu;
    struct arena *arena;
    const struct kv *kv;
    uint32_t seq;
    tensor logits; /* [n_slot][n_vocab] of the context's state slots */
    uint64_t state_bytes, logits_bytes, slot_bytes;
    uint64_t slot_at[MAX_SLOT]; /* bytes from the arena's start */
    uint32_t n_slot, n;
    uint64_t n_evicted;
    struct snapshot at[MAX_SNAPSHOT];
    uint32_t want[MAX_SLOT + 1], n_want; /* where snapshots are to be: snapshots_aim */
    struct cmd *cmd;                     /* the newest copy; it may still run */
};

/* For sequence seq of kv. Takes as many slots as fit the budget (in bytes; 0: a share of the
 * default for n_seq sequences) in an arena that is not committed. */
bool snapshots_init(struct snapshots *k, struct gpu *g, const struct kv *kv, uint32_t seq,
                    tensor logits, uint64_t budget, struct hlm_err *err);
void snapshots_finish(struct snapshots *k); /* takes a zeroed one */

/* Removes the snapshots of more than n_past tokens. */
void snapshots_cut(struct snapshots *k, uint32_t n_past);
/* The longest snapshot of at most `most` tokens from which n tokens can be reached; a snapshot of
 * exactly n tokens must have its logits. NULL: there is none. */
const struct snapshot *snapshots_best(const struct snapshots *k, uint32_t most, uint32_t n);
/* The length of the longest evicted snapshot of more than n_past and at most `most` tokens; 0:
 * there is none. */
uint32_t snapshots_evicted(const struct snapshots *k, uint32_t n_past, uint32_t most);
/* Chooses which of the positions at[0 .. n), ascending, will be kept while the session reads on
 * from `from` to `to` tokens, and which snapshots they evict. A prompt is then cut only for a
 * snapshot that stays. */
void snapshots_aim(struct snapshots *k, uint32_t from, uint32_t to, const uint32_t *at, uint32_t n);
/* The first chosen position after n_past that has no snapshot; `to` if none comes before it. */
uint32_t snapshots_stop(const struct snapshots *k, uint32_t n_past, uint32_t to);
uint32_t snapshots_held(const struct snapshots *k); /* those that have a slot */
bool snapshots_free(const struct snapshots *k);     /* there is an empty slot */
bool snapshots_wanted(const struct snapshots *k, uint32_t n_past, bool has_logits);
/* Copy the state in a state slot (and its logits, if has_logits) to a snapshot, or back. They do
 * not wait. */
bool snapshots_keep(struct snapshots *k, uint32_t n_past, uint32_t state_slot, bool has_logits,
                    struct arena *scratch, struct hlm_err *err);
bool snapshots_restore(struct snapshots *k, const struct snapshot *from, uint32_t state_slot,
                       struct arena *scratch, struct hlm_err *err);
/* A slot for a copy that comes from elsewhere: state, then logits. NULL: there are no slots. */
struct snapshot *snapshots_add(struct snapshots *k, uint32_t n_past);
tensor snapshots_slot(const struct snapshots *k, const struct snapshot *s);
tensor snapshots_logits(const struct snapshots *k, const struct snapshot *s);
