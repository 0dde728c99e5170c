/* process: the processes of this user that can be watched, and why others cannot. */
#define _POSIX_C_SOURCE 200809L
#include "monitor/process.h"
#include "monitor/source.h"
#include "monitor/watch.h"
#include "ui/common.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_PID = 256 };

static bool is_there(uint64_t pid) { return kill((pid_t)pid, 0) == 0 || errno != ESRCH; }

void process_refusal(char *out, uint64_t size)
{
    uint64_t pid[MAX_PID];
    uint32_t n = ring_pids(pid, MAX_PID);
    snprintf(out, (size_t)size, "%s", "");
    for (uint32_t i = 0; i < n && i < MAX_PID && !*out; i++) {
        struct hlm_err err = { 0 };
        struct ring_reader *r = ring_attach(pid[i], &err);
        if (!r && is_there(pid[i]))
            snprintf(out, (size_t)size, "%s", err.msg);
        ring_detach(r);
    }
}

static void print_one(FILE *to, const struct run *r)
{
    char since[32] = "-", line[96];
    time_t t = (time_t)r->start_unix;
    struct tm tm;
    if (localtime_r(&t, &tm))
        strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", &tm);
    run_headline(r, line, sizeof line);
    fprintf(to, "%-8llu %-12s %-28s %-19s  %s\n", (unsigned long long)r->pid, r->program,
            r->model[0] ? r->model : "-", since, line);
}

int process_print_list(FILE *to)
{
    uint64_t pid[MAX_PID];
    uint32_t n = ring_pids(pid, MAX_PID), n_shown = 0;
    for (uint32_t i = 0; i < n && i < MAX_PID; i++) {
        struct hlm_err err = { 0 };
        struct run *r = run_create();
        struct ring_source *s = r ? ring_source_open(pid[i], r, &err) : NULL;
        if (s && r->life == RUN_ALIVE) {
            if (!n_shown++)
                fprintf(to, "%-8s %-12s %-28s %-19s  %s\n", "PID", "PROGRAM", "MODEL", "SINCE",
                        "STATE");
            print_one(to, r);
        } else if (!s && is_there(pid[i])) {
            ui_warn("%s", err.msg);
        }
        ring_source_close(s);
        run_destroy(r);
    }
    if (!n_shown)
        ui_note("no hlm program of yours is running");
    return RC_OK;
}
