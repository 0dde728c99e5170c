/* talk_save: a conversation in a file. The note of the saved session has the messages, as
 * the JSON object {"messages": [{"role", "content", "reasoning", "ids"}], "think"}. Text that is
 * not UTF-8, such as an answer cut inside a character, is saved as "content_hex" or
 * "reasoning_hex".
 *
 * A note from a file is not trusted: all of it is checked before the conversation changes. */
#include "session/talk.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- writing --------------------------------------------------------------------------------- */

static bool set_text(json_t *to, const char *key, const char *text)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = strlen(text);
    char name[24], *hex;
    json_t *v = json_stringn(text, n); /* NULL when it is not UTF-8 */
    if (v)
        return json_object_set_new(to, key, v) == 0;
    if (!(hex = mem_alloc(2 * n + 1, 1)))
        return false;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[(unsigned char)text[i] >> 4];
        hex[2 * i + 1] = digits[(unsigned char)text[i] & 15];
    }
    snprintf(name, sizeof name, "%s_hex", key);
    bool ok = json_object_set_new(to, name, json_string(hex)) == 0;
    free(hex);
    return ok;
}

static bool append_msg(json_t *list, const struct chat_msg *m)
{
    json_t *o = json_object(), *ids = m->ids ? json_array() : NULL;
    bool ok = json_array_append_new(list, o) == 0 &&
              json_object_set_new(o, "role", json_string(m->role)) == 0 &&
              set_text(o, "content", m->content) &&
              (!m->reasoning || set_text(o, "reasoning", m->reasoning)) &&
              (!m->ids || json_object_set_new(o, "ids", ids) == 0);
    for (uint32_t i = 0; ok && i < m->n_ids && ids; i++)
        ok = json_array_append_new(ids, json_integer(m->ids[i])) == 0;
    return ok;
}

bool hlm_talk_save(hlm_talk *t, const char *path, struct hlm_err *err)
{
    api_begin(&t->m->log, err);
    if (!talk_check(t, err))
        return false;
    json_t *note = json_object(), *list = json_array();
    bool ok = json_object_set_new(note, "messages", list) == 0 &&
              json_object_set_new(note, "think", json_boolean(t->think)) == 0;
    for (uint32_t i = 0; ok && i < t->n_msg; i++)
        ok = append_msg(list, &t->msg[i]);
    char *text = ok ? json_dumps(note, JSON_COMPACT) : NULL;
    json_decref(note);
    if (!text)
        return fail_memory(err, "%s: out of memory for the messages", path);
    ok = hlm_session_save(t->session, path, text, strlen(text), err);
    free(text);
    return ok;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A new copy of a text; NULL when it is missing or malformed. */
static char *get_text(const json_t *o, const char *key)
{
    char name[24];
    const char *s = json_string_value(json_object_get(o, key)), *hex;
    snprintf(name, sizeof name, "%s_hex", key);
    hex = s ? NULL : json_string_value(json_object_get(o, name));
    size_t n = s ? strlen(s) : hex ? strlen(hex) / 2 : 0;
    char *out = s || hex ? mem_alloc(n + 1, 1) : NULL;
    if (!out)
        return NULL;
    if (s)
        memcpy(out, s, n);
    for (size_t i = 0; hex && i < n; i++) {
        int a = hex_digit(hex[2 * i]), b = hex_digit(hex[2 * i + 1]);
        if (a < 0 || b < 0 || (a | b) == 0) {
            free(out);
            return NULL;
        }
        out[i] = (char)(a << 4 | b);
    }
    return out;
}

static bool get_ids(const json_t *o, uint32_t n_vocab, struct chat_msg *m)
{
    const json_t *ids = json_object_get(o, "ids");
    size_t n = json_array_size(ids);
    if (!ids)
        return true;
    if (!json_is_array(ids) || !n || n > UINT32_MAX || !(m->ids = mem_alloc(n, sizeof *m->ids)))
        return false;
    m->n_ids = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= (json_int_t)n_vocab)
            return false;
        m->ids[i] = (int32_t)id;
    }
    return true;
}

struct noted {
    struct chat_msg *msg;
    uint32_t n;
    bool think;
};

static bool read_note(const struct hlm_talk *t, const char *path, const char *text, uint64_t n_text,
                      struct noted *got, struct hlm_err *err)
{
    json_t *note = json_loadb(text, (size_t)n_text, 0, NULL);
    const json_t *list = json_object_get(note, "messages"), *think = json_object_get(note, "think");
    size_t n = json_array_size(list);
    uint32_t n_vocab = hlm_get_info(t->m).n_vocab;
    *got = (struct noted){ .think = json_is_true(think) };
    bool ok = json_is_array(list) && json_is_boolean(think) && n < UINT32_MAX &&
              (got->msg = mem_alloc(n + 1, sizeof *got->msg)) != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *o = json_array_get(list, i);
        struct chat_msg *m = &got->msg[got->n++];
        bool reasons = json_object_get(o, "reasoning") || json_object_get(o, "reasoning_hex");
        m->role = get_text(o, "role");
        m->content = get_text(o, "content");
        m->reasoning = get_text(o, "reasoning");
        ok = m->role && m->content && (m->reasoning || !reasons) && get_ids(o, n_vocab, m);
    }
    ok = ok && talk_right_order(got->msg, got->n);
    json_decref(note);
    if (ok)
        return true;
    talk_free_msgs(got->msg, got->n);
    *got = (struct noted){ 0 };
    return fail(err, "%s: not a saved conversation: its note has no valid list of messages", path);
}

bool hlm_talk_load(hlm_talk *t, const char *path, struct hlm_err *err)
{
    struct noted got = { 0 };
    void *seen = NULL, *note = NULL;
    uint64_t n_seen = 0, n_note = 0;
    api_begin(&t->m->log, err);
    bool ok = talk_check(t, err) && hlm_session_peek(t->session, path, &seen, &n_seen, err) &&
              read_note(t, path, seen, n_seen, &got, err) &&
              hlm_session_load(t->session, path, &note, &n_note, err);
    if (ok && (n_note != n_seen || memcmp(note, seen, (size_t)n_note) != 0)) {
        ok = fail(err, "%s changed while it was being read", path);
        hlm_session_reset(t->session);
    }
    if (ok) {
        talk_free_msgs(t->msg, t->n_msg);
        t->msg = got.msg;
        t->n_msg = got.n;
        t->cap = got.n;
        t->n_again = 0;
        t->full = false;
        if (t->format.thinking == CHAT_MAY_THINK)
            t->think = got.think;
    } else {
        talk_free_msgs(got.msg, got.n);
    }
    free(seen);
    free(note);
    return ok;
}
