/* test_terminal: hlm-chat at a terminal, on a device - what stays on the screen, what commands put
 * into the line, leaving and going on with a conversation. The line editor itself is test_prompt's.
 */
#define _XOPEN_SOURCE 700
#include "pty.h"
#include "run.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static void test_conversation(void)
{
    struct pty p;
    struct stat st;
    char path[PATH_MAX + 128];
    test_case("a turn at the terminal");
    begin(&p, "");
    pty_type(&p, "Hello!\r");
    CHECK_SHOWN(&p, ">>> Hello!\nHello! ");
    CHECK_SHOWN(&p, "left]\n>>> |\n");

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
    CHECK_SHOWN(&p, "left]\n>>> |\n");

    test_case("/undo gives the text back");
    pty_type(&p, "/undo\r");
    CHECK_SHOWN(&p, "forgot the last turn; 0 are left\n>>> My name is Anna.|\n");
    pty_type(&p, "\r");
    CHECK_SHOWN(&p, "Anna.\nNice");
    CHECK_SHOWN(&p, "left]\n>>> |\n");

    test_case("Tab completes commands, settings and paths");
    pty_type(&p, "\014/exp\tREAD\t");
    CHECK_SHOWS(&p, ">>> /export README.md |\n");
    pty_type(&p, "\025/set te\t");
    CHECK_SHOWS(&p, ">>> /set temp |\n");
    pty_type(&p, "\025/lora models/demo/hlm-demo-q8\t");
    CHECK_SHOWS(&p, ">>> /lora models/demo/hlm-demo-q8_0.gguf |\n");
    pty_type(&p, "\025/think s\t");
    CHECK_SHOWS(&p, ">>> /think show |\n");
    pty_type(&p, "\025/quit\r");

    test_case("the conversation is kept on leaving, for its owner alone");
    CHECK_EQ(pty_end(&p), 0);
    snprintf(path, sizeof path, "%s/hlm/last.json", state_folder("state"));
    CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);

    test_case("--continue takes it up, and shows it");
    begin(&p, "--continue");
    CHECK_SHOWN(&p, ">>> My name is Anna.\nNice");
    pty_type(&p, "What is my name?\r");
    CHECK_SHOWN(&p, "Your name is");
    CHECK_SHOWN(&p, "left]\n>>> |\n");
    pty_type(&p, "\004");
    CHECK_EQ(pty_end(&p), 0);
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

void test_terminal(void)
{
    test_case("a device is there");
    if (!test_gpu())
        return;
    test_conversation();
    test_typed_ahead();
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
