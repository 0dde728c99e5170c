/* common: what the programs share - messages, JSON lines, signals, the progress bar, numbers,
 * folders.
 *
 * Standard output carries answers and results alone. Everything else goes to standard error through
 * the calls below: errors and warnings always; notes (progress, statistics) only on a terminal or
 * with -v. The environment is read here and in no other file. Flags are in common_flags.h. */
#pragma once
#include "common_base.h"

#include <stdio.h>

enum { RC_OK = 0, RC_FAILED = 1, RC_USAGE = 2, RC_INTERRUPTED = 130 };

enum ui_color { COLOR_AUTO, COLOR_ON, COLOR_OFF }; /* in the order of the flag's words */

/* One process, one terminal, one log: the only global of the programs. Filled by flags_read. */
struct ui {
    const char *program;
    bool verbose;         /* -v */
    const char *device;   /* --device */
    const char *log_json; /* --log-json */
    char flags[2048];     /* of the command line, as in a ring (ring.h) */
    bool force;           /* --force */
    bool tty;             /* standard error is a terminal */
    bool out_tty;         /* standard output is */
    bool escapes;         /* terminals take escapes: TERM is set and not "dumb" */
    int color_choice;     /* --color: an enum ui_color */
    bool color;           /* standard error is such a terminal, and colours are wanted */
};
extern struct ui ui;

/* Fills what ui says of the streams and the program; ui_start does it too. */
void ui_look(const char *program);
/* Opens --log-json and installs the signal handlers. Reports its failures itself. */
bool ui_start(const char *program);
/* Flushes standard output, writes the last event. rc, or RC_FAILED when results could not be
 * written. */
int ui_end(int rc);

/* ---- messages -------------------------------------------------------------------------------- */

void ui_error(const char *fmt, ...) UI_PRINTF(1, 2); /* "hlm-chat: ..." and an event */
/* The same for a mistake in what a person typed: it is no error of the program's and counts as
 * none. */
void ui_wrong(const char *fmt, ...) UI_PRINTF(1, 2);
/* Shows the error, unless a callback asked to stop. RC_INTERRUPTED then, else RC_FAILED. */
int ui_failed(const struct hlm_err *err);
/* As the log's warnings and its information: shown always, and with -v; an event. */
void ui_warn(const char *fmt, ...) UI_PRINTF(1, 2);
void ui_info(const char *fmt, ...) UI_PRINTF(1, 2);
struct hlm_log ui_log(void); /* the same for the messages of an object of the library */
void ui_note(const char *fmt, ...) UI_PRINTF(1, 2); /* dim; on a terminal or with -v */
void ui_say(const char *fmt, ...) UI_PRINTF(1, 2);  /* what a person asked for: always shown */
bool ui_notes(void);                                /* would ui_note show anything? */
/* Text from outside, whole UTF-8 characters of it, as it stands; on a terminal cleaned (ui_clean):
 * what a model or a file says may come from anywhere. All calls above print their messages so. */
void ui_text(FILE *to, const char *s, uint64_t n);
/* Such text as a stream on standard error, dim where possible; ui_undim ends the colour. */
void ui_dim(const char *s, uint64_t n);
void ui_undim(void);

/* One line of --log-json: {"event":..., "t": seconds since the start, ...}. fmt and what follows
 * are json_pack's, an object. Does nothing without --log-json. */
void ui_event(const char *event, const char *fmt, ...);

/* Whether a file of this kind may be written to the path (ui_may_replace); with --force it may
 * replace any ordinary file. Says that an earlier one will be replaced. False: the reason is shown,
 * and the exit code is RC_USAGE. */
bool ui_may_write(const char *path, enum file_kind kind);

/* ---- signals --------------------------------------------------------------------------------- */

/* Ctrl-C only leaves a mark, which loops look at. The third one since the last look ends the
 * process, so that a stuck driver does not hold the terminal. SIGTERM and SIGHUP mark for good. */
bool ui_interrupted(void);
void ui_interrupt_clear(void);
bool ui_terminated(void);
/* Called before a signal ends the process at once, in its handler. */
void ui_before_kill(void (*fn)(void));
/* From now on the second Ctrl-C ends the process: for work that takes a while to stop well. */
void ui_interrupt_twice(void);

/* ---- progress -------------------------------------------------------------------------------- */

/* A bar on the last line of the terminal, drawn once work has taken longer than half a second. With
 * `lines`, where there is no such line: a line of text after ten seconds, then twice a minute. */
struct bar {
    const char *what; /* "loading" */
    bool bytes;       /* show sizes, not counts */
    const char *unit; /* of a count, "tok": the speed is in tok/s; NULL: none is named */
    bool lines;
    double start_s, drawn_s; /* zero both to begin */
};
bool bar_progress(void *bar, uint64_t done,
                  uint64_t total); /* an hlm_progress; false once interrupted */
void bar_clear(void);              /* takes a bar off the screen, if there is one */
/* A line in the bar's place: it overwrites what stood there, and what is printed next takes it off.
 * Where the terminal has no such lines, a note with -v and nothing else: what must be seen has a
 * line of its own. */
void ui_status(const char *fmt, ...) UI_PRINTF(1, 2);
unsigned ui_columns(FILE *of); /* of the terminal that it is; 80 where that is not known */
bool ui_has_line(void);        /* has the terminal lines that can be overwritten? */

/* ---- models ---------------------------------------------------------------------------------- */

/* hlm_open with --device, the cache folder, the log and a bar. NULL: *rc is set and the reason is
 * shown. */
hlm *ui_open_model(struct hlm_params params, int *rc);
/* hlm_load of one that was opened dry; the same on failure. */
bool ui_load_model(hlm *m, int *rc);
void ui_kernels(hlm *m);   /* time per kernel, where it is taken; always shown */
int ui_list_devices(void); /* --list-devices: a table on standard output; the exit code */

/* ---- numbers, text, folders ------------------------------------------------------------------ */

struct num {
    char s[24];
};
struct num num_bytes(uint64_t n); /* "4.6 MiB" */
struct num num_short(uint64_t n); /* "4.2 M" */
/* A device's name, up to size bytes of it, without the versions in brackets after it. */
const char *device_name(const char *name, char *out, uint64_t size);
struct span {
    char s[48];
};
struct span span_text(double s); /* "3 h 20 min" */
struct num ui_day(void); /* "2026-11-30"; SOURCE_DATE_EPOCH sets it for reproducible builds */

/* All of standard input, terminated. NULL with a reason. */
char *read_stdin(uint64_t *n, struct hlm_err *err);

/* $XDG_CACHE_HOME/hlm or ~/.cache/hlm, made when missing; NULL when there is none. Static memory.
 */
const char *dir_cache(void);
/* $XDG_STATE_HOME/hlm or ~/.local/state/hlm: the line history lives here. */
const char *dir_state(void);
/* $XDG_CONFIG_HOME/hlm or ~/.config/hlm: what a window looked like. */
const char *dir_config(void);
const char *dir_home(void); /* $HOME; NULL: not set */
/* The i-th folder where models may be: those of HLM_MODELS, hlm's own, llama.cpp's, LM Studio's and
 * ollama's. Empty where it is not set. ollama: it has manifests and blobs. False: there are no
 * more. */
bool models_folder(uint32_t i, char *out, uint64_t size, bool *ollama);
/* $XDG_CONFIG_HOME/hlm/config or ~/.config/hlm/config, there or not; NULL: there is no such folder.
 * Static memory. */
const char *config_path(void);
/* $VISUAL or $EDITOR; NULL: neither is set. */
const char *ui_editor(void);
