/* test_outputs: what programs write. A file that is there is replaced only by one of its own kind,
 * or with --force; and what is unfinished is removed when a program is stopped. */
#define _POSIX_C_SOURCE 200809L
#include "file/file.h"
#include "hlm_test.h"
#include "pty.h"
#include "run.h"
#include "ui/common.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NOTES "notes of a person\n"
#define TINY "tests/fixtures/train/qwen35/"

/* The same file of notes at each place: the exit code is that of wrong usage, the message names the
 * file and what it should have been, and the notes stand. With --force the program goes on, and
 * fails at `next`. */
static void test_refused(void)
{
    static const struct {
        const char *command, *kind, *next;
    } row[] = {
        { "hlm-tune -m " DEMO " -d /nowhere/d -o %s", "an adapter", "/nowhere/d" },
        { "hlm-tune -m " DEMO " -d /nowhere/d --dump-rows %s", "training rows", "/nowhere/d" },
        { "hlm-tune -m " DEMO " -d /nowhere/d -o /nowhere/a --dump-grads %s", "an adapter",
          "/nowhere/a" },
        { "hlm-tune merge -m " DEMO " --lora /nowhere/a -o %s", "a model", "/nowhere/a" },
        { "hlm-tune merge -m " DEMO " --lora /nowhere/a -o /nowhere/o --gates-only %s",
          "an adapter", "/nowhere/a" },
        { "hlm-tune import -m " DEMO " --peft /nowhere/p -o %s", "an adapter", "/nowhere/p" },
        { "hlm-tune info /nowhere/a --log-json %s", "a log of hlm", "/nowhere/a" },
        { "hlm-eval -m /nowhere/m --tokenize --log-json %s", "a log of hlm", "/nowhere/m" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        const char *path = scratch("notes.txt");
        char command[600];
        test_case("not replaced: %s", row[i].command);
        spill(path, NOTES);
        snprintf(command, sizeof command, row[i].command, path);
        struct ran r = run(NULL, "%s", command);
        CHECK_MSG(r.rc == 2, "%d: %s", r.rc, r.err);
        CHECK_SAYS(r.err, "notes.txt|is there already|--force");
        CHECK_MSG(strstr(r.err, row[i].kind), "%s", r.err);
        ran_free(&r);
        char *text = slurp(path);
        CHECK_STR(text, NOTES);
        free(text);
        r = run(NULL, "%s --force", command);
        CHECK_MSG(r.rc == 1, "%d: %s", r.rc, r.err);
        CHECK_MSG(strstr(r.err, row[i].next), "%s", r.err);
        ran_free(&r);
    }
}

static void test_kinds(void)
{
    const char *a = scratch("kind-a.gguf"), *model = scratch("kind-m.gguf"),
               *folder = scratch("kind-export");
    struct hlm_err err = { 0 };
    uint64_t n = 0;
    char *bytes = file_read(TINY "init-lora.gguf", 1 << 26, &n, &err);
    if (!CHECK_OK(bytes, err))
        return;
    test_case("an adapter does not become a model, nor a model an adapter; each its own kind");
    CHECK_OK(file_write_atomic(a, bytes, n, &err), err);
    struct ran r =
        run(NULL, "hlm-tune merge -m " TINY "model.gguf --lora " TINY "init-lora.gguf -o %s", a);
    CHECK_EQ(r.rc, 2);
    CHECK_SAYS(r.err, "kind-a.gguf|is not a model");
    ran_free(&r);
    for (int i = 0; i < 2; i++) {
        r = run(NULL, "hlm-tune merge -m " TINY "model.gguf --lora " TINY "init-lora.gguf -o %s",
                model);
        CHECK_EQ(r.rc, 0);
        CHECK_MSG((strstr(r.err, "replacing an earlier model") != NULL) == i, "%s", r.err);
        ran_free(&r);
    }
    r = run(NULL, "hlm-tune -m /nowhere/m -d x -o %s", model);
    CHECK_EQ(r.rc, 2);
    CHECK_SAYS(r.err, "kind-m.gguf|is not an adapter");
    ran_free(&r);
    r = run(NULL, "hlm-tune -m /nowhere/m -d x -o %s", a);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "kind-a.gguf|replacing an earlier adapter");
    ran_free(&r);
    free(bytes);

    test_case("an export goes into a new folder or an empty one");
    CHECK(mkdir(folder, 0700) == 0);
    for (int i = 0; i < 2; i++) {
        r = run(NULL, "hlm-tune export -m " TINY "model.gguf --lora " TINY "init-lora.gguf -o %s",
                folder);
        CHECK_MSG(r.rc == (i ? 2 : 0), "%s", r.err);
        if (i)
            CHECK_SAYS(r.err, "kind-export|is there already|empty folder");
        ran_free(&r);
    }
    test_case("an output that is a folder, and one that is empty");
    r = run(NULL, "hlm-tune -m /nowhere/m -d x -o %s --force", folder);
    CHECK_EQ(r.rc, 2);
    CHECK_SAYS(r.err, "kind-export|no ordinary file");
    ran_free(&r);
    folder_remove(folder);
    spill(scratch("kind-empty"), "");
    r = run(NULL, "hlm-tune -m /nowhere/m -d x -o %s", scratch("kind-empty"));
    CHECK_EQ(r.rc, 1);
    ran_free(&r);
}

/* ---- how far it is --------------------------------------------------------------------------- */

/* What these calls write to standard error. */
static char *said_by(struct bar *bar, uint64_t done, uint64_t total)
{
    const char *path = scratch("bar.err");
    fflush(stderr);
    int old = dup(2), to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(old >= 0 && to >= 0 && dup2(to, 2) == 2);
    CHECK(bar_progress(bar, done, total));
    fflush(stderr);
    dup2(old, 2);
    close(old);
    close(to);
    return slurp(path);
}

static void check_said(struct bar *bar, uint64_t done, uint64_t total, const char *want)
{
    char *said = said_by(bar, done, total);
    CHECK_STR(said, want);
    free(said);
}

static void test_lines(void)
{
    enum { ALL = 100 << 20 };
    struct bar bar = { .what = "merging", .bytes = true, .lines = true };
    test_case("off a terminal long work says how far it is, now and then");
    check_said(&bar, 0, ALL, "");
    check_said(&bar, ALL / 8, ALL, ""); /* it may be short */
    bar.start_s -= 20;
    char *said = said_by(&bar, ALL / 4, ALL);
    CHECK_SAYS(said, "merging: 25 %, 25.0 MiB / 100.0 MiB, 1.2 MiB/s, 60 s left");
    CHECK_EQ(n_lines(said), 1);
    free(said);
    check_said(&bar, ALL / 2, ALL, "");
    bar.drawn_s -= 31;
    said = said_by(&bar, ALL / 2, ALL);
    CHECK_SAYS(said, "merging: 50 %");
    free(said);
    bar.drawn_s -= 31;
    check_said(&bar, ALL, ALL, "");
    bar.lines = false; /* of programs whose output is read by others */
    check_said(&bar, ALL / 2, ALL, "");
}

/* ---- stopped --------------------------------------------------------------------------------- */

static uint32_t n_unfinished(const char *begin)
{
    uint32_t n = 0;
    DIR *d = opendir(test_tmp());
    for (struct dirent *e; d && (e = readdir(d));)
        n += !strncmp(e->d_name, begin, strlen(begin));
    if (d)
        closedir(d);
    return n;
}

static int exec_make(void *path)
{
    char *argv[] = { "hlm-bench", "make", "step35-flash", "f16", path, NULL };
    setenv("TERM", "xterm-256color", 1);
    unsetenv("NO_COLOR");
    execv(program_path(argv[0]), argv);
    return 127;
}

/* hlm-bench make writes for minutes; it is stopped once it has said how far it is. */
static void test_stopped(void)
{
    struct pty p;
    char path[300];
    test_case("hlm-bench make: how far it is; stopped by Ctrl-C: 130, and nothing is left");
    snprintf(path, sizeof path, "%s", scratch("huge.gguf"));
    pty_start(&p, 100, 10, exec_make, path);
    CHECK_SHOWN(&p, "writing ...");
    CHECK_SHOWN(&p, " GiB");
    CHECK_EQ(n_unfinished("huge.gguf"), 1);
    pty_type(&p, "\003");
    CHECK_SHOWN(&p, "huge.gguf is not written");
    CHECK_EQ(pty_end(&p), 130);
    CHECK_EQ(n_unfinished("huge.gguf"), 0);

    test_case("files that the library writes go when a handler ends the process");
    struct hlm_err err = { 0 };
    struct file_out *f = file_out_begin(scratch("lib.gguf"), &err),
                    *g = file_out_begin(scratch("lib2.gguf"), &err);
    if (CHECK_OK(f && g, err)) {
        file_out_drop(f);
        CHECK_EQ(n_unfinished("lib"), 1);
        hlm_drop_unfinished();
        CHECK_EQ(n_unfinished("lib"), 0);
    }
    file_out_drop(g);
}

/* ---- the flags of a run ---------------------------------------------------------------------- */

static void test_again(void)
{
    const char *folder = scratch("again");
    char file[300], below[300];
    test_case("run.json is read in its folder, and from a checkpoint in it, if it is hlm-tune's");
    snprintf(file, sizeof file, "%s/run.json", folder);
    CHECK(mkdir(folder, 0700) == 0);
    spill(file, "{\"version\": 1, \"program\": \"hlm-chat\", \"flags\": []}");
    static const char *const at[] = { "", "/step-000002", "/step-000002/" };
    for (uint32_t i = 0; i < ARRAY_LEN(at); i++) {
        struct ran r = run(NULL, "hlm-tune --resume %s%s", folder, at[i]);
        CHECK_EQ(r.rc, 1);
        CHECK_SAYS(r.err, "run.json|hlm-chat|expected a run of hlm-tune");
        ran_free(&r);
        snprintf(below, sizeof below, "%s/step-000002", folder);
        mkdir(below, 0700);
    }
    snprintf(below, sizeof below, "%s/step-2x", folder);
    mkdir(below, 0700);
    struct ran r = run(NULL, "hlm-tune --resume %s", below);
    CHECK_EQ(r.rc, 2); /* there is no run.json in it */
    CHECK_SAYS(r.err, "no model");
    ran_free(&r);
    test_case("--more: an adapter without a note, and what it cannot stand beside");
    r = run(NULL, "hlm-tune -m x -d y -o z --more " TINY "init-lora.gguf");
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "init-lora.gguf|does not say how|--init-lora");
    ran_free(&r);
    r = run(NULL, "hlm-tune -m x -d y -o z --more a --init-lora b");
    CHECK_SAYS(r.err, "--more|--resume|--init-lora");
    CHECK(r.rc != 0);
    ran_free(&r);
    test_case("one of a thing is one");
    spill(scratch("one.jsonl"), "{\"text\": \"a bird\"}\n");
    r = run(NULL, "hlm-tune -m " TINY "model.gguf -d %s --dump-rows %s -v", scratch("one.jsonl"),
            scratch("one.json"));
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "one.json|1 row, 1 document,|count");
    ran_free(&r);
}

void test_outputs(void)
{
    test_again();
    test_refused();
    test_kinds();
    test_lines();
    test_stopped();
}
