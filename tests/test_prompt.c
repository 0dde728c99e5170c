/* test_prompt: hlm-chat's prompt at a terminal - what keys make of the message and of the screen,
 * pastes, wide characters, a new size, being stopped. The prompt runs in a process of its own. */
#define _XOPEN_SOURCE 700
#include "pty.h"
#include "run.h"
#include "ui/chat_term.h"
#include "ui/common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAMILY "\360\237\221\250\342\200\215\360\237\221\251\342\200\215\360\237\221\247"
#define E_ACUTE "e\314\201"
#define KANJI "\346\274\242"

/* ---- the program at the other end ------------------------------------------------------------ */

struct at_prompt {
    const char *term, *no_color; /* of its environment */
    bool shell;                  /* a shell is between, which it can be stopped into */
    int ignored;                 /* a signal that it is started with ignored, or 0 */
    const char *editor, *history;
    const char *prefill; /* stands in the first line */
    int got[2], go[2];   /* pipes: messages, each ended by NUL; a byte ends the work */
    struct pty pty;
};

static void offer(void *user, const char *text, size_t at, struct choices *c)
{
    static const char *const words[] = { "/save", "/set", "/stats" };
    (void)user;
    for (uint32_t i = 0; i < ARRAY_LEN(words); i++)
        if (strncmp(words[i], text, at) == 0)
            choices_add(c, words[i], NULL, true);
}

/* Reads messages until it is left; "work" takes until a byte comes. */
static int prompt_main(void *user)
{
    struct at_prompt *a = user;
    struct hlm_err err = { 0 };
    char byte, *text;
    bool quoted;
    if (a->ignored)
        signal(a->ignored, SIG_IGN);
    setenv("TERM", a->term, 1);
    setenv("NO_COLOR", a->no_color ? a->no_color : "", 1);
    ui_start("test");
    struct term *t = term_open(
        &(struct term_params){
            .history = a->history, .editor = a->editor, .folder = test_tmp(), .complete = offer },
        &err);
    if (!t)
        return 98;
    const char *prefill = a->prefill;
    for (enum term_got got; (got = term_read(t, ">>> ", prefill, &text, &quoted)) != TERM_LEFT;) {
        prefill = NULL;
        if (got == TERM_CLEARED)
            continue;
        if (strcmp(text, "work") == 0 && write(1, "working", 7) == 7)
            while (read(a->go[0], &byte, 1) < 0 && errno == EINTR)
                ;
        if (strcmp(text, "report") == 0) {
            ui_error("an error of \033[31mred\007.txt");
            ui_wrong("a mistake in \033[5mb\377c");
            ui_warn("a warning of \302\233x");
            ui_note("a note of \033]0;title\007y");
            ui_status("half done");
        }
        size_t n = strlen(text) + 1;
        if (write(a->got[1], text, n) != (ssize_t)n)
            return 97;
        free(text);
    }
    term_close(t);
    return 0;
}

/* As a shell does it: a job in the foreground; when it is stopped, a word, and on with it. */
static int shell_main(void *user)
{
    int status;
    pid_t job = fork();
    if (job == 0) {
        setpgid(0, 0);
        while (tcgetpgrp(0) != getpid())
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        _exit(prompt_main(user));
    }
    signal(SIGTTOU, SIG_IGN);
    setpgid(job, job);
    tcsetpgrp(0, job);
    while (waitpid(job, &status, WUNTRACED) == job && WIFSTOPPED(status)) {
        tcsetpgrp(0, getpgrp());
        if (write(1, "stopped\r\n", 9) != 9)
            return 96;
        tcsetpgrp(0, job);
        kill(-job, SIGCONT);
    }
    return WEXITSTATUS(status);
}

static void begin(struct at_prompt *a, uint32_t cols, uint32_t rows)
{
    HLM_ASSERT(pipe(a->got) == 0 && pipe(a->go) == 0);
    test_tmp();
    a->term = a->term ? a->term : "xterm-256color";
    pty_start(&a->pty, cols, rows, a->shell ? shell_main : prompt_main, a);
    close(a->got[1]);
    CHECK_SHOWS(&a->pty, ">>> |\n");
}

static int end(struct at_prompt *a)
{
    int rc = pty_end(&a->pty);
    close(a->got[0]);
    close(a->go[0]);
    close(a->go[1]);
    return rc;
}

static int leave(struct at_prompt *a)
{
    pty_type(&a->pty, "\004");
    return end(a);
}

/* The next message that the program got. */
static const char *message(struct at_prompt *a)
{
    static char text[65536];
    double end_s = now_s() + 10;
    for (size_t n = 0; n < sizeof text && now_s() < end_s;) {
        struct pollfd fd = { .fd = a->got[0], .events = POLLIN };
        if (poll(&fd, 1, 0) != 1)
            pty_wait(&a->pty, 1);
        else if (read(a->got[0], text + n, 1) != 1)
            break;
        else if (!text[n++])
            return text;
    }
    FAIL("no message came");
    return "";
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Keys and the message that Enter sends. The bindings are all in test_keys: here are those that
 * terminals send in more than one way, and those that depend on the terminal's modes. */
static const struct {
    const char *keys, *message;
} rows[] = {
    { "one two\033[1;5DX", "one Xtwo" },       /* Ctrl-Left */
    { "one two\033[1;3DX", "one Xtwo" },       /* Alt-Left */
    { "one two\033[H\033[1;5CX", "oneX two" }, /* Ctrl-Right */
    { "abc\033[1~X\033[4~Y", "XabcY" },        /* Home and End of PuTTY */
    { "abc\033[7~X\033[8~Y", "XabcY" },        /* of rxvt */
    { "abc\033[HX\033[FY", "XabcY" },
    { "abc\033OHX\033OFY", "XabcY" },
    { "ab\033[5~\033[6~\033[15~\033[1;2D\033[1;5Ac", "abc" }, /* Page Up, F5, Shift-Left ... */
    { "ab\033[1;2Pc\033OPd\033[[Ae\033[Zf", "abcdef" },
    { "abc\033[D\033[3~", "ab" },
    { "one two\033[H\033[3;5~X", "X two" }, /* Ctrl-Delete */
    { "abc\033\rdef", "abc\ndef" },         /* Alt-Enter */
    { "abc\033\ndef", "abc\ndef" },
    { "abc\033[13;2udef", "abc\ndef" },     /* Shift-Enter of kitty's protocol */
    { "abc\033[27;2;13~def", "abc\ndef" },  /* of modifyOtherKeys */
    { "abc\023\021\017\026\037d", "abcd" }, /* Ctrl-S Ctrl-Q Ctrl-O Ctrl-V Ctrl-_ */
    { "x" E_ACUTE "\177y", "xy" },
    { "xx" FAMILY "\033[D\177y", "xy" FAMILY },
    { "\"\"\"one\rtwo\"\"\"", "one\ntwo" },
    { "\"\"\"\rone\r\rtwo\r\"\"\"", "one\n\ntwo" },
    { "\033[200~one\r\ntwo\tthree\007\r\033[201~", "one\ntwo\tthree" },
    { "\033[200~/not a command\r\033[31mred\033[201~", "/not a command\n[31mred" },
    { "\377\303(", "\357\277\275\357\277\275(" },
};

static void test_messages(void)
{
    struct at_prompt a = { 0 };
    test_case("the prompt stands");
    begin(&a, 60, 20);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("keys of row %u: %s", i, rows[i].message);
        pty_type(&a.pty, rows[i].keys);
        pty_type(&a.pty, "\r");
        CHECK_STR(message(&a), rows[i].message);
    }
    test_case("Escape alone does nothing");
    pty_type(&a.pty, "ab\033");
    pty_wait(&a.pty, 700);
    pty_type(&a.pty, "c\r");
    CHECK_STR(message(&a), "abc");
    test_case("a sequence in pieces is one key");
    const char *const pieces[] = { "one two\033", "[1", ";5", "DX\r" };
    for (uint32_t i = 0; i < ARRAY_LEN(pieces); i++) {
        pty_type(&a.pty, pieces[i]);
        pty_wait(&a.pty, 20);
    }
    CHECK_STR(message(&a), "one Xtwo");
    test_case("16 kB with 300 lines, pasted: one message");
    char want[16384] = "", paste[32768];
    for (int i = 0; i < 300; i++)
        snprintf(want + strlen(want), sizeof want - strlen(want),
                 "%sline %d of a text that goes on for some more words", i ? "\n" : "", i);
    snprintf(paste, sizeof paste, "\033[200~%s\n\033[201~", want);
    pty_type(&a.pty, paste);
    pty_wait(&a.pty, 50);
    pty_type(&a.pty, "\r");
    CHECK_MSG(strcmp(message(&a), want) == 0, "another text");
    test_case("Ctrl-D leaves, and the terminal is as it was found");
    CHECK_EQ(leave(&a), 0);
}

/* ---- the screen ------------------------------------------------------------------------------ */

static void test_editing_screen(void)
{
    struct at_prompt a = { 0 };
    struct pty *p = &a.pty;
    test_case("editing in the middle of a line");
    begin(&a, 20, 8);
    pty_type(p, "one two");
    CHECK_SHOWS(p, ">>> one two|\n");
    pty_type(p, "\033[1;5Dand ");
    CHECK_SHOWS(p, ">>> one and |two\n");
    test_case("a line that has grown past the edge, and shrinks again");
    pty_type(p, "then some ");
    CHECK_SHOWS(p, ">>> one and then som\ne |two\n");
    pty_type(p, "\001\013");
    CHECK_SHOWS(p, ">>> |\n");
    pty_type(p, "0123456789abcdef");
    CHECK_SHOWS(p, ">>> 0123456789abcdef\n|\n");
    pty_type(p, "\177");
    CHECK_SHOWS(p, ">>> 0123456789abcde|\n");
    pty_type(p, "\025");
    test_case("lines of the message; up and down");
    pty_type(p, "first\033\rsecond\033[A");
    CHECK_SHOWS(p, ">>> first|\n... second\n");
    pty_type(p, "!\033[B\033[D\033[D");
    CHECK_SHOWS(p, ">>> first!\n... seco|nd\n");
    pty_type(p, "\r");
    CHECK_SHOWS(p, ">>> first!\n... second\n>>> |\n");
    CHECK_STR(message(&a), "first!\nsecond");
    test_case("the history brings it back whole");
    pty_type(p, "\033[A");
    CHECK_SHOWS(p, ">>> first!\n... second\n>>> first!\n... second|\n");
    pty_type(p, "\033[B");
    CHECK_SHOWS(p, ">>> first!\n... second\n>>> |\n");
    test_case("Ctrl-R searches");
    pty_type(p, "\022s");
    CHECK_SHOWS(p, ">>> first!\n... second\n(\"s\" before) fir|st!\n... second\n");
    pty_type(p, "x");
    CHECK_SHOWS(p, ">>> first!\n... second\n(no \"sx\") fir|st!\n... second\n");
    pty_type(p, "\007");
    CHECK_SHOWS(p, ">>> first!\n... second\n>>> |\n");
    test_case("Ctrl-L clears the screen");
    pty_type(p, "x\014");
    CHECK_SHOWS(p, ">>> x|\n");
    test_case("Tab twice lists what there is");
    pty_type(p, "\177/s\t\t");
    CHECK_SHOWS(p, ">>> /s\n/save   /stats\n/set\n>>> /s|\n");
    pty_type(p, "e\t");
    CHECK_SHOWS(p, ">>> /s\n/save   /stats\n/set\n>>> /set |\n");
    pty_type(p, "\025");
    CHECK_EQ(leave(&a), 0);
}

static void test_tall(void)
{
    struct at_prompt a = { 0 };
    test_case("a message taller than the screen: the part around the cursor, all of it when sent");
    begin(&a, 20, 4);
    pty_type(&a.pty, "1\033\r2\033\r3\033\r4\033\r5\033\r6");
    CHECK_SHOWS(&a.pty, "... 3\n... 4\n... 5\n... 6|\n");
    pty_type(&a.pty, "\033[A\033[A\033[A\033[A");
    CHECK_SHOWS(&a.pty, "... 2|\n... 3\n... 4\n... 5\n");
    pty_type(&a.pty, "\033[A\001x");
    CHECK_SHOWS(&a.pty, ">>> x|1\n... 2\n... 3\n... 4\n");
    pty_type(&a.pty, "\r");
    CHECK_STR(message(&a), "x1\n2\n3\n4\n5\n6");
    CHECK_SHOWS(&a.pty, "... 4\n... 5\n... 6\n>>> |\n");
    CHECK_EQ(leave(&a), 0);
}

/* Terminals differ in the columns that they give an emoji of several parts. */
static void test_wide(void)
{
    for (int joins = 0; joins < 2; joins++) {
        struct at_prompt a = { 0 };
        struct pty *p = &a.pty;
        test_case("accents, wide characters and emoji on a terminal that %s their parts",
                  joins ? "joins" : "shows");
        begin(&a, 20, 8);
        p->screen.joins = joins;
        pty_type(p, "a" E_ACUTE KANJI FAMILY "z");
        CHECK_SHOWS(p, ">>> a" E_ACUTE KANJI FAMILY "z|\n");
        pty_type(p, "\033[D\033[D");
        CHECK_SHOWS(p, ">>> a" E_ACUTE KANJI "|" FAMILY "z\n");
        pty_type(p, "\177\033[C");
        CHECK_SHOWS(p, ">>> a" E_ACUTE FAMILY "|z\n");
        pty_type(p, "\177b");
        CHECK_SHOWS(p, ">>> a" E_ACUTE "b|z\n");
        pty_type(p, "\033[D\177\r");
        CHECK_SHOWS(p, ">>> abz\n>>> |\n");
        CHECK_STR(message(&a), "abz");
        pty_type(p, "0123456789abcde" KANJI "x\033[D\033[D");
        CHECK_SHOWS(p, ">>> abz\n>>> 0123456789abcde\n|" KANJI "x\n");
        pty_type(p, "\r");
        CHECK_STR(message(&a), "0123456789abcde" KANJI "x");
        CHECK_EQ(leave(&a), 0);
    }
}

static void test_resize(void)
{
    struct at_prompt a = { 0 };
    struct pty *p = &a.pty;
    test_case("a new size, with the cursor in a wrapped line");
    begin(&a, 30, 12);
    pty_type(p, "before\r");
    CHECK_STR(message(&a), "before");
    pty_type(p, "one two three four five six seven\033[1;5D\033[1;5D");
    CHECK_SHOWS(p, ">>> before\n>>> one two three four five |si\nx seven\n");
    pty_resize(p, 16);
    CHECK_SHOWS(p, ">>> before\n>>> one two thre\ne four five |six \nseven\n");
    pty_resize(p, 11);
    CHECK_SHOWS(p, ">>> before\n>>> one two\n three four\n five |six s\neven\n");
    pty_resize(p, 50);
    CHECK_SHOWS(p, ">>> before\n>>> one two three four five |six seven\n");
    pty_type(p, "X\r");
    CHECK_STR(message(&a), "one two three four five Xsix seven");
    CHECK_EQ(leave(&a), 0);
}

/* ---- colours, pastes, dumb terminals --------------------------------------------------------- */

static void test_no_color(void)
{
    for (int no = 0; no < 2; no++) {
        struct at_prompt a = { .no_color = no ? "1" : NULL };
        test_case("%s: a paste is one message", no ? "NO_COLOR" : "with colours");
        begin(&a, 40, 8);
        CHECK(a.pty.screen.pastes);
        CHECK_MSG((a.pty.screen.n_colored > 0) == !no, "%u colours", a.pty.screen.n_colored);
        pty_type(&a.pty, "\033[200~one\rtwo\rthree\r\033[201~");
        CHECK_SHOWS(&a.pty, ">>> one\n... two\n... three|\n");
        pty_type(&a.pty, "\r");
        CHECK_STR(message(&a), "one\ntwo\nthree");
        pty_type(&a.pty, "\003");
        CHECK_SHOWN(&a.pty, "Ctrl-D");
        CHECK_EQ(a.pty.screen.n_colored == 0, no);
        pty_type(&a.pty, "\004");
        pty_to_end(&a.pty);
        CHECK(!a.pty.screen.pastes && pty_is_found(&a.pty));
        CHECK_EQ(end(&a), 0);
    }
    struct at_prompt a = { .term = "dumb", .prefill = "before " };
    test_case("TERM=dumb: no sequence at all, and lines are edited by the terminal");
    begin(&a, 40, 8);
    pty_type(&a.pty, "Hellp\177o!\n");
    CHECK_STR(message(&a), "Hello!");
    pty_type(&a.pty, "\"\"\"one\n");
    CHECK_SHOWN(&a.pty, "... |");
    pty_type(&a.pty, "two\"\"\"\n");
    CHECK_STR(message(&a), "one\ntwo");
    pty_type(&a.pty, "report\n");
    CHECK_STR(message(&a), "report");
    pty_type(&a.pty, "after\n");
    CHECK_STR(message(&a), "after");
    test_case("TERM=dumb: progress is no line of its own");
    CHECK_SHOWN(&a.pty, "a note of"); /* what was written may still be on its way */
    char *text = screen_mem_text(&a.pty.screen);
    CHECK_MSG(strstr(text, "a note of") && !strstr(text, "half done"), "%s", text);
    free(text);
    CHECK(!a.pty.screen.pastes && a.pty.screen.n_colored == 0);
    CHECK_EQ(leave(&a), 0);
}

static int exec_wrong_flag(void *user)
{
    (void)user;
    execl(program_path("hlm-chat"), "hlm-chat", "--no\033[31mpe", (char *)NULL);
    return 99;
}

/* The screen fails the case where a sequence comes that hlm-chat never sends. */
static void test_messages_clean(void)
{
    struct at_prompt a = { 0 };
    test_case("no message brings a terminal anything but text");
    begin(&a, 60, 12);
    pty_type(&a.pty, "report\r");
    CHECK_SHOWN(&a.pty, "test: an error of [31mred.txt\ntest: a mistake in [5mb\357\277\275c\n"
                        "test: warning: a warning of x\na note of ]0;titley\n");
    CHECK_EQ(leave(&a), 0);
    test_case("nor do wrong flags");
    struct pty p;
    pty_start(&p, 60, 12, exec_wrong_flag, NULL);
    CHECK_SHOWN(&p, "hlm-chat: unknown flag '--no[31mpe'");
    CHECK_EQ(pty_end(&p), 2);
}

/* ---- signals --------------------------------------------------------------------------------- */

static void test_interrupt(void)
{
    struct at_prompt a = { 0 };
    struct pty *p = &a.pty;
    test_case("Ctrl-C clears the line; the next one only says how to leave");
    begin(&a, 60, 12);
    pty_type(p, "some text\003");
    CHECK_SHOWS(p, ">>> some text^C\n>>> |\n");
    pty_type(p, "\003");
    CHECK_SHOWN(p, "(Ctrl-C once more, Ctrl-D or /exit to leave)\n>>> |\n");
    test_case("one that is held down does not leave, nor one after another key");
    pty_type(p, "\003\003\003\003");
    pty_type(p, "x\003\003");
    pty_type(p, "here\r");
    CHECK_STR(message(&a), "here");
    test_case("a deliberate one after the notice leaves");
    pty_type(p, "\003");
    CHECK_SHOWN(p, ">>> here\n>>> ^C\n");
    pty_wait(p, 400);
    pty_type(p, "\003");
    CHECK_EQ(end(&a), 0);

    test_case("SIGINT in the midst of a paste clears the line");
    a = (struct at_prompt){ 0 };
    begin(&a, 60, 12);
    pty_type(&a.pty, "some\033[200~pasted");
    CHECK_SHOWS(&a.pty, ">>> some|\n"); /* the paste is being read */
    kill(a.pty.pid, SIGINT);
    CHECK_SHOWS(&a.pty, ">>> some^C\n>>> |\n");
    pty_type(&a.pty, "\033[201~next\r");
    CHECK_STR(message(&a), "next");
    CHECK_EQ(leave(&a), 0);
    test_case("SIGTERM at the prompt");
    a = (struct at_prompt){ 0 };
    begin(&a, 60, 12);
    kill(a.pty.pid, SIGTERM);
    CHECK_EQ(end(&a), 0);
    test_case("Ctrl-\\ leaves the terminal as it was found");
    a = (struct at_prompt){ 0 };
    begin(&a, 60, 12);
    pty_type(&a.pty, "\034");
    pty_to_end(&a.pty);
    CHECK(pty_is_found(&a.pty));
    CHECK_EQ(end(&a), 128 + SIGQUIT);

    static const int ends[] = { SIGPIPE, SIGABRT, SIGILL }; /* sanitizers leave these alone */
    for (uint32_t i = 0; i < ARRAY_LEN(ends); i++) {
        test_case("signal %d leaves the terminal as it was found", ends[i]);
        a = (struct at_prompt){ 0 };
        begin(&a, 60, 12);
        kill(a.pty.pid, ends[i]);
        pty_to_end(&a.pty);
        CHECK(pty_is_found(&a.pty));
        CHECK_EQ(end(&a), 128 + ends[i]);
    }
    test_case("a signal that was ignored is ignored still");
    a = (struct at_prompt){ .ignored = SIGPIPE };
    begin(&a, 60, 12);
    kill(a.pty.pid, SIGPIPE);
    pty_type(&a.pty, "here\r");
    CHECK_STR(message(&a), "here");
    CHECK_EQ(leave(&a), 0);
}

static void test_stopped(void)
{
    struct at_prompt a = { .shell = true };
    test_case("Ctrl-Z and fg: the line is drawn again, and edited");
    begin(&a, 60, 12);
    pty_type(&a.pty, "one two\032");
    CHECK_SHOWS(&a.pty, ">>> one two\nstopped\n>>> one two|\n");
    CHECK(!pty_is_found(&a.pty));
    pty_type(&a.pty, "\033[1;5DX\r");
    CHECK_STR(message(&a), "one Xtwo");
    test_case("Ctrl-Z and fg while the program works");
    pty_type(&a.pty, "work\r");
    CHECK_SHOWN(&a.pty, "working");
    pty_type(&a.pty, "\032");
    CHECK_SHOWN(&a.pty, "workingstopped\n");
    while (pty_is_found(&a.pty) && !pty_ended(&a.pty)) /* until it goes on */
        pty_wait(&a.pty, 1);
    test_case("what is typed while it works is not shown there, and stands in the next line");
    pty_type(&a.pty, "next\033[D\033[DX");
    pty_wait(&a.pty, 100);
    CHECK_SHOWN(&a.pty, "stopped\n|");
    CHECK(write(a.go[1], "", 1) == 1);
    CHECK_STR(message(&a), "work");
    CHECK_SHOWN(&a.pty, ">>> neX|xt\n");
    pty_type(&a.pty, "\025\013");
    test_case("what is pasted while it works is one message");
    pty_type(&a.pty, "work\r");
    CHECK_SHOWN(&a.pty, "working|");
    CHECK(a.pty.screen.pastes);
    pty_type(&a.pty, "\033[200~one\rtwo\r\033[201~");
    CHECK(write(a.go[1], "", 1) == 1);
    CHECK_STR(message(&a), "work");
    pty_type(&a.pty, "\r");
    CHECK_STR(message(&a), "one\ntwo");
    test_case("Ctrl-Z and fg: a message of two rows stands there once");
    pty_type(&a.pty, "\014one\033\rtwo\032");
    CHECK_SHOWS(&a.pty, ">>> one\n... two\nstopped\n>>> one\n... two|\n");
    pty_type(&a.pty, "\003");
    CHECK_EQ(leave(&a), 0);

    test_case("Ctrl-Z where no shell is that it could be stopped into: every key still works");
    a = (struct at_prompt){ 0 };
    begin(&a, 60, 12);
    pty_type(&a.pty, "one two\032");
    CHECK_SHOWS(&a.pty, ">>> one two\n>>> one two|\n");
    pty_type(&a.pty, "\033[1;5DX");
    CHECK_SHOWS(&a.pty, ">>> one two\n>>> one X|two\n");
    pty_type(&a.pty, "\r");
    CHECK_STR(message(&a), "one Xtwo");
    CHECK_EQ(leave(&a), 0);
}

static void test_editor(void)
{
    const char *script = scratch("editor.sh");
    char command[200];
    spill(script, "printf ' of several\\nlines\\n' >>\"$1\"\n");
    snprintf(command, sizeof command, "sh %s", script);
    struct at_prompt a = { .editor = command };
    test_case("Ctrl-X Ctrl-E: an editor changes the message");
    begin(&a, 60, 12);
    pty_type(&a.pty, "a message\033[D\030\005");
    CHECK_SHOWN(&a.pty, ">>> a message of several\n... lines|\n");
    pty_type(&a.pty, "\r");
    CHECK_STR(message(&a), "a message of several\nlines");
    CHECK_EQ(leave(&a), 0);
    test_case("without one it says what to set");
    a = (struct at_prompt){ 0 };
    begin(&a, 60, 12);
    pty_type(&a.pty, "a message\030\005");
    CHECK_SHOWN(&a.pty, ">>> a message\ntest: no editor: set VISUAL or EDITOR\n>>> a message|\n");
    pty_type(&a.pty, "\025");
    CHECK_EQ(leave(&a), 0);
}

static void test_history_kept(void)
{
    const char *path = scratch("prompt_history");
    struct at_prompt a = { .history = path }, b = { .history = path };
    test_case("two programs at once: the history has the messages of both");
    begin(&a, 60, 12);
    begin(&b, 60, 12);
    pty_type(&a.pty, "from the first\r");
    message(&a);
    pty_type(&b.pty, "from the second\r");
    message(&b);
    pty_type(&a.pty, "the first again\r");
    message(&a);
    CHECK_EQ(leave(&a), 0);
    CHECK_EQ(leave(&b), 0);
    a = (struct at_prompt){ .history = path };
    begin(&a, 60, 12);
    pty_type(&a.pty, "\033[A\033[A");
    CHECK_SHOWS(&a.pty, ">>> from the second|\n");
    pty_type(&a.pty, "\033[A\033[B\033[B");
    CHECK_SHOWS(&a.pty, ">>> the first again|\n");
    pty_type(&a.pty, "\025");
    CHECK_EQ(leave(&a), 0);
}

void test_prompt(void)
{
    test_messages();
    test_editing_screen();
    test_tall();
    test_wide();
    test_resize();
    test_no_color();
    test_messages_clean();
    test_interrupt();
    test_stopped();
    test_editor();
    test_history_kept();
}
