/* chat_prose: see chat_prose.h. */
#include "chat_prose.h"

#include "chat_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum style { BOLD = 1, ITALIC = 2, UNDERLINE = 4, CODE = 8, QUIET = 16 };
/* Marked text and what a line begins with are known after so many bytes, or are plain text. So no
 * more is held back, and none of it is searched twice. */
enum { LONGEST_MARKED = 400, LONGEST_HEAD = 400 };

/* ---- words ----------------------------------------------------------------------------------- */

static void put(struct prose *p, const char *s, size_t n)
{
    if (n)
        p->put(p->user, s, n);
}

static void add_word(struct prose *p, const char *s, size_t n) { ui_add(&p->word, s, n); }

/* The escapes of a style go into the word, so that they come out where it does. */
static void set_style(struct prose *p, unsigned style)
{
    char s[64];
    if (style == p->style)
        return;
    p->style = style;
    if (!p->markdown)
        return;
    int n = snprintf(s, sizeof s, "\033[0m%s%s%s%s%s", style & BOLD ? "\033[1m" : "",
                     style & ITALIC ? "\033[3m" : "", style & UNDERLINE ? "\033[4m" : "",
                     style & CODE && p->color ? "\033[36m" : "",
                     style & QUIET && p->color ? "\033[2m" : "");
    add_word(p, s, (size_t)n);
}

static void put_blanks(struct prose *p, unsigned n)
{
    static const char blanks[] = "                ";
    for (unsigned some; n; n -= some) {
        some = ui_min_u32(n, sizeof blanks - 1);
        put(p, blanks, some);
    }
}

static void new_row(struct prose *p)
{
    put(p, "\n", 1);
    put_blanks(p, p->indent);
    p->col = p->indent;
    p->gap = 0;
}

/* Puts the word out, on a new row where this one has no room for it. */
static void end_word(struct prose *p)
{
    if (p->word_cols && p->cols && p->col + p->gap + p->word_cols > p->cols && p->col > p->indent)
        new_row(p);
    if (p->word_cols) {
        put_blanks(p, p->gap);
        p->col += p->gap + p->word_cols;
        p->gap = 0;
    }
    put(p, p->word.s, p->word.n);
    p->word.n = p->word_cols = 0;
}

/* One cluster: a part of the word, or a wide character, after which a row may end. */
static void add_cluster(struct prose *p, const char *s, size_t n)
{
    unsigned columns = text_columns(s, n);
    bool wide = columns == 2;
    if (wide)
        end_word(p);
    if (p->cols && p->word_cols + columns > p->cols - ui_min_u32(p->indent, p->cols - 1))
        end_word(p); /* longer than a row */
    add_word(p, s, n);
    p->word_cols += columns;
    if (wide)
        end_word(p);
}

static void put_plain(struct prose *p, const char *s, size_t n)
{
    for (size_t at = 0, next; at < n; at = next) {
        next = text_next(s, n, at);
        if (s[at] == ' ' || s[at] == '\t') {
            end_word(p);
            p->gap += s[at] == '\t' ? 4 : 1;
        } else {
            add_cluster(p, s + at, next - at);
        }
        p->last = s[next - 1];
    }
}

/* ---- marked text ----------------------------------------------------------------------------- */

static bool is_word_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (unsigned char)c >= 0x80;
}
static bool is_mark(char c) { return c && !text_is_blank(c) && !is_word_char(c); }

/* CommonMark's rules for *, between these characters, 0 at the ends of a line. A mark inside of a
 * word opens nothing here: a*b*c is a product. */
static bool opens(char before, char after)
{
    return after && !text_is_blank(after) && !is_word_char(before) &&
           (!is_mark(after) || !before || text_is_blank(before) || is_mark(before));
}
static bool closes(char before, char after)
{
    return before && !text_is_blank(before) && (!is_mark(before) || !is_word_char(after));
}

static size_t run_of(const char *s, size_t n, char c)
{
    size_t at = 0;
    while (at < n && s[at] == c)
        at++;
    return at;
}

/* The text that a mark at the beginning of s opens. */
struct marked {
    size_t n_mark, n; /* length of the mark, of the text */
    unsigned style;
    bool undecided; /* its end may still come */
};

/* The end of the text that a mark of so many bytes c opens, on the first LONGEST_MARKED bytes; 0:
 * there is none. is_end is called with what stands before and after such a mark. */
static size_t find_end(const char *s, size_t n, size_t n_mark, char c, bool whole,
                       bool (*is_end)(char before, char after))
{
    for (size_t at = n_mark; at < n && at < LONGEST_MARKED;) {
        size_t run = run_of(s + at, n - at, c);
        if (at + run > LONGEST_MARKED || (at + run == n && !whole))
            break;
        if (run == n_mark && is_end(s[at - 1], at + run < n ? s[at + run] : 0))
            return at;
        at += run ? run : 1;
    }
    return 0;
}

/* Backquotes end code wherever they stand. */
static bool ends_code(char before, char after) { return before || after; }

/* Code up to as many backquotes as opened it; *italic*, **bold**, ***both***. */
static struct marked find_marked(const struct prose *p, const char *s, size_t n, bool whole)
{
    static const unsigned styles[] = { 0, ITALIC, BOLD, BOLD | ITALIC };
    struct marked m = { .n_mark = run_of(s, ui_min_u64(n, LONGEST_MARKED + 1), s[0]) };
    bool code = s[0] == '`', more = !whole && n <= LONGEST_MARKED;
    if (m.n_mark == n) {
        m.undecided = more;
        return m;
    }
    if (!code && (m.n_mark > 3 || !opens(p->last, s[m.n_mark])))
        return m;
    m.style = code ? CODE : styles[m.n_mark];
    size_t end = find_end(s, n, m.n_mark, s[0], whole, code ? ends_code : closes);
    m.n = end ? end - m.n_mark : 0;
    m.undecided = !end && more;
    return m;
}

/* Puts out of a line what is certain. whole: nothing more comes. Returns how many bytes were. */
static size_t put_marked(struct prose *p, const char *s, size_t n, unsigned style, bool whole)
{
    size_t at = 0;
    set_style(p, style);
    while (at < n) {
        size_t plain = p->markdown ? 0 : n - at;
        while (at + plain < n && !strchr("*`\\", s[at + plain]))
            plain++;
        put_plain(p, s + at, plain);
        at += plain;
        if (at == n)
            break;
        if (s[at] == '\\') {
            if (at + 1 == n && !whole)
                break;
            bool escapes = at + 1 < n && strchr("*`_#\\", s[at + 1]);
            put_plain(p, s + at + escapes, 1);
            at += 1u + escapes;
            continue;
        }
        struct marked m = find_marked(p, s + at, n - at, whole);
        if (m.undecided)
            break;
        if (m.n) {
            const char *inner = s + at + m.n_mark;
            set_style(p, style | m.style);
            if (m.style == CODE)
                put_plain(p, inner, m.n);
            else
                put_marked(p, inner, m.n, style | m.style, true);
            set_style(p, style);
            at += 2 * m.n_mark + m.n;
        } else {
            put_plain(p, s + at, m.n_mark);
            at += m.n_mark;
        }
    }
    return at;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* What a line begins with. */
struct head {
    enum {
        HEAD_UNDECIDED,
        HEAD_TEXT,
        HEAD_TITLE,
        HEAD_ITEM,
        HEAD_QUOTE,
        HEAD_RULE,
        HEAD_FENCE,
        HEAD_RAW
    } kind;
    size_t n, blanks; /* bytes of it; blanks before it */
};

/* How many marks of a rule the line has; 0: it is none. */
static size_t rule_marks(const char *s, size_t n)
{
    size_t marks = 0;
    if (!strchr("-*_", s[0]))
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] != ' ' && s[i] != s[0])
            return 0;
        marks += s[i] != ' ';
    }
    return marks;
}

/* "- " and "12. ": bytes of the mark, without its blank; 0: none. */
static size_t item_mark(const char *s, size_t n)
{
    size_t digits = 0;
    if (n && strchr("-*+", s[0]))
        return 1;
    while (digits < n && digits < 9 && s[digits] >= '0' && s[digits] <= '9')
        digits++;
    return digits && digits < n && (s[digits] == '.' || s[digits] == ')') ? digits + 1 : 0;
}

/* A fence of backquotes has none after it: those are code in the text. */
static bool is_fence(const char *s, size_t n)
{
    size_t run = run_of(s, n, s[0]);
    return run >= 3 && (s[0] == '~' || !memchr(s + run, '`', n - run));
}

/* What the line is that begins with s, after its blanks. UNDECIDED: more of it must come. */
static struct head read_mark(const char *s, size_t n, bool whole)
{
    struct head h = { .kind = HEAD_TEXT };
    size_t mark = item_mark(s, n), run = run_of(s, n, s[0]);
    size_t rule = n <= LONGEST_HEAD ? rule_marks(s, n) : 0; /* so long a line is text */
    if (s[0] == '`' || s[0] == '~') {
        if (is_fence(s, n) && n <= LONGEST_HEAD)
            h.kind = whole ? HEAD_FENCE : HEAD_UNDECIDED;
        else if (run == n && run < 3 && !whole)
            h.kind = HEAD_UNDECIDED;
    } else if (s[0] == '#' && run <= 6) {
        h.kind = run < n || whole ? HEAD_TEXT : HEAD_UNDECIDED;
        if (run < n && s[run] == ' ')
            h = (struct head){ .kind = HEAD_TITLE, .n = run + 1 };
    } else if (rule && (!whole || rule != 2)) {
        h.kind = !whole ? HEAD_UNDECIDED : rule >= 3 ? HEAD_RULE : HEAD_TEXT;
    } else if (mark > 0 && mark < n && s[mark] == ' ') {
        h = (struct head){ .kind = HEAD_ITEM, .n = mark + 1 };
    } else if (s[0] >= '0' && s[0] <= '9' && (mark == 0 || mark == n) && n <= 10 && !whole &&
               strspn(s, "0123456789") >= n - (mark > 0)) {
        h.kind = HEAD_UNDECIDED;
    } else if (s[0] == '>') {
        h.kind = n > 1 || whole ? HEAD_QUOTE : HEAD_UNDECIDED;
        h.n = n > 1 && s[1] == ' ' ? 2 : 1;
    } else if (s[0] == '|') {
        h.kind = HEAD_RAW;
    }
    return h;
}

/* After more than three blanks, counted from the text of the list item that is open, there is text
 * alone. */
static struct head read_head(const struct prose *p, const char *s, size_t n, bool whole)
{
    struct head h = { .kind = HEAD_TEXT };
    size_t blanks = run_of(s, ui_min_u64(n, LONGEST_HEAD), ' ');
    if (blanks == n && n < LONGEST_HEAD && !whole)
        h.kind = HEAD_UNDECIDED;
    else if (blanks < n && blanks <= p->item + 3)
        h = read_mark(s + blanks, n - blanks, whole);
    h.blanks = blanks;
    h.n += blanks;
    return h;
}

/* A line of fenced code, or the fence that ends it. Held back while it may be that fence. */
static size_t begin_code_line(struct prose *p, const char *s, size_t n, bool whole)
{
    size_t blanks = run_of(s, n, ' '), run = run_of(s + blanks, n - blanks, p->fence);
    bool only = blanks <= p->item + 3 && n <= LONGEST_HEAD &&
                run_of(s + blanks + run, n - blanks - run, ' ') == n - blanks - run;
    if (!whole && only)
        return 0;
    if (whole && run >= p->n_fence && only) {
        p->fence = 0;
        p->at = PROSE_RAW;
        p->line_style = QUIET;
        p->mute = p->color; /* colours tell code apart; without them the fence is shown */
        return p->mute ? n : 0;
    }
    p->at = PROSE_RAW;
    p->line_style = CODE;
    return 0;
}

static void begin_fence(struct prose *p, const char *s, size_t n, size_t blanks)
{
    p->fence = s[blanks];
    p->n_fence = run_of(s + blanks, n - blanks, p->fence);
    p->at = PROSE_RAW;
    p->line_style = QUIET;
    p->mute = p->color && blanks + p->n_fence == n;
}

static void put_rule(struct prose *p)
{
    set_style(p, QUIET);
    for (unsigned i = 0, n = p->cols ? ui_min_u32(p->cols, 40) : 3; i < n; i++)
        add_word(p, "\342\224\200", 3);
    end_word(p);
    p->col = 1; /* something is there */
}

/* Decides what the pending line is. Returns the bytes of it that are done with by that; *held: it
 * cannot be said yet. */
static size_t begin_line(struct prose *p, bool whole, bool *held)
{
    const char *s = p->pend.s;
    size_t n = p->pend.n;
    *held = false;
    p->at = PROSE_TEXT;
    p->line_style = p->indent = 0;
    p->last = 0;
    if (!p->markdown)
        return 0;
    if (p->fence) {
        p->at = PROSE_BEGIN;
        size_t done = begin_code_line(p, s, n, whole);
        *held = p->at == PROSE_BEGIN;
        return done;
    }
    struct head h = read_head(p, s, n, whole);
    if (h.kind == HEAD_ITEM)
        p->item = h.n;
    else if (h.kind != HEAD_UNDECIDED && h.blanks < n)
        p->item = ui_min_u64(p->item, h.blanks);
    put_blanks(p, h.kind == HEAD_ITEM || h.kind == HEAD_QUOTE ? (unsigned)h.blanks : 0);
    switch (h.kind) {
    case HEAD_UNDECIDED:
        p->at = PROSE_BEGIN;
        *held = true;
        return 0;
    case HEAD_TITLE: p->line_style = h.n == h.blanks + 2 ? BOLD | UNDERLINE : BOLD; break;
    case HEAD_ITEM:
        p->col = p->indent = (unsigned)h.n;
        if (strchr("-*+", s[h.blanks]))
            put(p, "\342\200\242 ", 4);
        else
            put(p, s + h.blanks, h.n - h.blanks);
        break;
    case HEAD_QUOTE:
        p->col = p->indent = (unsigned)h.blanks + 2;
        put(p, "\342\224\202 ", 4);
        p->line_style = ITALIC;
        break;
    case HEAD_RULE: put_rule(p); return n;
    case HEAD_FENCE: begin_fence(p, s, n, h.blanks); return p->color ? h.blanks + p->n_fence : 0;
    case HEAD_RAW: p->at = PROSE_RAW; break;
    default: p->indent = (unsigned)h.blanks; return 0;
    }
    return h.n;
}

/* Puts out what of the pending line is certain. whole: the line is at its end. */
static void put_line(struct prose *p, bool whole)
{
    bool held = false;
    if (p->at == PROSE_BEGIN && (p->pend.n || whole))
        ui_drop(&p->pend, begin_line(p, whole, &held));
    if (held || p->at == PROSE_BEGIN)
        return;
    if (p->at == PROSE_RAW && p->pend.n) { /* as it stands: the terminal breaks it */
        set_style(p, p->line_style);
        add_word(p, p->pend.s, p->pend.n);
        put(p, p->word.s, p->word.n);
        p->word.n = p->word_cols = 0;
        ui_drop(&p->pend, p->pend.n);
    } else if (p->pend.n) {
        ui_drop(&p->pend, put_marked(p, p->pend.s, p->pend.n, p->line_style, whole));
    }
}

static void end_line(struct prose *p)
{
    put_line(p, true);
    set_style(p, 0);
    end_word(p);
    p->gap = p->col = p->indent = 0;
    p->at = PROSE_BEGIN;
}

static void begin_row(struct prose *p)
{
    if (!p->mute)
        put(p, "\n", 1);
    p->mute = false;
}

void prose_text(struct prose *p, const char *s, size_t n)
{
    while (n) {
        const char *end = memchr(s, '\n', n);
        size_t len = end ? (size_t)(end - s) : n;
        if (!ui_add(&p->pend, s, len))
            put(p, s, len);
        if (end)
            end_line(p);
        else
            put_line(p, false);
        if (end)
            begin_row(p);
        s += len + (end != NULL);
        n -= len + (end != NULL);
    }
}

void prose_end(struct prose *p)
{
    end_line(p);
    ui_bytes_free(&p->pend);
    ui_bytes_free(&p->word);
    p->item = 0;
    p->fence = 0;
    p->mute = false;
}
