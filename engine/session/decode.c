/* decode: answers - one token more of a session, or of each of several in one batch. */
#include "session/session.h"

#include <stdio.h>

bool sessions_count(uint32_t n, struct hlm_err *err)
{
    if (err)
        *err = (struct hlm_err){ 0 };
    return (n && n <= MAX_SEGMENT) ||
           fail(err, "%u sessions at once, expected 1 to %d", n, MAX_SEGMENT);
}

bool sessions_together(hlm_session *const *s, uint32_t n, struct hlm_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (s[i]->x != s[0]->x)
            return fail(err, "session %u is of another context than session 0", i);
        if (!s[i]->open)
            return fail_as(err, HLM_ERR_STATE, "session %u has been destroyed", i);
        for (uint32_t k = 0; k < i; k++)
            if (s[k] == s[i])
                return fail(err, "sessions %u and %u are the same", k, i);
    }
    return true;
}

/* It has a token to read before the next one can be chosen. */
static bool reads(const hlm_session *s) { return s->n_known > s->n_past; }

static bool can_go_on(hlm_session *s, struct hlm_err *err)
{
    if (!session_current(s, err))
        return false;
    if (s->unclear)
        return fail_as(err, HLM_ERR_STATE,
                       "an earlier call failed part-way: only a new sync can go on from here");
    if (reads(s))
        return s->n_past < s->x->n_ctx || session_full(s, s->x->n_ctx + 1ull, err);
    return s->has_logits ||
           fail_as(err, HLM_ERR_STATE, "there are no logits to sample from: nothing has been read");
}

/* After a step: the session's token, as the device has chosen it. False: the logits were not
 * finite.
 */
static bool take_token(hlm_session *s, int32_t *chosen, int32_t *id)
{
    if (chosen[1]) {
        chosen[1] = 0;
        return false;
    }
    *id = chosen[0];
    session_set_id(s, s->n_past, *id);
    s->n_known = s->n_past + 1;
    s->has_logits = true;
    s->stats.n_gen++;
    return true;
}

/* After a wait that failed. A step ahead writes the slots that the one before it has read: then the
 * state in them is that of other tokens. */
static void lose_step(hlm_context *x, hlm_session *const *s, uint32_t n, bool read)
{
    bool overwritten = read && x->ahead.n;
    context_drop_ahead(x);
    x->flags_unclear = true;
    for (uint32_t i = 0; i < n; i++) {
        session_keep_position(s[i]);
        if (overwritten)
            session_forget(s[i]);
    }
}

/* One token of each of n sessions, which all read one or all have logits. Sets the tokens of those
 * that got one, also when it fails. */
static bool step(hlm_session *const *s, uint32_t n, int32_t *const *id, struct hlm_err *err)
{
    hlm_context *x = s[0]->x;
    bool read = reads(s[0]), ok = true;
    struct context_step at;
    if (!context_submit_step(x, s, n, read, &at, err)) {
        for (uint32_t i = 0; i < n; i++)
            session_keep_position(s[i]);
        return false;
    }
    if (!gpu_wait_for(x->m->gpu, at.submission, err)) {
        lose_step(x, s, n, read);
        return false;
    }
    int32_t *chosen = arena_map(x->host, x->sampler.chosen.offset);
    for (uint32_t i = 0; i < n; i++) {
        if (read) {
            s[i]->slot ^= 1;
            s[i]->n_row = max_u32(s[i]->n_row, ++s[i]->n_past);
        }
        if (take_token(s[i], chosen + 4 * i + 2 * at.turn, id[i]))
            continue;
        if (ok) /* it names the first one */
            session_not_finite(s[i], err);
        else
            session_forget(s[i]);
        ok = false;
    }
    return ok;
}

bool hlm_session_next(hlm_session *s, const struct hlm_sampling *sampling, int32_t *id,
                      struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    if (!can_go_on(s, err))
        return false;
    double t0 = now_s();
    context_follow_watch(s->x);
    if (!session_set_sampling(s, sampling, err) || !step(&s, 1, &id, err))
        return false;
    s->stats.gen_s += now_s() - t0;
    count_gen(s);
    return true;
}

static bool check_rows(struct hlm_next *row, uint32_t n, struct hlm_err *err)
{
    hlm_session *s[MAX_SEGMENT] = { NULL };
    for (uint32_t i = 0; i < n; i++) {
        s[i] = row[i].session;
        row[i].id = -1;
    }
    if (!sessions_together(s, n, err))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct hlm_err why = { 0 };
        char which[32];
        snprintf(which, sizeof which, "session %u: ", i);
        if (!can_go_on(s[i], &why) || !session_set_sampling(s[i], row[i].sampling, &why))
            return fail_from(err, &why, which);
    }
    return true;
}

bool hlm_decode(struct hlm_next *row, uint32_t n, struct hlm_err *err)
{
    if (!sessions_count(n, err))
        return false;
    api_begin(&row[0].session->m->log, err);
    if (!check_rows(row, n, err))
        return false;
    double t0 = now_s();
    hlm_session *s[MAX_SEGMENT];
    int32_t *id[MAX_SEGMENT];
    uint32_t n_read = 0;
    hlm_context *x = row[0].session->x;
    bool ok = true, ahead = x->goes_ahead;
    context_follow_watch(x);
    x->goes_ahead = ahead && n == 1; /* what follows the first tokens is a step of all sessions */
    for (uint32_t i = 0; i < n; i++)
        if (reads(row[i].session)) {
            id[n_read] = &row[i].id;
            s[n_read++] = row[i].session;
        } else {
            /* the first token of an answer: only sampling, whose logits are there */
            int32_t *one = &row[i].id;
            ok = ok && step(&row[i].session, 1, &one, err);
        }
    x->goes_ahead = ahead;
    ok = ok && (!n_read || step(s, n_read, id, err));
    double each = (now_s() - t0) / n;
    for (uint32_t i = 0; i < n; i++)
        if (row[i].id >= 0) {
            row[i].session->stats.gen_s += each;
            count_gen(row[i].session);
        }
    return ok;
}
