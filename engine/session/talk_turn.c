/* talk_turn: a turn of a conversation: makes the prompt fit, reads it, generates the answer. See
 * talk.h. A turn that fails leaves the history as it was. */
#include "session/talk.h"
#include "session/talk_prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- prompt ---------------------------------------------------------------------------------- */

/* Makes the prompt from the history without the `drop` messages after the system message. */
static bool make_prompt(const struct hlm_talk *t, uint32_t drop, struct talk_prompt *p,
                        struct hlm_err *err)
{
    uint32_t first = talk_n_system(t), n = t->n_msg - drop;
    struct chat_msg *some = NULL;
    if (drop) {
        if (!(some = mem_alloc(n, sizeof *some)))
            return fail_memory(err, "out of memory for the prompt");
        memcpy(some, t->msg, first * sizeof *some);
        memcpy(some + first, t->msg + first + drop, (n - first) * sizeof *some);
    }
    struct chat_input history = { .msg = some ? some : t->msg, .n = n };
    bool ok = talk_prompt_make(p, t->tok, &t->format, &history, t->think, err);
    free(some);
    return ok;
}

/* Where the oldest turn ends once `drop` messages are left out: at the next message of the user. */
static uint32_t oldest_end(const struct hlm_talk *t, uint32_t drop)
{
    uint32_t i = talk_n_system(t) + drop + 1;
    while (i < t->n_msg && !msg_is(&t->msg[i], "user"))
        i++;
    return i;
}

/* Makes the prompt, and makes it fit. The context is full when the last answer filled it, or when
 * this prompt leaves no room for an answer. The oldest turns are then left out until half of the
 * context is free. *drop: messages after the system message that were left out. */
static bool fit_prompt(const struct hlm_talk *t, struct talk_prompt *p, uint32_t *drop,
                       struct hlm_talk_turn *turn, struct hlm_err *err)
{
    uint32_t n_ctx = hlm_session_n_ctx(t->session), room = min_u32(64, n_ctx / 8);
    struct hlm_err size = { .have = n_ctx };
    *drop = 0;
    if (!make_prompt(t, 0, p, err))
        return false;
    uint32_t n_before = p->ids.n;
    if (!t->full && n_before + room <= n_ctx)
        return true;
    size.need = n_before + room;
    if (t->options.stop_on_full && n_before + room > n_ctx)
        return fail_size(err, HLM_ERR_FULL, &size,
                         "the context is full: this prompt has %u tokens of %u", n_before, n_ctx);
    if (!make_prompt(t, t->n_msg - talk_n_system(t) - 1, p, err))
        return false;
    size.need = p->ids.n + 1;
    if (p->ids.n >= n_ctx) /* even without all other turns: nothing is dropped */
        return fail_size(err, HLM_ERR_FULL, &size,
                         "this message and the system message have %u tokens, the context has %u",
                         p->ids.n, n_ctx);
    if (!make_prompt(t, 0, p, err))
        return false;
    while (!t->options.stop_on_full && p->ids.n > n_ctx / 2 && oldest_end(t, *drop) < t->n_msg) {
        *drop = oldest_end(t, *drop) - talk_n_system(t);
        turn->n_dropped_turns++;
        if (!make_prompt(t, *drop, p, err))
            return false;
    }
    turn->n_dropped = n_before - p->ids.n;
    return true;
}

bool hlm_talk_count(hlm_talk *t, uint32_t *n, struct hlm_err *err)
{
    struct talk_prompt p = { 0 };
    api_begin(&t->m->log, err);
    *n = 0;
    bool ok = !t->n_msg || make_prompt(t, 0, &p, err);
    if (ok && p.n_msg)
        *n = p.begin[p.n_msg - 1]; /* the generation prompt is no part of it */
    talk_prompt_free(&p);
    return ok;
}

/* ---- answer ---------------------------------------------------------------------------------- */

static bool generate_answer(const struct hlm_talk *t, struct talk_answer *a,
                            struct hlm_talk_turn *turn, double start_s, struct hlm_err *err)
{
    const struct hlm_talk_options *o = &t->options;
    struct hlm_sampling sampling = o->sampling;
    sampling.seed = turn->seed;
    bool unread = false;
    for (turn->end = HLM_TALK_DONE;;) {
        if (o->stopped && o->stopped(o->user))
            turn->end = HLM_TALK_STOPPED;
        else if (o->n_predict >= 0 && a->ids.n >= (uint32_t)o->n_predict)
            turn->end = HLM_TALK_LIMIT;
        else if (hlm_session_n_past(t->session) + unread > hlm_session_n_ctx(t->session))
            turn->end = HLM_TALK_FULL;
        if (turn->end != HLM_TALK_DONE)
            break;
        int32_t id;
        if (!hlm_session_next(t->session, &sampling, &id, err))
            return false;
        unread = true;
        if (turn->first_s == 0)
            turn->first_s = now_s() - start_s;
        if (tok_is_eog(t->tok, id))
            break;
        if (!talk_answer_push(t, a, id, err))
            return false;
        talk_answer_show(t, a, false);
        if (a->stopped) {
            turn->end = HLM_TALK_STOP;
            break;
        }
    }
    return turn->end != HLM_TALK_STOPPED || unread || fail_stopped(err);
}

static void count_turn(struct hlm_talk *t, const struct hlm_stats *before,
                       struct hlm_talk_turn *turn)
{
    struct hlm_stats s = hlm_session_stats(t->session);
    turn->n_read = s.n_read - before->n_read;
    turn->n_reused = s.n_reused - before->n_reused;
    turn->n_reread = s.n_reread - before->n_reread;
    turn->n_gen = s.n_gen - before->n_gen;
    turn->read_s = s.read_s - before->read_s;
    turn->gen_s = s.gen_s - before->gen_s;
    turn->n_used = hlm_session_n_past(t->session);
    turn->n_ctx = hlm_session_n_ctx(t->session);

    t->total.n_read += turn->n_read;
    t->total.n_reused += turn->n_reused;
    t->total.n_reread += turn->n_reread;
    t->total.n_gen += turn->n_gen;
    t->total.n_reasoning += turn->n_reasoning;
    t->total.n_dropped += turn->n_dropped;
    t->total.n_dropped_turns += turn->n_dropped_turns;
    t->total.read_s += turn->read_s;
    t->total.gen_s += turn->gen_s;
    t->total.last = *turn;
}

/* Reads the history, whose last message is a user's, and adds the answer. */
static bool answer_turn(struct hlm_talk *t, struct hlm_talk_turn *turn, struct hlm_err *err)
{
    struct talk_prompt p = { 0 };
    struct talk_answer a = { 0 };
    struct chat_msg m;
    struct hlm_stats before = hlm_session_stats(t->session);
    uint32_t drop;
    double start_s = now_s();
    bool ok = false;
    *turn = (struct hlm_talk_turn){ .seed = t->options.sampling.seed + t->n_again };

    if (!fit_prompt(t, &p, &drop, turn, err))
        goto out;
    turn->n_prompt = p.ids.n;
    bool read = hlm_session_sync(t->session, p.ids.id, p.ids.n, p.snap, p.n_snap,
                                 t->options.reading, t->options.user, err);
    turn->found = hlm_session_found(t->session);
    turn->i_msg = talk_prompt_msg_at(&p, turn->found.n_same);
    if (!read)
        goto out;

    a.at = p.in_think ? REASONING : OPENING;
    bool made = generate_answer(t, &a, turn, start_s, err);
    talk_answer_show(t, &a, true);
    turn->n_reasoning = a.n_reasoning;
    /* A failure in the middle of an answer loses the turn, although its text was shown. */
    ok = made && talk_answer_msg(t, &a, &m, err) && talk_insert(t, t->n_msg, m, err);
out:
    if (ok) {
        talk_forget(t, talk_n_system(t), talk_n_system(t) + drop);
        t->full = turn->end == HLM_TALK_FULL;
        t->total.n_turn++;
    } else {
        turn->n_dropped_turns = turn->n_dropped = 0;
    }
    count_turn(t, &before, turn);
    hlm_idle(t->m);
    talk_prompt_free(&p);
    talk_answer_free(&a);
    return ok;
}

void hlm_talk_why(const struct hlm_talk_turn *turn, char *out, uint64_t size)
{
    const struct hlm_found *f = &turn->found;
    int n = 0;
    if (!size)
        return;
    out[0] = 0;
    if (!f->n_cached)
        n = snprintf(out, size, "first read");
    else if (f->n_same < f->n_cached && f->n_same < turn->n_prompt)
        n = snprintf(out, size, "the prompt differs from token %u on (message %u)", f->n_same + 1,
                     turn->i_msg + 1);
    if (f->n_evicted && n >= 0 && (uint64_t)n < size)
        snprintf(out + n, size - (uint64_t)n, "%sthe snapshot at token %u was evicted",
                 n ? "; " : "", f->n_evicted);
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Where a call reports on its turn: an empty report until the turn begins. */
static struct hlm_talk_turn *begin_report(struct hlm_talk_turn *turn, struct hlm_talk_turn *own)
{
    turn = turn ? turn : own;
    *turn = (struct hlm_talk_turn){ 0 };
    return turn;
}

bool hlm_talk_say(hlm_talk *t, const char *text, struct hlm_talk_turn *turn, struct hlm_err *err)
{
    struct hlm_talk_turn own;
    uint32_t n_again = t->n_again;
    api_begin(&t->m->log, err);
    turn = begin_report(turn, &own);
    if (!talk_check(t, err) || !talk_add(t, t->n_msg, "user", text, err))
        return false;
    t->n_again = 0;
    if (answer_turn(t, turn, err))
        return true;
    t->n_again = n_again;
    talk_forget(t, t->n_msg - 1, t->n_msg);
    return false;
}

bool hlm_talk_regenerate(hlm_talk *t, struct hlm_talk_turn *turn, struct hlm_err *err)
{
    struct hlm_talk_turn own;
    uint32_t last = t->n_msg;
    api_begin(&t->m->log, err);
    turn = begin_report(turn, &own);
    if (!talk_check(t, err))
        return false;
    if (last < 2 || !msg_is(&t->msg[last - 1], "assistant"))
        return fail_as(err, HLM_ERR_STATE, "there is no answer to regenerate");
    struct chat_msg old = t->msg[last - 1];
    bool full = t->full;
    t->n_msg--;
    t->n_again++;
    t->full = false; /* the same prompt had room before */
    if (answer_turn(t, turn, err)) {
        chat_msg_free(&old);
        return true;
    }
    t->full = full;
    t->n_again--;
    t->msg[t->n_msg++] = old; /* its room is still there */
    return false;
}

/* The index of the i-th message of the user; t->n_msg: there is none. */
static uint32_t find_user(const struct hlm_talk *t, uint32_t i)
{
    uint32_t at = 0;
    for (; at < t->n_msg; at++)
        if (msg_is(&t->msg[at], "user") && !i--)
            break;
    return at;
}

bool hlm_talk_edit(hlm_talk *t, uint32_t i, const char *text, struct hlm_talk_turn *turn,
                   struct hlm_err *err)
{
    struct hlm_talk_turn own;
    api_begin(&t->m->log, err);
    turn = begin_report(turn, &own);
    uint32_t at = find_user(t, i), n = t->n_msg - at, n_again = t->n_again;
    bool full = t->full;
    if (!talk_check(t, err))
        return false;
    if (!n)
        return fail(err, "there is no user message %u: there are %u", i + 1, hlm_talk_n_turn(t));
    struct chat_msg *old = mem_alloc(n, sizeof *old);
    if (!old)
        return fail_memory(err, "out of memory for the history");
    memcpy(old, t->msg + at, n * sizeof *old);
    t->n_msg = at;
    t->n_again = 0;
    t->full = false;
    bool ok = talk_add(t, at, "user", text, err);
    if (ok && !answer_turn(t, turn, err)) {
        talk_forget(t, at, t->n_msg);
        ok = false;
    }
    if (ok) {
        for (uint32_t k = 0; k < n; k++)
            chat_msg_free(&old[k]);
    } else {
        memcpy(t->msg + at, old, n * sizeof *old); /* their room is still there */
        t->n_msg = at + n;
        t->n_again = n_again;
        t->full = full;
    }
    free(old);
    return ok;
}
