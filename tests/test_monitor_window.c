/* test_monitor_window: hlm-monitor as a program - its window on SDL's dummy display, what it
 * remembers, its pictures, its refusals. */
#define _XOPEN_SOURCE 700
#include "monitor/settings.h"
#include "run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static void nap(double s)
{
    time_t whole = (time_t)s;
    nanosleep(&(struct timespec){ whole, (long)((s - (double)whole) * 1e9) }, NULL);
}

static char config[300];

static void put_config(const char *file, const char *text)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", config, file);
    char *slash = strrchr(path, '/');
    *slash = 0;
    mkdir(path, 0700);
    *slash = '/';
    spill(path, text);
}

static const char *log_file(void)
{
    const char *path = scratch("monitor.jsonl");
    spill(path, "{\"event\": \"step\", \"t\": 1.0, \"step\": 1, \"loss\": 2.5}\n"
                "{\"event\": \"step\", \"t\": 2.0, \"step\": 2, \"loss\": 2.25}\n");
    return path;
}

/* ---- what is remembered ---------------------------------------------------------------------- */

static void remembering(void)
{
    struct settings s;
    if (test_case("the window's settings are kept")) {
        const struct settings want = { THEME_LIGHT, 1.5f, -20, 30, 900, 600 };
        settings_write(&want);
        settings_read(&s);
        CHECK(s.theme == THEME_LIGHT && s.scale == 1.5f && s.x == -20 && s.y == 30 && s.w == 900 &&
              s.h == 600);
    }
    if (test_case("settings that make no sense are as if they were not there")) {
        put_config("hlm/monitor",
                   "theme pink\nscale 1e9\nwindow 0 0 5 5\nwindow a\n\xff\nscale nan\n"
                   "window 1 2 99999999999 700\n");
        settings_read(&s);
        CHECK(s.theme == THEME_SYSTEM && s.scale == 0 && s.w == 0);
    }
    if (test_case("the desktop's own colours are found")) {
        CHECK(settings_desktop_dark()); /* nothing is known: dark */
        put_config("kdeglobals", "[General]\nColorScheme=BreezeLight\n");
        CHECK(!settings_desktop_dark());
        put_config("gtk-3.0/settings.ini", "[Settings]\ngtk-theme-name=Adwaita-dark\n");
        CHECK(settings_desktop_dark());
        put_config("gtk-3.0/settings.ini", "[Settings]\ngtk-theme-name=Adwaita\n");
        CHECK(!settings_desktop_dark());
        put_config("gtk-4.0/settings.ini", "[Settings]\ngtk-application-prefer-dark-theme=1\n");
        CHECK(settings_desktop_dark());
    }
}

/* ---- the window ------------------------------------------------------------------------------ */

/* Opens the window for that long. Returns what is then kept of it; the caller frees it. */
static char *opened_for(double s)
{
    char command[400], path[400];
    put_config("hlm/monitor", "theme light\nwindow 5 6 700 500\n");
    snprintf(command, sizeof command, "hlm-monitor --scale 2 %s", log_file());
    const char *err = scratch("monitor.err");
    pid_t pid = start(command, "/dev/null", scratch("monitor.out"), err);
    nap(s);
    double from = now_s();
    if (pid > 0)
        kill(pid, SIGINT);
    int rc = finish(pid);
    double took = now_s() - from;
    char *said = slurp(err);
    CHECK_MSG(rc == 130, "exit code %d: %s", rc, said);
    CHECK_MSG(took < 2 || s > 1, "it took %.1f s to end", took);
    CHECK_STR(said, "");
    free(said);
    snprintf(path, sizeof path, "%s/hlm/monitor", config);
    return slurp(path);
}

static void window(void)
{
    if (test_case("the window opens, and SIGINT ends it at once; how it was left is kept")) {
        setenv("SDL_VIDEODRIVER", "dummy", 1);
        char *kept = NULL;
        /* Before it is open there is nothing to keep, and some machines are slow. */
        for (double s = 0.2; s < 20 && !(kept && strstr(kept, "scale")); s *= 4) {
            free(kept);
            kept = opened_for(s);
        }
        CHECK_SAYS(kept, "theme light|scale 2|window|700 500");
        free(kept);
    }
    if (test_case("without a display it says so")) {
        setenv("SDL_VIDEODRIVER", "x11", 1);
        setenv("DISPLAY", ":3141", 1);
        run_refused(1, "hlm-monitor", "window");
    }
}

/* ---- pictures, refusals ---------------------------------------------------------------------- */

static void pictures(void)
{
    if (test_case("--shot writes one picture of its size, without a display")) {
        char path[300];
        snprintf(path, sizeof path, "%s", scratch("shot.png"));
        struct ran r = run(NULL,
                           "hlm-monitor --shot %s --size 700x450 --scale 1.5 --panel tokens "
                           "--theme dark %s",
                           path, log_file());
        unsigned char head[24] = { 0 };
        FILE *f = fopen(path, "rb");
        CHECK_MSG(r.rc == 0, "exit code %d: %s", r.rc, r.err);
        CHECK(f && fread(head, 1, sizeof head, f) == sizeof head);
        if (f)
            fclose(f);
        CHECK_EQ(head[18] << 8 | head[19], 1050);
        CHECK_EQ(head[22] << 8 | head[23], 675);
        ran_free(&r);
    }
    if (test_case("what it refuses")) {
        char line[400];
        run_refused(2, "hlm-monitor --size 300x200", "--size|300x200|640x400");
        run_refused(2, "hlm-monitor --size wide", "--size|wide|1280x800");
        run_refused(2, "hlm-monitor --panel tokn", "--panel|tokn|tokens");
        run_refused(2, "hlm-monitor --device 0", "--device");
        run_refused(2, "hlm-monitor --force", "--force");
        run_refused(2, "hlm-monitor --log-json x", "--log-json");
        run_refused(1, "hlm-monitor /nowhere/a.jsonl", "/nowhere/a.jsonl");
        const char *mine = scratch("mine.txt");
        spill(mine, "somebody's work\n");
        snprintf(line, sizeof line, "hlm-monitor --shot %s", mine);
        run_refused(1, line, "mine.txt|PNG");
        char *still = slurp(mine);
        CHECK_STR(still, "somebody's work\n");
        free(still);
    }
}

void test_monitor_window(void)
{
    program_path(""); /* sets the environment of programs, once */
    const char *before = getenv("XDG_CONFIG_HOME");
    char *old = before ? strdup(before) : NULL;
    char *root = realpath(test_tmp(), NULL); /* a relative one would not count */
    snprintf(config, sizeof config, "%s/config", root ? root : "");
    free(root);
    mkdir(config, 0700);
    setenv("XDG_CONFIG_HOME", config, 1);
    remembering();
    window();
    pictures();
    unsetenv("SDL_VIDEODRIVER");
    if (old)
        setenv("XDG_CONFIG_HOME", old, 1);
    else
        unsetenv("XDG_CONFIG_HOME");
    free(old);
}
