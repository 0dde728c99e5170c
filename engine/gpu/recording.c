/* recording: see recording.h. */
#include "gpu/recording.h"

static bool same_key(struct recording_key a, struct recording_key b)
{
    return a.kind == b.kind && a.n_tok == b.n_tok && a.index == b.index;
}

static void recording_drop(struct recording *p)
{
    cmd_destroy(p->cmd);
    *p = (struct recording){ 0 };
}

/* The slot of the key's recording. If there is none: an empty slot, or that of the recording used
 * longest ago. */
static struct recording *find_slot(struct recordings *r, struct recording_key key)
{
    struct recording *slot = r->at;
    for (uint32_t i = 0; i < r->n; i++) {
        struct recording *p = &r->at[i];
        if (p->cmd && same_key(p->key, key))
            return p;
        if (slot->cmd && (!p->cmd || p->used < slot->used))
            slot = p;
    }
    return slot;
}

static struct recording *find_or_record(struct recordings *r, struct recording_key key,
                                        struct hlm_err *err)
{
    struct recording *p = find_slot(r, key);
    if (p->cmd && same_key(p->key, key))
        return p;
    recording_drop(p);
    p->key = key;
    p->cmd = cmd_create(r->gpu, r->name[key.kind], r->scratch, err);
    if (p->cmd)
        r->record(r->user, p->cmd, key, (uint32_t)(p - r->at));
    if (p->cmd && cmd_check(p->cmd, err))
        return p;
    recording_drop(p);
    return NULL;
}

bool recordings_lay_out(struct recordings *r, struct recording_key key, struct hlm_err *err)
{
    HLM_ASSERT(r->n && r->n <= MAX_RECORDING);
    return find_or_record(r, key, err) != NULL;
}

struct cmd *recordings_get(struct recordings *r, struct recording_key key, struct hlm_err *err)
{
    struct recording *p = find_or_record(r, key, err);
    if (!p)
        return NULL;
    if (!p->ended && !cmd_end(p->cmd, err)) {
        recording_drop(p);
        return NULL;
    }
    p->ended = true;
    p->used = ++r->tick;
    return p->cmd;
}

void recordings_finish(struct recordings *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        recording_drop(&r->at[i]);
}
