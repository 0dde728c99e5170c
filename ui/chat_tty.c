/* chat_tty: see chat_tty.h. */
#define _DEFAULT_SOURCE /* SIGWINCH, TIOCGWINSZ */
#include "chat_tty.h"

#include "common.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <termios.h>
#include <unistd.h>

static struct {
    bool open;
    struct termios found;
    volatile sig_atomic_t mode, resized, continued;
    int paste_fd;
    sigset_t before; /* the mask outside of tty_hold_signals */
} tty = { .paste_fd = -1 };

/* ---- modes: called from signal handlers too -------------------------------------------------- */

static void apply(enum tty_mode mode)
{
    static const char on[] = "\033[?2004h", off[] = "\033[?2004l";
    struct termios t = tty.found;
    if (mode != TTY_FOUND) {
        t.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ECHONL | IEXTEN);
        t.c_iflag &= ~(tcflag_t)(IXON | ICRNL | INLCR | IGNCR);
        t.c_cc[VMIN] = 1;
        t.c_cc[VTIME] = 0;
    }
    if (mode == TTY_RAW)
        t.c_lflag &= ~(tcflag_t)ISIG;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
    if (tty.paste_fd >= 0) {
        ssize_t got = write(tty.paste_fd, mode == TTY_FOUND ? off : on, sizeof on - 1);
        (void)got; /* what would there be to do? */
    }
}

static bool in_foreground(void) { return tcgetpgrp(STDIN_FILENO) == getpgrp(); }

static void restore(void)
{
    if (tty.open && tty.mode != TTY_FOUND && in_foreground())
        apply(TTY_FOUND);
}

/* ---- signals --------------------------------------------------------------------------------- */

static void set_handler(int sig, void (*fn)(int))
{
    /* No SA_RESTART: a read at the prompt must come back. */
    struct sigaction act = { .sa_handler = fn };
    sigemptyset(&act.sa_mask);
    sigaction(sig, &act, NULL);
}

static void set_again(void)
{
    if (tty.open && tty.mode != TTY_FOUND && in_foreground())
        apply((enum tty_mode)tty.mode);
}

/* Does to the process what the signal does by default, with the terminal as it was found. */
static void on_stop_or_quit(int sig)
{
    int e = errno;
    sigset_t one, old;
    restore();
    set_handler(sig, SIG_DFL);
    sigemptyset(&one);
    sigaddset(&one, sig);
    raise(sig);
    pthread_sigmask(SIG_UNBLOCK, &one, &old); /* here it stops, until SIGCONT */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    set_handler(sig, on_stop_or_quit);
    set_again(); /* no SIGCONT came where nothing stopped: no shell waits for this process group */
    errno = e;
}

/* What stops the process, and what ends it where nobody else handles it: a sanitizer's handler
 * stays, and what was ignored before is ignored still. */
static const int stops_or_quits[] = { SIGTSTP, SIGQUIT, SIGPIPE, SIGABRT,
                                      SIGSEGV, SIGBUS,  SIGFPE,  SIGILL };

static void take_over_stops_and_ends(void)
{
    struct sigaction old;
    for (size_t i = 0; i < ARRAY_LEN(stops_or_quits); i++)
        if (sigaction(stops_or_quits[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            set_handler(stops_or_quits[i], on_stop_or_quit);
}

static void on_change(int sig)
{
    int e = errno;
    if (sig == SIGCONT)
        tty.continued = 1;
    else
        tty.resized = 1;
    if (sig == SIGCONT)
        set_again();
    errno = e;
}

void tty_hold_signals(void)
{
    static const int held[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT };
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        sigaddset(&set, held[i]);
    pthread_sigmask(SIG_BLOCK, &set, &tty.before);
}

void tty_release_signals(void) { pthread_sigmask(SIG_SETMASK, &tty.before, NULL); }

int tty_wait(int ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    fd_set in;
    FD_ZERO(&in);
    FD_SET(STDIN_FILENO, &in);
    return pselect(STDIN_FILENO + 1, &in, NULL, NULL, ms < 0 ? NULL : &t, &tty.before);
}

void tty_stop(void) { kill(0, SIGTSTP); }
void tty_quit(void) { kill(0, SIGQUIT); }

enum tty_change tty_changed(void)
{
    enum tty_change is = tty.continued ? TTY_CONTINUED : tty.resized ? TTY_RESIZED : TTY_SAME;
    tty.continued = tty.resized = 0;
    return is;
}

/* ---- open and close -------------------------------------------------------------------------- */

bool tty_open(void)
{
    if (tty.open)
        return true;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &tty.found) != 0)
        return false;
    tty.open = true;
    tty.mode = TTY_FOUND;
    ui_before_kill(restore);
    take_over_stops_and_ends();
    set_handler(SIGCONT, on_change);
    set_handler(SIGWINCH, on_change);
    return true;
}

void tty_marks_pastes(int fd) { tty.paste_fd = fd; }

void tty_set(enum tty_mode mode)
{
    if (!tty.open || tty.mode == (sig_atomic_t)mode)
        return;
    tty.mode = (sig_atomic_t)mode;
    apply(mode);
}

void tty_close(void)
{
    tty_set(TTY_FOUND);
    tty.paste_fd = -1;
}

void tty_size(unsigned *cols, unsigned *rows)
{
    struct winsize w = { 0 };
    bool known = ioctl(STDIN_FILENO, TIOCGWINSZ, &w) == 0;
    *cols = known && w.ws_col ? w.ws_col : 80;
    *rows = known && w.ws_row ? w.ws_row : 24;
}
