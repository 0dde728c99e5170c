/* chat_edit: see chat_edit.h. */
#include "chat_edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- choices --------------------------------------------------------------------------------- */

void choices_add(struct choices *c, const char *text, const char *shown, bool whole)
{
    if (c->n == c->cap) {
        uint32_t cap = 2 * c->cap + 16;
        struct choice *more = ui_grow(c->v, cap, sizeof *more);
        if (!more)
            return;
        c->v = more;
        c->cap = cap;
    }
    struct choice one = { ui_copy(text, strlen(text)), shown ? ui_copy(shown, strlen(shown)) : NULL,
                          whole };
    if (one.text)
        c->v[c->n++] = one;
    else
        free(one.shown);
}

void choices_free(struct choices *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        free(c->v[i].text);
        free(c->v[i].shown);
    }
    free(c->v);
    *c = (struct choices){ 0 };
}

/* How many bytes all of them begin with, whole characters. */
static size_t common_bytes(const struct choices *c)
{
    size_t n = strlen(c->v[0].text);
    for (uint32_t i = 1; i < c->n; i++) {
        size_t same = 0;
        while (same < n && c->v[i].text[same] == c->v[0].text[same])
            same++;
        n = same;
    }
    while (n && ((unsigned char)c->v[0].text[n] & 0xc0) == 0x80)
        n--;
    return n;
}

static enum edit_did on_tab(struct edit *e)
{
    struct choices c = { 0 };
    bool again = e->tabbed;
    e->tabbed = false;
    if (e->hooks.complete && e->line.s)
        e->hooks.complete(e->hooks.user, e->line.s, e->line.at, &c);
    size_t have = e->line.at - c.from, n = c.n ? common_bytes(&c) : 0;
    if (c.n && (n > have || c.n == 1 ||
                memcmp(e->line.s + c.from, c.v[0].text, ui_min_u64(n, have)) != 0)) {
        line_delete(&e->line, c.from, e->line.at);
        line_insert(&e->line, c.v[0].text, n);
        if (c.n == 1 && c.v[0].whole && e->line.at == e->line.n)
            line_insert(&e->line, " ", 1);
    } else if (c.n && again) {
        choices_free(&e->list);
        e->list = c;
        return EDIT_LIST;
    } else {
        e->tabbed = c.n > 1;
    }
    choices_free(&c);
    return EDIT_ON;
}

/* ---- history --------------------------------------------------------------------------------- */

static void show_entry(struct edit *e, uint32_t i)
{
    struct history *h = e->history;
    if (i > h->n)
        return;
    if (e->at_entry == h->n) {
        free(e->draft);
        e->draft = ui_copy(e->line.s, e->line.n);
    }
    const char *text = i < h->n ? h->entry[i] : e->draft ? e->draft : "";
    line_set(&e->line, text, strlen(text));
    e->at_entry = i;
}

static enum edit_did on_up(struct edit *e)
{
    size_t at;
    if (line_above(&e->line, &at))
        line_move(&e->line, at);
    else if (e->at_entry)
        show_entry(e, e->at_entry - 1);
    return EDIT_ON;
}

static enum edit_did on_down(struct edit *e)
{
    size_t at;
    if (line_below(&e->line, &at))
        line_move(&e->line, at);
    else if (e->at_entry < e->history->n)
        show_entry(e, e->at_entry + 1);
    return EDIT_ON;
}

static enum edit_did on_oldest(struct edit *e)
{
    if (e->history->n && e->at_entry)
        show_entry(e, 0);
    return EDIT_ON;
}

static enum edit_did on_newest(struct edit *e)
{
    if (e->at_entry < e->history->n)
        show_entry(e, e->history->n);
    return EDIT_ON;
}

/* ---- search ---------------------------------------------------------------------------------- */

static void end_search(struct edit *e, bool keep)
{
    if (!e->search.on)
        return;
    if (!keep && e->search.before) {
        line_set(&e->line, e->search.before, strlen(e->search.before));
        e->line.at = e->search.before_at;
    } else if (keep && e->search.hit < e->history->n) {
        uint32_t hit = e->search.hit;
        if (e->at_entry == e->history->n) { /* Down leads back to what was being typed */
            free(e->draft);
            e->draft = e->search.before;
            e->search.before = NULL;
        }
        e->at_entry = hit;
    }
    free(e->search.before);
    line_free(&e->search.query);
    memset(&e->search, 0, sizeof e->search);
}

/* Shows the next entry with the query, `from` this one on. */
static void search_from(struct edit *e, uint32_t from, int step)
{
    const char *query = e->search.query.s ? e->search.query.s : "";
    uint32_t i = *query ? history_find(e->history, query, from, step) : e->history->n;
    e->search.failed = *query && i >= e->history->n;
    if (i >= e->history->n)
        return;
    e->search.hit = i;
    line_set(&e->line, e->history->entry[i], strlen(e->history->entry[i]));
    const char *at = e->line.s ? strstr(e->line.s, query) : NULL; /* NULL without memory */
    if (at)
        e->line.at = (size_t)(at - e->line.s);
}

static enum edit_did on_search(struct edit *e)
{
    e->search.on = true;
    e->search.hit = e->history->n;
    e->search.before = ui_copy(e->line.s ? e->line.s : "", e->line.n);
    e->search.before_at = e->line.at;
    return EDIT_ON;
}

/* A key of the search itself. False: it ends the search and then does what it always does. */
static bool search_key(struct edit *e, const struct key *k)
{
    uint32_t hit = e->search.hit, n = e->history->n;
    bool ctrl = k->code == KEY_CHAR && k->mods == KEY_CTRL;
    if (k->code == KEY_NONE)
        return true;
    if (ctrl && k->ch == 'r') {
        search_from(e, hit, -1);
    } else if (ctrl && k->ch == 's') {
        search_from(e, ui_min_u32(hit, n - 1) + 1, 1);
    } else if (k->code == KEY_BACKSPACE && !k->mods) {
        line_delete(&e->search.query, line_left(&e->search.query), e->search.query.at);
        search_from(e, n, -1);
    } else if (k->code == KEY_CHAR && !k->mods) {
        line_type(&e->search.query, k->ch);
        search_from(e, ui_min_u32(hit, n - 1) + 1, -1);
    } else if (ctrl && (k->ch == 'g' || k->ch == 'c')) {
        end_search(e, false);
    } else {
        end_search(e, true);
        return k->code == KEY_ESCAPE;
    }
    return true;
}

/* ---- keys ------------------------------------------------------------------------------------ */

#define MOVE(name, place)                                                                          \
    static enum edit_did name(struct edit *e)                                                      \
    {                                                                                              \
        line_move(&e->line, place);                                                                \
        return EDIT_ON;                                                                            \
    }
MOVE(on_left, line_left(&e->line))
MOVE(on_right, line_right(&e->line))
MOVE(on_word_left, line_word_left(&e->line))
MOVE(on_word_right, line_word_right(&e->line))
MOVE(on_home, line_begin(&e->line))
MOVE(on_end, line_end(&e->line))
MOVE(on_first, 0)
MOVE(on_last, e->line.n)
#undef MOVE

#define CHANGE(name, call)                                                                         \
    static enum edit_did name(struct edit *e)                                                      \
    {                                                                                              \
        struct line *l = &e->line;                                                                 \
        call;                                                                                      \
        return EDIT_ON;                                                                            \
    }
CHANGE(on_backspace, line_delete(l, line_left(l), l->at))
CHANGE(on_delete, line_delete(l, l->at, line_right(l)))
CHANGE(on_kill_word_left, line_kill(l, line_word_left(l), l->at))
CHANGE(on_kill_word_right, line_kill(l, l->at, line_word_right(l)))
CHANGE(on_kill_big_word, line_kill(l, line_big_word_left(l), l->at))
CHANGE(on_kill_begin, line_kill(l, line_begin(l) < l->at ? line_begin(l) : line_left(l), l->at))
CHANGE(on_kill_end, line_kill(l, l->at, line_end(l) > l->at ? line_end(l) : line_right(l)))
CHANGE(on_yank, line_yank(l))
CHANGE(on_transpose, line_transpose(l))
CHANGE(on_newline, line_insert(l, "\n", 1))
#undef CHANGE

static enum edit_did on_enter(struct edit *e)
{
    if (e->line.n && e->hooks.is_open && e->hooks.is_open(e->line.s, e->line.n))
        return on_newline(e);
    return EDIT_DONE;
}

static enum edit_did on_ctrl_d(struct edit *e) { return e->line.n ? on_delete(e) : EDIT_LEAVE; }

static enum edit_did on_ctrl_x(struct edit *e)
{
    e->ctrl_x = true;
    return EDIT_ON;
}

#define DID(name, what)                                                                            \
    static enum edit_did name(struct edit *e)                                                      \
    {                                                                                              \
        (void)e;                                                                                   \
        return what;                                                                               \
    }
DID(on_cancel, EDIT_CANCEL)
DID(on_stop, EDIT_STOP)
DID(on_quit, EDIT_QUIT)
DID(on_clear, EDIT_CLEAR)
#undef DID

#define CTRL(ch, fn)                                                                               \
    {                                                                                              \
        KEY_CHAR, KEY_CTRL, ch, fn                                                                 \
    }
#define ALT(ch, fn)                                                                                \
    {                                                                                              \
        KEY_CHAR, KEY_ALT, ch, fn                                                                  \
    }
static const struct binding {
    enum key_code code;
    unsigned mods;
    uint32_t ch;
    enum edit_did (*run)(struct edit *e);
} bindings[] = {
    { KEY_ENTER, 0, 0, on_enter },
    { KEY_ENTER, KEY_ALT, 0, on_newline },
    { KEY_ENTER, KEY_SHIFT, 0, on_newline },
    { KEY_ENTER, KEY_CTRL, 0, on_newline },
    { KEY_TAB, 0, 0, on_tab },
    { KEY_BACKSPACE, 0, 0, on_backspace },
    { KEY_BACKSPACE, KEY_SHIFT, 0, on_backspace },
    { KEY_BACKSPACE, KEY_ALT, 0, on_kill_word_left },
    { KEY_BACKSPACE, KEY_CTRL, 0, on_kill_word_left },
    { KEY_DELETE, 0, 0, on_delete },
    { KEY_DELETE, KEY_ALT, 0, on_kill_word_right },
    { KEY_DELETE, KEY_CTRL, 0, on_kill_word_right },
    { KEY_UP, 0, 0, on_up },
    { KEY_DOWN, 0, 0, on_down },
    { KEY_LEFT, 0, 0, on_left },
    { KEY_RIGHT, 0, 0, on_right },
    { KEY_LEFT, KEY_CTRL, 0, on_word_left },
    { KEY_RIGHT, KEY_CTRL, 0, on_word_right },
    { KEY_LEFT, KEY_ALT, 0, on_word_left },
    { KEY_RIGHT, KEY_ALT, 0, on_word_right },
    { KEY_HOME, 0, 0, on_home },
    { KEY_END, 0, 0, on_end },
    { KEY_HOME, KEY_CTRL, 0, on_first },
    { KEY_END, KEY_CTRL, 0, on_last },
    CTRL('a', on_home),
    CTRL('e', on_end),
    CTRL('b', on_left),
    CTRL('f', on_right),
    CTRL('p', on_up),
    CTRL('n', on_down),
    CTRL('d', on_ctrl_d),
    CTRL('k', on_kill_end),
    CTRL('u', on_kill_begin),
    CTRL('w', on_kill_big_word),
    CTRL('y', on_yank),
    CTRL('t', on_transpose),
    CTRL('l', on_clear),
    CTRL('r', on_search),
    CTRL('x', on_ctrl_x),
    CTRL('c', on_cancel),
    CTRL('z', on_stop),
    CTRL('\\', on_quit),
    ALT('b', on_word_left),
    ALT('f', on_word_right),
    ALT('d', on_kill_word_right),
    ALT('<', on_oldest),
    ALT('>', on_newest),
};
#undef CTRL
#undef ALT

enum edit_did edit_key(struct edit *e, const struct key *k)
{
    struct key key = *k;
    bool after_x = e->ctrl_x;
    if (key.code == KEY_NONE || (e->search.on && search_key(e, &key)))
        return EDIT_ON;
    if (key.code == KEY_CHAR && key.mods == KEY_ALT && key.ch >= 'A' && key.ch <= 'Z')
        key.ch += 'a' - 'A';
    e->ctrl_x = false;
    if (key.code != KEY_TAB)
        e->tabbed = false;
    if (after_x)
        return key.code == KEY_CHAR && key.mods == KEY_CTRL && key.ch == 'e'   ? EDIT_WRITE
               : key.code == KEY_CHAR && key.mods == KEY_CTRL && key.ch == 'c' ? EDIT_CANCEL
                                                                               : EDIT_ON;
    for (const struct binding *b = bindings; b < bindings + ARRAY_LEN(bindings); b++)
        if (b->code == key.code && b->mods == key.mods && b->ch == key.ch)
            return b->run(e);
    if (key.code == KEY_CHAR && !key.mods)
        line_type(&e->line, key.ch);
    return EDIT_ON;
}

void edit_paste(struct edit *e, const char *s, size_t n)
{
    if (e->search.on)
        end_search(e, true);
    e->ctrl_x = e->tabbed = false;
    while (n && (s[n - 1] == '\n' || s[n - 1] == '\r')) /* Enter is the person's to press */
        n--;
    line_insert(&e->line, s, n);
}

/* ---- a message ------------------------------------------------------------------------------- */

void edit_begin(struct edit *e, const char *text)
{
    end_search(e, true);
    free(e->draft);
    e->draft = NULL;
    e->at_entry = e->history->n;
    e->ctrl_x = e->tabbed = false;
    line_set(&e->line, text, strlen(text));
}

struct picture edit_picture(const struct edit *e, const char *prompt, char *room, size_t n_room)
{
    struct picture p = { .prompt = prompt, .s = e->line.s, .n = e->line.n, .at = e->line.at };
    if (e->search.on) {
        const char *query = e->search.query.s ? e->search.query.s : "";
        snprintf(room, n_room, e->search.failed ? "(no \"%s\") " : "(\"%s\" before) ", query);
        p.prompt = room;
    }
    return p;
}

void edit_free(struct edit *e)
{
    end_search(e, true);
    choices_free(&e->list);
    free(e->draft);
    line_free(&e->line);
}
