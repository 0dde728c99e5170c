/* hlm-monitor: a window that shows what hlm's programs do, and what their logs say. */
#include "window.h"

#include "ui/common_flags.h"

#include <string.h>

static struct {
    struct flag_list what;
    bool list;
    int theme;
    float scale;
    const char *shot, *panel, *size;
} o = { .theme = -1 };

#define WORD(name) " " #name
static const struct flag flags[] = {
    { FLAG_GROUP, "What is shown", 0, 0, 0, 0, 0 },
    { FLAG_SWITCH, "--list", NULL, &o.list, 0, 0, "list what can be watched and exit" },
    { FLAG_TEXT, "--panel", "NAME", &o.panel, 0, 0,
      "the panel that is open at first:" PANELS(WORD) },
    { FLAG_GROUP, "How it is shown", 0, 0, 0, 0, 0 },
    { FLAG_CHOICE, "--theme", "system|dark|light", &o.theme, 0, 0,
      "colours (as the window was left; at first those of the desktop)" },
    { FLAG_FLOAT, "--scale", "F", &o.scale, 0.5, 4,
      "size of everything (as the window was left; at first what the display asks for)" },
    { FLAG_GROUP, "One picture, without a window", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "--shot", "FILE.png", &o.shot, 0, 0, "write a picture and exit" },
    { FLAG_TEXT, "--size", "WxH", &o.size, 0, 0, "its size at scale 1 (1280x800)" },
    { FLAG_GROUP, "About", 0, 0, 0, 0, 0 },
};

static const struct program program = {
    .name = "hlm-monitor",
    .usage = "[PID | FILE.jsonl ...] [flags]; --help lists them",
    .about = "Shows what hlm-chat, hlm-tune, hlm-bench and hlm-eval do while they run: state,\n"
             "speed, memory, and what is unusual. Without a PID it shows the newest, and the\n"
             "next one when that begins. A FILE is one that --log-json has written.\n"
             "The key ? in the window lists all keys.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
    .words = &o.what,
    .no_engine = true,
};

static bool read_size(int *w, int *h, struct hlm_err *err)
{
    char end;
    *w = 1280;
    *h = 800;
    if (!o.size)
        return true;
    if (sscanf(o.size, "%dx%d%c", w, h, &end) != 2)
        return ui_fail(err, "--size: '%s' is no size, as in 1280x800", o.size);
    if (*w < FRAME_MIN_W || *h < FRAME_MIN_H || *w > 7680 || *h > 4320)
        return ui_fail(err, "--size: %s is not from %dx%d to 7680x4320", o.size, FRAME_MIN_W,
                       FRAME_MIN_H);
    return true;
}

static bool read_panel(uint32_t *panel, struct hlm_err *err)
{
    const char *names[FRAME_MAX_PANEL + 1] = { 0 };
    int i = o.panel ? panel_index(o.panel) : 0;
    *panel = i > 0 ? (uint32_t)i : 0;
    if (i >= 0)
        return true;
    for (uint32_t k = 0; k < n_panel; k++)
        names[k] = panel_table[k]->name;
    const char *near = ui_nearest(o.panel, names);
    return ui_fail(err, "--panel: there is no panel '%s'; perhaps you mean %s", o.panel,
                   near ? near : names[0]);
}

/* What the line names; without anything, whatever runs. */
static bool watch_named(struct watch *w, int *chosen, struct hlm_err *err)
{
    *chosen = -1;
    watch_follow(w, o.what.n == 0);
    for (uint32_t i = 0; i < o.what.n; i++) {
        uint32_t at;
        if (!watch_add(w, o.what.v[i], &at, err))
            return false;
    }
    /* Indices move while runs are added; the first that was named is the one to show. */
    uint32_t at;
    if (o.what.n && watch_add(w, o.what.v[0], &at, err))
        *chosen = (int)at;
    return true;
}

int main(int argc, char **argv)
{
    int rc, w, h;
    struct hlm_err err = { 0 };
    struct window_params params = { .chosen = -1 };
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!read_size(&w, &h, &err) || !read_panel(&params.panel, &err))
        return usage_error(&program, "%s", err.msg);
    if (o.list)
        return ui_end(process_print_list(stdout));
    settings_read(&params.settings);
    if (o.theme >= 0)
        params.settings.theme = o.theme;
    if (o.shot)
        params.settings.scale = 1;
    if (o.scale > 0)
        params.settings.scale = o.scale;
    struct watch *watch = watch_create();
    if (!watch) {
        ui_error("no memory");
        return ui_end(RC_FAILED);
    }
    if (!watch_named(watch, &params.chosen, &err))
        rc = ui_failed(&err);
    else if (o.shot)
        rc = window_shot(watch, &params, o.shot, w, h);
    else
        rc = window_run(watch, &params);
    watch_destroy(watch);
    return ui_end(rc);
}
