/* talk: the history, settings and adapters of a conversation. See talk.h and talk_turn.c. */
#include "session/talk.h"

#include <stdlib.h>
#include <string.h>

/* ---- history --------------------------------------------------------------------------------- */

bool msg_is(const struct chat_msg *m, const char *role) { return strcmp(m->role, role) == 0; }

bool talk_insert(struct hlm_talk *t, uint32_t i, struct chat_msg m, struct hlm_err *err)
{
    if (!m.role || !m.content || !mem_reserve(&t->msg, t->n_msg + 1ull, &t->cap, sizeof *t->msg)) {
        chat_msg_free(&m);
        return fail_memory(err, "out of memory for the history");
    }
    memmove(&t->msg[i + 1], &t->msg[i], (t->n_msg - i) * sizeof *t->msg);
    t->msg[i] = m;
    t->n_msg++;
    return true;
}

bool talk_add(struct hlm_talk *t, uint32_t i, const char *role, const char *text,
              struct hlm_err *err)
{
    if (!text)
        return fail(err, "a message is NULL, expected text");
    struct chat_msg m = { .role = mem_text(role, strlen(role)),
                          .content = mem_text(text, strlen(text)) };
    return talk_insert(t, i, m, err);
}

void talk_forget(struct hlm_talk *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        chat_msg_free(&t->msg[i]);
    if (to < t->n_msg)
        memmove(&t->msg[from], &t->msg[to], (t->n_msg - to) * sizeof *t->msg);
    t->n_msg -= to - from;
}

uint32_t talk_n_system(const struct hlm_talk *t)
{
    return t->n_msg && msg_is(&t->msg[0], "system");
}

bool hlm_talk_undo(hlm_talk *t)
{
    uint32_t first = talk_n_system(t), i = t->n_msg;
    while (i > first && !msg_is(&t->msg[i - 1], "user"))
        i--;
    if (i == first)
        return false;
    talk_forget(t, i - 1, t->n_msg);
    t->full = false;
    return true;
}

void hlm_talk_clear(hlm_talk *t)
{
    talk_forget(t, talk_n_system(t), t->n_msg);
    t->full = false;
}

uint32_t hlm_talk_n_message(const hlm_talk *t) { return t->n_msg; }

struct hlm_message hlm_talk_message(const hlm_talk *t, uint32_t i)
{
    if (i >= t->n_msg)
        return (struct hlm_message){ 0 };
    const struct chat_msg *m = &t->msg[i];
    return (struct hlm_message){ m->role, m->content, m->reasoning };
}

uint32_t hlm_talk_n_turn(const hlm_talk *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_msg; i++)
        n += msg_is(&t->msg[i], "user");
    return n;
}

bool talk_right_order(const struct chat_msg *msg, uint32_t n)
{
    uint32_t first = n && msg_is(&msg[0], "system");
    for (uint32_t i = first; i < n; i++)
        if (!msg_is(&msg[i], (i - first) % 2 ? "assistant" : "user"))
            return false;
    return (n - first) % 2 == 0;
}

void talk_free_msgs(struct chat_msg *msg, uint32_t n)
{
    for (uint32_t i = 0; msg && i < n; i++)
        chat_msg_free(&msg[i]);
    free(msg);
}

static char *copy_text(const char *s) { return s ? mem_text(s, strlen(s)) : NULL; }

bool hlm_talk_set_messages(hlm_talk *t, const struct hlm_message *msg, uint32_t n,
                           struct hlm_err *err)
{
    api_begin(&t->m->log, err);
    for (uint32_t i = 0; i < n; i++)
        if (!msg[i].role || !msg[i].content)
            return fail(err, "message %u has no role or no content", i + 1);
    struct chat_msg *own = mem_alloc(n, sizeof *own);
    bool ok = own != NULL;
    for (uint32_t i = 0; ok && i < n; i++) {
        own[i].role = copy_text(msg[i].role);
        own[i].content = copy_text(msg[i].content);
        own[i].reasoning = copy_text(msg[i].reasoning);
        ok = own[i].role && own[i].content && (own[i].reasoning || !msg[i].reasoning);
    }
    if (!ok)
        fail_memory(err, "out of memory for the history");
    else if (!(ok = talk_right_order(own, n)))
        fail(err, "the messages are out of order: expected perhaps a system message, then pairs "
                  "of user and assistant");
    if (!ok) {
        talk_free_msgs(own, n);
        return false;
    }
    talk_free_msgs(t->msg, t->n_msg);
    t->msg = own;
    t->n_msg = n;
    t->cap = n;
    t->n_again = 0;
    t->full = false;
    return true;
}

/* ---- opening --------------------------------------------------------------------------------- */

hlm_talk *hlm_talk_open(hlm *m, const struct hlm_talk_params *params, struct hlm_err *err)
{
    api_begin(&m->log, err);
    hlm_vocab *v = hlm_get_vocab(m, err);
    struct hlm_talk *t = v ? mem_alloc(1, sizeof *t) : NULL;
    if (!t) {
        if (v)
            fail_memory(err, "out of memory for a conversation");
        return NULL;
    }
    t->m = m;
    t->tok = v->tok;
    t->params = params->session;
    t->options = (struct hlm_talk_options){ .sampling = hlm_sampling_default(m), .n_predict = -1 };
    if (vocab_format(v, params->format, &t->format, err))
        t->session = hlm_session_create(m, &t->params, err);
    if (!t->session) {
        free(t);
        return NULL;
    }
    t->think = t->format.think;
    return t;
}

void hlm_talk_close(hlm_talk *t)
{
    if (!t)
        return;
    talk_forget(t, 0, t->n_msg);
    free(t->msg);
    hlm_session_destroy(t->session);
    free(t);
}

bool talk_check(const struct hlm_talk *t, struct hlm_err *err)
{
    return t->session ||
           fail_as(err, HLM_ERR_STATE, "this conversation lost its session: it can only be closed");
}

/* ---- settings -------------------------------------------------------------------------------- */

struct hlm_talk_options *hlm_talk_options(hlm_talk *t) { return &t->options; }

const hlm_session *hlm_talk_session(const hlm_talk *t) { return t->session; }

const char *hlm_talk_system(const hlm_talk *t)
{
    return talk_n_system(t) ? t->msg[0].content : NULL;
}

bool hlm_talk_set_system(hlm_talk *t, const char *text, struct hlm_err *err)
{
    api_begin(&t->m->log, err);
    uint32_t n_old = talk_n_system(t), n_new = text && *text;
    if (n_new && !talk_add(t, 0, "system", text, err))
        return false;
    talk_forget(t, n_new, n_new + n_old);
    return true;
}

bool hlm_talk_set_think(hlm_talk *t, bool on, struct hlm_err *err)
{
    api_begin(&t->m->log, err);
    if (on && t->format.thinking == CHAT_NEVER_THINKS)
        return fail(err, "the chat format of this model (%s) has no thinking", t->format.name);
    if (!on && t->format.thinking == CHAT_ALWAYS_THINKS)
        return fail(err, "this model's chat format (%s) always thinks", t->format.name);
    t->think = on;
    return true;
}

bool hlm_talk_thinks(const hlm_talk *t) { return t->think; }
const char *hlm_talk_format(const hlm_talk *t) { return t->format.name; }
struct hlm_talk_total hlm_talk_get_total(const hlm_talk *t) { return t->total; }

/* The session's caches were computed with the old adapters, so the session goes with them. */
bool hlm_talk_set_lora(hlm_talk *t, const struct hlm_lora *l, uint32_t n, struct hlm_err *err)
{
    hlm *m = t->m;
    api_begin(&m->log, err);
    if (!talk_check(t, err) || !hlm_check_lora(m, l, n, err))
        return false;
    if (m->n_session > 1 || m->tune)
        return fail_as(err, HLM_ERR_STATE,
                       "adapters cannot change while another session or a training run is open");
    uint32_t n_old = m->adapters.n_asked;
    struct hlm_lora *old = adapters_copy(m->adapters.asked, n_old, err);
    if (!old)
        return false;
    const struct lora_set *before = m->adapters.set;
    hlm_session_destroy(t->session);
    t->session = NULL;
    if (adapters_change(m, l, n, err))
        t->session = hlm_session_create(m, &t->params, err);
    bool ok = t->session != NULL;
    if (!ok && (m->adapters.set == before || adapters_change(m, old, n_old, NULL)))
        t->session = hlm_session_create(m, &t->params, NULL);
    adapters_copy_free(old, n_old);
    return ok;
}
