/* test_terminal: hlm-chat at a terminal, on a device - what stays on the screen, what commands put
 * into the line, leaving and going on with a conversation. The line editor itself is test_prompt's.
 */
#define _XOPEN_SOURCE 700
#include "pty.h"
#include "run.h"
#include "ui/chat_prose.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct gpu;

/* ---- the program ----------------------------------------------------------------------------- */

/* A folder for what the program keeps between runs: an absolute path, as XDG has it. */
static const char *state_folder(const char *name)
{
    static char path[PATH_MAX + 64];
    char tmp[PATH_MAX];
    HLM_ASSERT(realpath(test_tmp(), tmp));
    snprintf(path, sizeof path, "%s/%s", tmp, name);
    return path;
}

static int exec_chat(void *flags)
{
    char words[512], *argv[32];
    uint32_t n = 0;
    snprintf(words, sizeof words, "hlm-chat -m " DEMO " --temp 0 %s", (const char *)flags);
    for (char *w = strtok(words, " "); w && n + 1 < ARRAY_LEN(argv); w = strtok(NULL, " "))
        argv[n++] = w;
    argv[n] = NULL;
    const char *path = program_path("hlm-chat");
    setenv("XDG_STATE_HOME", state_folder("state"), 1);
    setenv("TERM", "xterm-256color", 1);
    unsetenv("NO_COLOR");
    execv(path, argv);
    return 99;
}

static void begin(struct pty *p, const char *flags)
{
    test_tmp(); /* made here, not by the child for itself */
    pty_start(p, 80, 40, exec_chat, (void *)(uintptr_t)flags);
    CHECK_SHOWN(p, "\n>>> |\n");
}

/* ---- a conversation -------------------------------------------------------------------------- */

/* After a message that says a name. */
static void test_save_and_tab(struct pty *p)
{
    struct stat st;
    test_case("/save alone: a name of its own, and the same one again");
    char name[64];
    time_t now = time(NULL);
    strftime(name, sizeof name, "chat-%Y-%m-%d-my-name-is-anna.hlm", localtime(&now));
    if (access(name, F_OK) != 0) {
        char want[200];
        pty_type(p, "\014/save\r");
        snprintf(want, sizeof want, "tokens to %s\n>>> |\n", name);
        CHECK_SHOWN(p, want);
        pty_type(p, "/save\r");
        CHECK_SHOWN(p, "my-name-is-anna.hlm, in place of the ");
        CHECK(stat(name, &st) == 0 && (st.st_mode & 07777) == 0600);
        unlink(name);
    }

    test_case("Tab completes commands, settings and paths");
    pty_type(p, "\014/exp\tREAD\t");
    CHECK_SHOWS(p, ">>> /export README.md |\n");
    pty_type(p, "\025/set te\t");
    CHECK_SHOWS(p, ">>> /set temp |\n");
    pty_type(p, "\025/lora models/demo/hlm-demo-q8\t");
    CHECK_SHOWS(p, ">>> /lora models/demo/hlm-demo-q8_0.gguf |\n");
    pty_type(p, "\025/think s\t");
    CHECK_SHOWS(p, ">>> /think show |\n");
    pty_type(p, "\025/quit\r");
}

/* path: where the conversation before this one is kept. */
static void test_continued(const char *path)
{
    struct pty p;
    struct stat st;
    test_case("--continue takes it up, and shows it");
    begin(&p, "--continue");
    CHECK_SHOWN(&p, ">>> My name is Anna.\nNice");
    pty_type(&p, "What is my name?\r");
    CHECK_SHOWN(&p, "Your name is");
    CHECK_SHOWN(&p, "\n>>> |\n"); /* the line of figures before it may be wider than the screen */

    test_case("what is cleared is not kept either; another program's conversation stays");
    pty_type(&p, "\014/clear\r");
    CHECK_SHOWN(&p, "forgot the conversation, also for --continue\n>>> |\n");
    CHECK(stat(path, &st) != 0);
    spill(path, "{\"messages\": []}\n");
    pty_type(&p, "\014/clear\r");
    CHECK_SHOWN(&p, "forgot the conversation");
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
    CHECK(stat(path, &st) == 0);
    unlink(path);
}

static void test_conversation(void)
{
    struct pty p;
    struct stat st;
    char path[PATH_MAX + 128];
    test_case("a turn at the terminal");
    begin(&p, "");
    pty_type(&p, "Hello!\r");
    CHECK_SHOWN(&p, ">>> Hello!\nHello! ");
    CHECK_SHOWN(&p, "]\n>>> |\n");

    test_case("Ctrl-C never loses a conversation: clear, notice, and still there");
    pty_type(&p, "some text\003\003\003\003");
    CHECK_SHOWN(&p, ">>> some text^C\n>>> ^C\n(Ctrl-C once more, Ctrl-D or /exit to leave)\n");
    pty_type(&p, "/history\r");
    CHECK_SHOWN(&p, ">>> /history\n>>> Hello!\nHello! ");

    test_case("/edit: the last message in the line; Ctrl-C leaves it as it was");
    pty_type(&p, "\014/edit\r");
    CHECK_SHOWN(&p, "edit> Hello!|\n");
    pty_type(&p, "\003");
    CHECK_SHOWN(&p, "edit> Hello!^C\n>>> |\n");
    pty_type(&p, "/edit\r");
    CHECK_SHOWN(&p, ">>> /edit\nedit> Hello!|\n");
    pty_type(&p, "\025My name is Anna.\r");
    CHECK_SHOWN(&p, "\n>>> |\n"); /* the line of figures before it may be wider than the screen */

    test_case("/undo gives the text back");
    pty_type(&p, "/undo\r");
    CHECK_SHOWN(&p, "forgot the last turn; 0 are left\n>>> My name is Anna.|\n");
    pty_type(&p, "\r");
    CHECK_SHOWN(&p, "Anna.\nNice");
    CHECK_SHOWN(&p, "\n>>> |\n"); /* the line of figures before it may be wider than the screen */

    test_save_and_tab(&p);

    test_case("the conversation is kept on leaving, for its owner alone");
    CHECK_EQ(pty_end(&p), 0);
    snprintf(path, sizeof path, "%s/hlm/last.json", state_folder("state"));
    CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);

    test_continued(path);
}

static void test_typed_ahead(void)
{
    struct pty p;
    test_case("what is typed during an answer stands in the next line, not in the answer");
    begin(&p, "");
    pty_type(&p, "Tell me a story.\rHello!");
    CHECK_SHOWN(&p, "left]\n>>> Hello!|\n");
    char *text = screen_mem_text(&p.screen);
    CHECK_EQ(strstr(strstr(text, "Hello!") + 1, "Hello!") != NULL, false);
    free(text);

    test_case("SIGTERM at the prompt: 143, and the terminal as it was found");
    kill(p.pid, SIGTERM);
    pty_to_end(&p);
    CHECK(pty_is_found(&p));
    CHECK_EQ(pty_end(&p), 143);
}

/* ---- what is shown --------------------------------------------------------------------------- */

static void take_text(void *user, const char *s, size_t n) { strncat(user, s, n); }

/* An answer at the terminal is that of a pipe, with its lines broken between words. */
static void test_words(void)
{
    struct pty p;
    char want[2048] = "\n";
    test_case("an answer: lines are broken between words");
    struct ran r = run("Tell me a story.", "hlm-chat -m " DEMO " --temp 0");
    struct prose prose = { .put = take_text, .user = want, .cols = 80 };
    prose_text(&prose, r.out, strlen(r.out));
    prose_end(&prose);
    CHECK_MSG(strlen(r.out) > 100, "the answer is too short: %s", r.out);
    begin(&p, "");
    pty_type(&p, "Tell me a story.\r");
    CHECK_SHOWN(&p, want);
    ran_free(&r);

    test_case("/set figures off: no line after the turn; /set raw on and off");
    pty_type(&p, "\014/set figures off\rHello!\r");
    CHECK_SHOWN(&p, "figures is off\n>>> Hello!\nHello! ");
    CHECK_SHOWN(&p, "?\n>>> |\n");
    pty_type(&p, "/set raw on\r");
    CHECK_SHOWN(&p, "raw is on\n>>> |\n");
    pty_type(&p, "/set raw o\t\tff\r");
    CHECK_SHOWN(&p, ">>> /set raw o\non   off\n>>> /set raw off\n");
    CHECK_SHOWN(&p, "raw is off\n>>> |\n");
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
}

static void test_markdown(void)
{
    static const char talk[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"A list, please.\"},"
        "{\"role\": \"assistant\", \"content\": \"## Two things\\n- the **first**\\n"
        "- \\u001b[31mthe\\u0007 \\u009bsecond\\n```\\na*b*c\\n```\\nDone.\"}]}";
    struct pty p;
    char keys[400];
    const char *file = scratch("markdown.json");
    spill(file, talk);
    test_case("Markdown is shown as what it stands for; escapes of the text never arrive");
    begin(&p, "");
    snprintf(keys, sizeof keys, "\014/load %s\r", file);
    pty_type(&p, keys);
    CHECK_SHOWN(&p, ">>> A list, please.\nTwo things\n\342\200\242 the first\n"
                    "\342\200\242 [31mthe second\na*b*c\nDone.\n>>> |\n");
    test_case("--raw: as it stands");
    pty_type(&p, "/set raw on\r\014/history\r");
    CHECK_SHOWN(&p, "## Two things\n- the **first**\n- [31mthe second\n```\na*b*c\n```\nDone.\n");
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
}

static void test_waiting(void)
{
    struct pty p;
    char keys[400];
    const char *file = scratch("long.txt");
    FILE *f = fopen(file, "w");
    HLM_ASSERT(f);
    for (int i = 0; i < 300; i++)
        fputs("The dog sat on the boat. ", f);
    fclose(f);
    test_case("reading a long prompt: a bar with speed and time left");
    begin(&p, "-b 16 -n 3");
    snprintf(keys, sizeof keys, "/file %s Hello!\r", file);
    pty_type(&p, keys);
    CHECK_SHOWN(&p, "s left|\n");
    CHECK_SHOWN(&p, "\n>>> |\n"); /* the line of figures before it may be wider than the screen */
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);

    char before[PATH_MAX];
    test_case("the first start says what it waits for");
    program_path("");
    snprintf(before, sizeof before, "%s", getenv("XDG_CACHE_HOME"));
    setenv("XDG_CACHE_HOME", state_folder("cache"), 1);
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1);
    test_tmp();
    pty_start(&p, 80, 40, exec_chat, "-c 4100");
    CHECK_SHOWN(&p, "preparing kernels for this device, once: ");
    CHECK_SHOWN(&p, "\n>>> |\n");
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
    unsetenv("MESA_SHADER_CACHE_DISABLE");

    test_case("the second start does not");
    pty_start(&p, 80, 40, exec_chat, "-c 4100");
    bool waited = false, ready = false, warned = false;
    for (double until = now_s() + 10; !ready && now_s() < until;) {
        pty_wait(&p, 1);
        char *text = screen_mem_text(&p.screen);
        waited |= strstr(text, "preparing") != NULL;
        ready = strstr(text, "\n>>> |\n") != NULL;
        warned = strstr(text, "warning: -c 4100: models/demo") != NULL; /* trained for 4096 */
        free(text);
    }
    CHECK(ready && !waited);
    CHECK(warned);
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
    setenv("XDG_CACHE_HOME", before, 1);
}

static void test_banner(void)
{
    struct pty p;
    char flags[400];
    test_case("the banner: model, device, adapters, system message, in 80 columns");
    snprintf(flags, sizeof flags, "--lora %s:0.5 -sys Be_kind.",
             demo_adapter(scratch("some.gguf")));
    begin(&p, flags);
    CHECK_SHOWN(&p, " tokens of context\nadapter some.gguf:0.5; a system message; /help lists the "
                    "commands\n>>> |\n");
    char *text = screen_mem_text(&p.screen);
    CHECK_MSG(strncmp(text, "hlm-demo on ", 12) == 0 && n_lines(text) == 3, "%s", text);
    free(text);
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
}

void test_terminal(void)
{
    test_case("a device is there");
    if (!test_gpu())
        return;
    test_conversation();
    test_typed_ahead();
    test_words();
    test_markdown();
    test_waiting();
    test_banner();
    test_case("--continue where nothing was kept");
    char before[PATH_MAX];
    program_path("");
    snprintf(before, sizeof before, "%s", getenv("XDG_STATE_HOME"));
    setenv("XDG_STATE_HOME", state_folder("nothing"), 1);
    struct ran r = run(NULL, "hlm-chat -m " DEMO " --continue -p Hello!");
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "--continue|no conversation|last.json");
    ran_free(&r);
    setenv("XDG_STATE_HOME", before, 1);
}
