/* test_monitor_screen: hlm-monitor as a person has it - in a window on a screen (Xvfb), beside a
 * real hlm-tune that is killed while it is watched, and started anew. What stands on the screen is
 * read from the server's memory. */
#define _XOPEN_SOURCE 700
#include "monitor_fake.h"
#include "monitor_pixels.h"
#include "run.h"
#include "ui/ring.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define W 900
#define H 600

extern char **environ;

static void nap(void) { nanosleep(&(struct timespec){ .tv_nsec = 80000000 }, NULL); }

/* ---- the screen ------------------------------------------------------------------------------ */

struct screen {
    pid_t pid;
    char name[32]; /* of the display */
    const uint8_t *fb;
    size_t bytes;
};

/* The picture is a file in the form of xwd, which the server draws into. */
static bool map_picture(struct screen *s)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/Xvfb_screen0", test_tmp());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *at = fd >= 0 && fstat(fd, &st) == 0
                   ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)
                   : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (!CHECK_MSG(at != MAP_FAILED, "%s cannot be read", path))
        return false;
    s->fb = at;
    s->bytes = (size_t)st.st_size;
    return true;
}

static bool screen_begin(struct screen *s)
{
    char number[16] = "", size[32];
    int out[2];
    snprintf(size, sizeof size, "%dx%dx24", W, H);
    const char *argv[] = { "Xvfb",   "-displayfd", "1",         "-screen", "0", size,
                           "-fbdir", test_tmp(),   "-nolisten", "tcp",     NULL };
    posix_spawn_file_actions_t a;
    if (!CHECK(pipe(out) == 0))
        return false;
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_adddup2(&a, out[1], 1);
    posix_spawn_file_actions_addopen(&a, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclose(&a, out[0]);
    int e = posix_spawnp(&s->pid, argv[0], &a, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&a);
    close(out[1]);
    /* The number comes once the server can be used, and its line end apart. */
    FILE *f = fdopen(out[0], "r");
    bool ready = e == 0 && f && fgets(number, sizeof number, f) && strchr(number, '\n');
    if (f)
        fclose(f);
    if (e != 0)
        test_skip("there is no Xvfb");
    if (e != 0 || !CHECK_MSG(ready, "Xvfb does not start"))
        return false;
    snprintf(s->name, sizeof s->name, ":%d", atoi(number));
    return map_picture(s);
}

static void screen_end(struct screen *s)
{
    if (s->fb)
        munmap((void *)(uintptr_t)s->fb, s->bytes);
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        waitpid(s->pid, NULL, 0);
    }
}

static uint32_t word_at(const struct screen *s, uint32_t i) /* of the head: big-endian */
{
    const uint8_t *b = s->fb + 4 * i;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* What is on the screen now becomes the picture in which text is looked for. */
static bool look(const struct screen *s)
{
    enum { HEAD_BYTES = 0, WIDTH = 4, HEIGHT = 5, LINE_BYTES = 12, N_COLOR = 19, COLOR_BYTES = 12 };
    uint32_t line = word_at(s, LINE_BYTES);
    size_t from = word_at(s, HEAD_BYTES) + (size_t)COLOR_BYTES * word_at(s, N_COLOR);
    if (!CHECK(word_at(s, WIDTH) == W && word_at(s, HEIGHT) == H && line >= 4 * W &&
               from + (size_t)line * H <= s->bytes))
        return false;
    pixels_show();
    for (int y = 0; y < H; y++)
        memcpy((uint8_t *)pic.surface->pixels + (ptrdiff_t)y * pic.surface->pitch,
               s->fb + from + (size_t)line * (size_t)y, 4 * W);
    return true;
}

/* Waits for a word in the list of runs, of one that is chosen or of another. */
static bool comes(const struct screen *s, const char *word, bool gone)
{
    const struct theme *t = theme_get(true);
    for (double until = now_s() + 30; now_s() < until; nap()) {
        if (!look(s))
            return false;
        SDL_Color c = gone ? t->faint : t->muted;
        if (find_text(FACE_SMALL, c, t->raised, word, NULL, NULL) ||
            find_text(FACE_SMALL, c, t->side, word, NULL, NULL))
            return true;
    }
    return FAIL("'%s' does not appear in the list", word);
}

/* ---- the programs ---------------------------------------------------------------------------- */

static pid_t train(const char *data)
{
    char command[800];
    snprintf(command, sizeof command,
             "hlm-tune -m " DEMO " -d %s -o %s --steps 100000 --max-seq 32 --valid 0 -b 1 -r 2 "
             "--force",
             data, scratch("screen.gguf"));
    return start(command, "/dev/null", scratch("screen.out"), scratch("screen.err"));
}

/* Its ring is made to look like one of another version. */
static void check_version(pid_t pid)
{
    char name[64], says[200];
    uint32_t other = RING_VERSION + 7;
    snprintf(name, sizeof name, "/hlm-%lu-%d", (unsigned long)geteuid(), (int)pid);
    int fd = shm_open(name, O_RDWR, 0);
    CHECK(fd >= 0 && pwrite(fd, &other, 4, offsetof(struct ring_head, version)) == 4);
    close(fd);
    snprintf(says, sizeof says, "%d|version|%u.%d|%d.%d", (int)pid, other, HLM_COUNTERS_VERSION,
             RING_VERSION, HLM_COUNTERS_VERSION);
    struct ran r = run(NULL, "hlm-monitor --shot %s %d", scratch("other.png"), (int)pid);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, says);
    CHECK_EQ(n_lines(r.err), 1);
    CHECK(access(scratch("other.png"), F_OK) != 0);
    ran_free(&r);
}

static void watched(const struct screen *s, pid_t monitor)
{
    const char *data = scratch("screen.jsonl");
    spill(data, "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", "
                "\"completion\": \"d\"}\n");
    test_case("a training appears in the window by itself, and its death when it is killed");
    pid_t pid = train(data);
    comes(s, "training", false);
    kill(pid, SIGKILL);
    CHECK_EQ(finish(pid), 128 + SIGKILL);
    comes(s, "died", true);
    test_case("started anew it appears anew; the one that died stays in the list");
    pid = train(data);
    comes(s, "training", false);
    comes(s, "died", true);
    test_case("a running process of another version: one line names both");
    check_version(pid);
    kill(pid, SIGKILL);
    finish(pid);
    test_case("SIGINT ends the window at once");
    double from = now_s();
    kill(monitor, SIGINT);
    CHECK_EQ(finish(monitor), 130);
    CHECK(now_s() - from < 2);
    char *said = slurp(scratch("window.err"));
    CHECK_STR(said, "");
    free(said);
}

void test_monitor_screen(void)
{
    char folder[300], config[400];
    struct screen s = { 0 };
    test_case("a screen");
    SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy"); /* of the pictures with which it is compared */
    if (!test_gpu() || !pixels_begin(W, H, 1))
        return;
    if (screen_begin(&s)) {
        program_path("");
        char *before = strdup(getenv("XDG_CONFIG_HOME")), *root = realpath(test_tmp(), NULL);
        snprintf(folder, sizeof folder, "%s/screen", root ? root : "");
        mkdir(folder, 0700);
        setenv("XDG_CONFIG_HOME", folder, 1);
        snprintf(config, sizeof config, "%s/hlm", folder);
        mkdir(config, 0700);
        snprintf(config, sizeof config, "%s/hlm/monitor", folder);
        spill(config, "theme dark\nscale 1\nwindow 0 0 900 600\n");
        setenv("SDL_VIDEODRIVER", "x11", 1);
        setenv("DISPLAY", s.name, 1);
        pid_t monitor =
            start("hlm-monitor", "/dev/null", scratch("window.out"), scratch("window.err"));
        watched(&s, monitor);
        unsetenv("DISPLAY");
        unsetenv("SDL_VIDEODRIVER");
        setenv("XDG_CONFIG_HOME", before, 1);
        free(before);
        free(root);
    }
    screen_end(&s);
    pixels_end();
}
