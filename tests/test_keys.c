/* test_keys: hlm-chat's prompt without a terminal - bytes as keys, what keys do to the line,
 * clusters of characters, the file of the history. */
#define _XOPEN_SOURCE 700
#include "run.h"
#include "ui/chat_edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- bytes as keys --------------------------------------------------------------------------- */

#define S KEY_SHIFT
#define A KEY_ALT
#define C KEY_CTRL
static const struct {
    const char *bytes;
    enum key_code code;
    unsigned mods;
    uint32_t ch;
} keys[] = {
    { "a", KEY_CHAR, 0, 'a' },
    { "\303\266", KEY_CHAR, 0, 0xf6 },
    { "\360\237\230\200", KEY_CHAR, 0, 0x1f600 },
    { "\377", KEY_CHAR, 0, 0xfffd },
    { "\302\233", KEY_NONE, 0, 0 }, /* a C1 control character */
    { "\r", KEY_ENTER, 0, 0 },
    { "\n", KEY_ENTER, 0, 0 },
    { "\t", KEY_TAB, 0, 0 },
    { "\177", KEY_BACKSPACE, 0, 0 },
    { "\b", KEY_BACKSPACE, 0, 0 },
    { "\001", KEY_CHAR, C, 'a' },
    { "\032", KEY_CHAR, C, 'z' },
    { "\034", KEY_CHAR, C, '\\' },
    /* xterm, VT220, application mode */
    { "\033[A", KEY_UP, 0, 0 },
    { "\033[B", KEY_DOWN, 0, 0 },
    { "\033OC", KEY_RIGHT, 0, 0 },
    { "\033OD", KEY_LEFT, 0, 0 },
    { "\033[1~", KEY_HOME, 0, 0 },
    { "\033[7~", KEY_HOME, 0, 0 },
    { "\033[H", KEY_HOME, 0, 0 },
    { "\033OH", KEY_HOME, 0, 0 },
    { "\033[4~", KEY_END, 0, 0 },
    { "\033[8~", KEY_END, 0, 0 },
    { "\033[F", KEY_END, 0, 0 },
    { "\033OF", KEY_END, 0, 0 },
    { "\033[3~", KEY_DELETE, 0, 0 },
    { "\033[200~", KEY_PASTE, 0, 0 },
    /* with other keys held */
    { "\033[1;5D", KEY_LEFT, C, 0 },
    { "\033[1;5C", KEY_RIGHT, C, 0 },
    { "\033[1;3D", KEY_LEFT, A, 0 },
    { "\033[1;2D", KEY_LEFT, S, 0 },
    { "\033[1;6A", KEY_UP, S | C, 0 },
    { "\033[1;65A", KEY_UP, 0, 0 },  /* Caps Lock */
    { "\033[1;9A", KEY_NONE, 0, 0 }, /* Super */
    { "\033[3;5~", KEY_DELETE, C, 0 },
    { "\033[1;2H", KEY_HOME, S, 0 },
    { "\033O5D", KEY_LEFT, C, 0 }, /* old xterm */
    { "\033O1;5D", KEY_LEFT, C, 0 },
    { "\033\033[D", KEY_LEFT, A, 0 }, /* rxvt, PuTTY */
    { "\033[d", KEY_LEFT, S, 0 },     /* rxvt */
    { "\033Od", KEY_LEFT, C, 0 },
    { "\033[7$", KEY_HOME, S, 0 },
    { "\033[8^", KEY_END, C, 0 },
    { "\033[3@", KEY_DELETE, S | C, 0 },
    { "\033b", KEY_CHAR, A, 'b' },
    { "\033\177", KEY_BACKSPACE, A, 0 },
    { "\033\r", KEY_ENTER, A, 0 },
    { "\033\n", KEY_ENTER, A, 0 },
    { "\033\303\266", KEY_CHAR, A, 0xf6 },
    { "\033OM", KEY_ENTER, 0, 0 },
    /* kitty's protocol and modifyOtherKeys */
    { "\033[13;2u", KEY_ENTER, S, 0 },
    { "\033[13;2:1u", KEY_ENTER, S, 0 },
    { "\033[13;2:3u", KEY_NONE, 0, 0 }, /* released */
    { "\033[27;2;13~", KEY_ENTER, S, 0 },
    { "\033[27;5;97~", KEY_CHAR, C, 'a' },
    { "\033[97;5u", KEY_CHAR, C, 'a' },
    { "\033[97;3u", KEY_CHAR, A, 'a' },
    { "\033[97;2u", KEY_CHAR, 0, 'A' },
    { "\033[47:63;2u", KEY_CHAR, 0, '?' },
    { "\033[97;2;65u", KEY_CHAR, 0, 'A' },
    { "\033[127;5u", KEY_BACKSPACE, C, 0 },
    { "\033[9;5u", KEY_NONE, 0, 0 },
    { "\033[27u", KEY_ESCAPE, 0, 0 },
    { "\033[57358u", KEY_NONE, 0, 0 }, /* Caps Lock itself */
    /* nothing of ours */
    { "\033[5~", KEY_NONE, 0, 0 },
    { "\033[6~", KEY_NONE, 0, 0 },
    { "\033[2~", KEY_NONE, 0, 0 },
    { "\033[15~", KEY_NONE, 0, 0 },
    { "\033[15;5~", KEY_NONE, 0, 0 },
    { "\033OP", KEY_NONE, 0, 0 },
    { "\033[1;5P", KEY_NONE, 0, 0 },
    { "\033[[A", KEY_NONE, 0, 0 }, /* F1 of the Linux console */
    { "\033[Z", KEY_NONE, 0, 0 },
    { "\033[I", KEY_NONE, 0, 0 },
    { "\033[?1;2c", KEY_NONE, 0, 0 },
    { "\033[?2026;2$y", KEY_NONE, 0, 0 },
    { "\033[<0;12;7M", KEY_NONE, 0, 0 },
    { "\033[999999999999999999~", KEY_NONE, 0, 0 },
    { "\033[1;2;3;4;5;6;7;8~", KEY_HOME, S, 0 },
    { "\033]11;rgb:0000/0000/0000\007", KEY_NONE, 0, 0 },
    { "\033P1$r0m\033\\", KEY_NONE, 0, 0 },
};
#undef S
#undef A
#undef C

static void test_bytes(void)
{
    struct key k;
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *bytes = keys[i].bytes;
        size_t n = strlen(bytes);
        char shown[64] = "", more[64];
        for (size_t at = 0; at < n; at++)
            snprintf(shown + strlen(shown), sizeof shown - strlen(shown),
                     bytes[at] > ' ' && bytes[at] < 127 ? "%c" : "<%02x>",
                     (unsigned char)bytes[at]);
        test_case("key %s", shown);
        for (int last = 0; last < 2; last++) {
            CHECK_EQ(key_read(bytes, n, last, &k), n);
            CHECK_EQ(k.code, keys[i].code);
            CHECK_EQ(k.mods, keys[i].mods);
            CHECK_EQ(k.ch, keys[i].ch);
        }
        snprintf(more, sizeof more, "%sx", bytes); /* what follows is another key's */
        CHECK_EQ(key_read(more, n + 1, false, &k), n);
        for (size_t part = 0; part < n; part++) /* the terminal may send it in pieces */
            CHECK_EQ(key_read(bytes, part, false, &k), 0);
    }
    test_case("sequences that were left unfinished are dropped");
    CHECK(key_read("\033", 1, true, &k) == 1 && k.code == KEY_ESCAPE);
    CHECK(key_read("\033[1;", 4, true, &k) == 4 && k.code == KEY_NONE);
    CHECK(key_read("\033O", 2, true, &k) == 2 && k.code == KEY_NONE);
    CHECK(key_read("\033[1;\003", 5, false, &k) == 4 && k.code == KEY_NONE);
    CHECK(key_read("\033\033\033\033", 4, false, &k) == 1 && k.code == KEY_ESCAPE);
    CHECK(key_read("\033]x", 3, true, &k) == 2 && k.code == KEY_NONE);
    CHECK(key_read("\303", 1, true, &k) == 1 && k.ch == 0xfffd);
    CHECK(key_read("\303x", 2, false, &k) == 1 && k.ch == 0xfffd);

    test_case("every sequence of random bytes is read to its end");
    struct rng rng = { 1 };
    for (int i = 0; i < 20000; i++) {
        char bytes[24];
        for (size_t at = 0; at < sizeof bytes; at++)
            bytes[at] = "\033[OMu~$;:?<0129\r\177a\303\266\377 \n]"[rng_u64(&rng) % 23];
        for (size_t at = 0, n; at < sizeof bytes; at += n) {
            n = key_read(bytes + at, sizeof bytes - at, true, &k);
            if (!CHECK_MSG(n >= 1 && n <= sizeof bytes - at, "%zu of %zu bytes", n,
                           sizeof bytes - at))
                return;
        }
    }
}

/* ---- clusters -------------------------------------------------------------------------------- */

#define FAMILY "\360\237\221\250\342\200\215\360\237\221\251\342\200\215\360\237\221\247"
#define FLAG "\360\237\207\251\360\237\207\252"
#define THUMB "\360\237\221\215\360\237\217\275"
#define HEART "\342\235\244\357\270\217"
#define E_ACUTE "e\314\201"

static void test_clusters(void)
{
    static const struct {
        const char *s;
        unsigned columns; /* that it may take at most */
    } rows[] = {
        { "a", 1 },     { "\303\266", 1 },
        { E_ACUTE, 1 }, { "\346\274\242", 2 },
        { THUMB, 4 },   { FAMILY, 6 },
        { HEART, 2 },   { "\341\204\222\341\205\241\341\206\253", 4 },
        { FLAG, 2 },
    };
    char all[512] = "";
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s", rows[i].s);
    test_case("clusters: ends, beginnings, columns");
    size_t n = strlen(all), at = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t next = text_next(all, n, at);
        CHECK_MSG(next == at + strlen(rows[i].s), "cluster %u has %zu bytes", i, next - at);
        CHECK_MSG(text_prev(all, next) == at, "cluster %u begins at %zu, expected %zu", i,
                  text_prev(all, next), at);
        CHECK_MSG(text_columns(all + at, next - at) == rows[i].columns, "cluster %u: %u columns", i,
                  text_columns(all + at, next - at));
        at = next;
    }

    test_case("text is cleaned of all that is no text");
    char to[64];
    size_t m = ui_clean("a\r\nb\rc\td\033[31m\007\302\233\377\177", 18, to);
    to[m] = 0;
    CHECK_STR(to, "a\nb\nc\td[31m\357\277\275");
}

/* ---- keys in the line ------------------------------------------------------------------------ */

/* Rows of keys, as bytes, and the line afterwards, with '|' for the cursor. */
static const struct {
    const char *bytes, *line;
} edits[] = {
    { "abc", "abc|" },
    { "abc\033[D\033[DX", "aX|bc" },
    { "abc\001X", "X|abc" },
    { "abc\001\005X", "abcX|" },
    { "abc\033[1~X", "X|abc" },
    { "abc\033[H\033[FX", "abcX|" },
    { "one two\033[1;5DX", "one X|two" },
    { "one two\033[1;3D\033[1;5DX", "X|one two" },
    { "one two\001\033[1;5CX", "oneX| two" },
    { "one-two\033bX", "one-X|two" },
    { "one two\001\033fX", "oneX| two" },
    { "one two\033[5~\033[6~\033[15~\033[1;2D\033[1;5A\033[99;9uX", "one twoX|" },
    { "abc\177\010", "a|" },
    { "abc\001\033[3~\004", "|c" },
    { "one two three\027", "one two |" },
    { "one two-three\033\177", "one two-|" },
    { "one two\001\033d", "| two" },
    { "one two\001\033[3;5~", "| two" },
    { "one two\002\002\025", "|wo" },
    { "one two\002\002\002\013", "one |" },
    { "one two\027\031\031", "one twotwo|" },
    { "one two three\027\027\031", "one two three|" }, /* cuts in a row are one */
    { "one two\001\033d\013X\031", "Xone two|" },
    { "one\027two\027\031", "two|" },
    { "ab\024", "ba|" },
    { "abc\002\024", "acb|" },
    { "abc\002\006X", "abcX|" },
    { "a\033\rb", "a\nb|" },
    { "a\033\nb", "a\nb|" },
    { "a\033[13;2ub\033[27;2;13~c", "a\nb\nc|" },
    { "abc\033\rdef\033[A\001X", "X|abc\ndef" },
    { "abcd\033\rx\033[AX", "aX|bcd\nx" },
    { "abc\033\rdef\033[A\033[BX", "abc\ndefX|" },
    { "abc\033\rdef\001\025", "abc|def" },
    { "abc\033\rdef\033[A\005\013", "abc|def" },
    { "abc\033\rdef\033[1;5HX", "X|abc\ndef" },
    { "x" E_ACUTE "\177", "x|" },
    { "x" FAMILY "\177", "x|" },
    { "x" FAMILY "y\033[D\033[DX", "xX|" FAMILY "y" },
    { FLAG THUMB "\033[D\177", "|" THUMB },
    { "\003", "|" },
    { "a\030bc", "ac|" }, /* what follows Ctrl-X and is not bound does nothing */
};

/* Feeds bytes to the prompt. Returns what the last key did. */
static enum edit_did press(struct edit *e, const char *bytes, size_t n)
{
    enum edit_did did = EDIT_ON;
    for (size_t at = 0, got; at < n; at += got) {
        struct key k;
        got = key_read(bytes + at, n - at, true, &k);
        did = edit_key(e, &k);
    }
    return did;
}

static void check_line(const struct edit *e, const char *want)
{
    char got[512];
    snprintf(got, sizeof got, "%.*s|%s", (int)e->line.at, e->line.s, e->line.s + e->line.at);
    CHECK_STR(got, want);
}

static void test_edits(void)
{
    struct history h = { 0 };
    for (uint32_t i = 0; i < ARRAY_LEN(edits); i++) {
        struct edit e = { .history = &h };
        test_case("keys of row %u: %s", i, edits[i].line);
        edit_begin(&e, "");
        press(&e, edits[i].bytes, strlen(edits[i].bytes));
        check_line(&e, edits[i].line);
        edit_free(&e);
    }

    static const struct {
        const char *bytes;
        enum edit_did did;
    } asks[] = {
        { "a\r", EDIT_DONE },     { "\004", EDIT_LEAVE },     { "a\004", EDIT_ON },
        { "a\003", EDIT_CANCEL }, { "\032", EDIT_STOP },      { "\034", EDIT_QUIT },
        { "\014", EDIT_CLEAR },   { "\030\005", EDIT_WRITE },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(asks); i++) {
        struct edit e = { .history = &h };
        test_case("what key %u asks for", i);
        edit_begin(&e, "");
        CHECK_EQ(press(&e, asks[i].bytes, strlen(asks[i].bytes)), asks[i].did);
        edit_free(&e);
    }
}

static void test_history_keys(void)
{
    static const struct {
        const char *bytes, *line;
    } rows[] = {
        { "\033[A", "third thing|" },
        { "\020\020", "second|" },
        { "\033[A\033[A\033[A\033[A", "the first|" },
        { "draft\033[A\033[A\033[B\033[B", "draft|" },
        { "draft\033[A\016\016", "draft|" },
        { "\033<", "the first|" },
        { "x\033<\033>", "x|" },
        { "\022th", "|third thing" },
        { "\022th\022", "|the first" },
        { "\022th\022\023", "|third thing" },
        { "\022thx\177\022", "|the first" },
        { "\022the\005!", "the first!|" },
        { "keep\022the\007", "keep|" },
        { "keep\022the\003", "keep|" },
        { "\022fir\033[B", "second|" },
        { "new\022the\005\033[B\033[B\033[B", "new|" },
        { "\022nowhere\005", "third thing|" }, /* the last that was found */
        { "\022nowhere\007", "|" },
    };
    struct history h = { 0 };
    CHECK(history_add(&h, "the first", NULL) && history_add(&h, "second", NULL) &&
          history_add(&h, "third thing", NULL) && history_add(&h, "third thing", NULL));
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct edit e = { .history = &h };
        test_case("history, row %u: %s", i, rows[i].line);
        edit_begin(&e, "");
        press(&e, rows[i].bytes, strlen(rows[i].bytes));
        check_line(&e, rows[i].line);
        edit_free(&e);
    }
    test_case("a message twice in a row is kept once");
    CHECK_EQ(h.n, 3);
    history_free(&h);
}

/* ---- completion ------------------------------------------------------------------------------ */

static void offer(void *user, const char *text, size_t at, struct choices *c)
{
    static const char *const words[] = { "/save", "/set", "/stats", "/bye" };
    (void)user;
    for (uint32_t i = 0; i < ARRAY_LEN(words); i++)
        if (strncmp(words[i], text, at) == 0)
            choices_add(c, words[i], NULL, true);
}

static void test_completion(void)
{
    static const struct {
        const char *bytes, *line;
        enum edit_did did;
        uint32_t n_list;
    } rows[] = {
        { "/b\t", "/bye |", EDIT_ON, 0 },      { "/s\t", "/s|", EDIT_ON, 0 },
        { "/s\t\t", "/s|", EDIT_LIST, 3 },     { "/sa\t", "/save |", EDIT_ON, 0 },
        { "/nope\t\t", "/nope|", EDIT_ON, 0 }, { "\t\t", "/|", EDIT_ON, 0 },
    };
    struct history h = { 0 };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct edit e = { .history = &h, .hooks.complete = offer };
        test_case("Tab, row %u: %s", i, rows[i].line);
        edit_begin(&e, "");
        CHECK_EQ(press(&e, rows[i].bytes, strlen(rows[i].bytes)), rows[i].did);
        check_line(&e, rows[i].line);
        CHECK_EQ(e.list.n, rows[i].n_list);
        edit_free(&e);
    }
}

/* ---- the file -------------------------------------------------------------------------------- */

static void test_history_two(const char *path)
{
    struct hlm_err err = { 0 };
    struct history h, other;
    struct stat st;
    test_case("a history of libedit's is read");
    spill(path, "_HiStOrY_V2_\nHello!\nWhat\\040is\\040this?\ntwo\\012lines\na\\134b \\\\c\n"
                "\\M-C\\M-6\n\303\266\n");
    chmod(path, 0644);
    CHECK_MSG(history_open(&h, path, &err), "%s", err.msg);
    if (CHECK_EQ(h.n, 5)) {
        CHECK_STR(h.entry[1], "What is this?");
        CHECK_STR(h.entry[2], "two\nlines");
        CHECK_STR(h.entry[3], "a\\b \\c");
        CHECK_STR(h.entry[4], "\303\266"); /* both forms are the same message */
    }
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    history_free(&h);

    test_case("two programs at once: each keeps its own, the file has all");
    CHECK(history_open(&h, path, &err) && history_open(&other, path, &err));
    CHECK(history_add(&h, "mine\\ one", &err) && history_add(&other, "theirs", &err) &&
          history_add(&h, "mine,\ntoo", &err));
    CHECK_EQ(h.n, 7);
    CHECK_STR(h.entry[6], "mine,\ntoo");
    history_free(&h);
    history_free(&other);
    CHECK(history_open(&h, path, &err));
    if (CHECK_EQ(h.n, 8)) {
        CHECK_STR(h.entry[5], "mine\\ one");
        CHECK_STR(h.entry[6], "theirs");
        CHECK_STR(h.entry[7], "mine,\ntoo");
    }
    history_free(&h);
}

static void test_history_many(const char *path)
{
    struct hlm_err err = { 0 };
    struct history h;
    test_case("many at once lose nothing, also while the file is shortened");
    FILE *f = fopen(path, "w");
    HLM_ASSERT(f);
    fputs("_HiStOrY_V2_\n", f);
    for (int i = 0; i < 2500; i++)
        fprintf(f, "old\\040%d\n", i);
    fclose(f);
    enum { N_CHILD = 6, N_LINE = 40 };
    for (int c = 0; c < N_CHILD; c++)
        if (fork() == 0) {
            bool ok = history_open(&h, path, NULL);
            for (int i = 0; i < N_LINE; i++) {
                char text[32];
                snprintf(text, sizeof text, "child %d line %d", c, i);
                ok = ok && history_add(&h, text, NULL);
            }
            _exit(ok ? 0 : 1);
        }
    for (int c = 0, status; c < N_CHILD; c++)
        CHECK(wait(&status) > 0 && status == 0);
    CHECK(history_open(&h, path, &err));
    CHECK_MSG(h.n == 1000 + N_CHILD * N_LINE, "%u entries", h.n);
    for (int c = 0; c < N_CHILD; c++) {
        char text[32];
        snprintf(text, sizeof text, "child %d line %d", c, N_LINE - 1);
        CHECK_MSG(history_find(&h, text, h.n, -1) < h.n, "%s is lost", text);
    }
    history_free(&h);
}

static void test_history_other(const char *path)
{
    struct hlm_err err = { 0 };
    struct history h;
    test_case("of a file above 16 MiB the newest part is read, and it is shortened");
    spill(path, "_HiStOrY_V2_\nold\n");
    HLM_ASSERT(truncate(path, 17 << 20) == 0);
    FILE *f = fopen(path, "a");
    HLM_ASSERT(f);
    fputs("\nnew\\040one\nnewest\n", f);
    fclose(f);
    CHECK_MSG(history_open(&h, path, &err), "%s", err.msg);
    if (CHECK_EQ(h.n, 2))
        CHECK_STR(h.entry[0], "new one");
    history_free(&h);
    char *left = slurp(path);
    CHECK_STR(left, "_HiStOrY_V2_\nnew\\040one\nnewest\n");
    free(left);

    test_case("a file that is no history stays as it is");
    spill(path, "my notes\n");
    CHECK_REFUSED(history_open(&h, path, &err), err, "history|no history|_HiStOrY_V2_");
    CHECK(history_add(&h, "Hello!", &err));
    history_free(&h);
    char *text = slurp(path);
    CHECK_STR(text, "my notes\n");
    free(text);
}

static void test_history_file(void)
{
    char path[160];
    snprintf(path, sizeof path, "%s", scratch("history"));
    test_history_two(path);
    test_history_many(path);
    test_history_other(path);
}

void test_keys(void)
{
    test_bytes();
    test_clusters();
    test_edits();
    test_history_keys();
    test_completion();
    test_history_file();
}
