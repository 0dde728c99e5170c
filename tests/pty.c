/* pty: see pty.h. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* TIOCSWINSZ */
#include "pty.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { WAIT_S = 10 };

static void set_size(int fd, uint32_t cols, uint32_t rows)
{
    struct winsize w = { .ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows };
    HLM_ASSERT(ioctl(fd, TIOCSWINSZ, &w) == 0);
}

void pty_start(struct pty *p, uint32_t cols, uint32_t rows, int (*run)(void *user), void *user)
{
    *p = (struct pty){ .fd = posix_openpt(O_RDWR | O_NOCTTY) };
    HLM_ASSERT(p->fd >= 0 && grantpt(p->fd) == 0 && unlockpt(p->fd) == 0);
    set_size(p->fd, cols, rows);
    screen_mem_open(&p->screen, cols, rows);
    fflush(stdout);
    p->pid = fork();
    HLM_ASSERT(p->pid >= 0);
    if (p->pid == 0) {
        for (int i = 1; i < NSIG;
             i++) /* tests may run where some are ignored: after nohup, or in the background */
            signal(i, SIG_DFL);
        setsid();
        int tty = open(ptsname(p->fd), O_RDWR); /* the first one opened is the controlling one */
        close(p->fd);
        if (tty < 0 || dup2(tty, 0) < 0 || dup2(tty, 1) < 0 || dup2(tty, 2) < 0)
            _exit(99);
        if (tty > 2)
            close(tty);
        _exit(run(user));
    }
}

void pty_type(struct pty *p, const char *bytes)
{
    for (size_t n = strlen(bytes); n;) {
        ssize_t got = write(p->fd, bytes, n);
        if (got < 0) {
            FAIL("the terminal takes no more: %s", strerror(errno));
            return;
        }
        bytes += got;
        n -= (size_t)got;
    }
}

/* False when nothing came in this time, or nothing will come any more. */
static bool take(struct pty *p, int ms)
{
    char bytes[4096];
    struct pollfd fd = { .fd = p->fd, .events = POLLIN };
    if (poll(&fd, 1, ms) <= 0)
        return false;
    ssize_t n = read(p->fd, bytes, sizeof bytes);
    if (n > 0)
        screen_mem_write(&p->screen, bytes, (size_t)n);
    return n > 0;
}

bool pty_ended(const struct pty *p)
{
    siginfo_t info = { 0 };
    return waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

static bool wait_for(const char *file, int line, struct pty *p, const char *text, bool whole)
{
    for (double end_s = now_s() + WAIT_S;;) {
        char *now = screen_mem_text(&p->screen);
        bool is = whole ? strcmp(now, text) == 0 : strstr(now, text) != NULL;
        if (is || now_s() > end_s) {
            if (!is)
                test_fail_at(file, line, "the screen is\n%s\nexpected%s\n%s", now,
                             whole ? "" : " somewhere", text);
            free(now);
            return is;
        }
        free(now);
        if (!take(p, 50) && pty_ended(p))
            end_s = 0;
    }
}

bool pty_shows_at(const char *file, int line, struct pty *p, const char *text)
{
    return wait_for(file, line, p, text, true);
}

bool pty_shown_at(const char *file, int line, struct pty *p, const char *text)
{
    return wait_for(file, line, p, text, false);
}

void pty_wait(struct pty *p, int ms)
{
    for (double end_s = now_s() + ms * 1e-3; now_s() < end_s;)
        take(p, 10);
}

void pty_to_end(struct pty *p)
{
    double end_s = now_s() + WAIT_S;
    while (!pty_ended(p) && now_s() < end_s)
        take(p, 10);
    if (!pty_ended(p)) {
        FAIL("the program did not end");
        kill(p->pid, SIGKILL);
    }
    while (take(p, 0))
        ;
}

void pty_resize(struct pty *p, uint32_t cols)
{
    screen_mem_resize(&p->screen, cols);
    set_size(p->fd, cols, p->screen.rows);
}

bool pty_is_found(struct pty *p)
{
    struct termios t;
    return tcgetattr(p->fd, &t) == 0 && (t.c_lflag & ICANON) && (t.c_lflag & ECHO) &&
           (t.c_lflag & ISIG) && (t.c_iflag & ICRNL);
}

int pty_end(struct pty *p)
{
    int status = 0;
    for (double end_s = now_s() + WAIT_S; waitpid(p->pid, &status, WNOHANG) == 0;) {
        take(p, 10);
        if (now_s() > end_s) {
            FAIL("still running after %d s", WAIT_S);
            kill(p->pid, SIGKILL);
            end_s += WAIT_S;
        }
    }
    while (take(p, 0))
        ;
    CHECK_MSG(!p->screen.bad[0], "the terminal was sent %s", p->screen.bad);
    close(p->fd);
    screen_mem_close(&p->screen);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
