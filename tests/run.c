/* run: see run.h. */
#define _XOPEN_SOURCE 700
#include "run.h"

#include "file/file.h"
#include "gguf_build.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

void ran_free(struct ran *r)
{
    free(r->out);
    free(r->err);
    *r = (struct ran){ 0 };
}

const char *scratch(const char *name)
{
    static char paths[256][128];
    uint32_t i = 0;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    while (i < ARRAY_LEN(paths) && paths[i][0] && strcmp(paths[i], path) != 0)
        i++;
    HLM_ASSERT(i < ARRAY_LEN(paths));
    memcpy(paths[i], path, sizeof path);
    return paths[i];
}

/* The folder of this executable. The pipeline caches of the programs are put there too. */
static const char *bin(void)
{
    static char dir[PATH_MAX];
    if (!dir[0]) {
        ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
        HLM_ASSERT(n > 0);
        *strrchr(dir, '/') = 0;
        char cache[PATH_MAX + 8];
        snprintf(cache, sizeof cache, "%s/cache", dir);
        setenv("XDG_CACHE_HOME", cache, 1);
        setenv("XDG_STATE_HOME", cache, 1);
        setenv("HOME", cache, 1);            /* and no models but those of a test */
        setenv("XDG_CONFIG_HOME", cache, 1); /* no settings but those of a test */
    }
    return dir;
}

const char *program_path(const char *name)
{
    static char path[PATH_MAX + 16];
    int n = snprintf(path, sizeof path, "%s/%s", bin(), name);
    HLM_ASSERT(n > 0 && (size_t)n < sizeof path);
    return path;
}

char *slurp(const char *path)
{
    uint64_t n;
    struct hlm_err err = { 0 };
    char *text = file_read(path, 1u << 28, &n, &err);
    CHECK_MSG(text, "%s", err.msg);
    return text ? text : mem_alloc(1, 1);
}

void spill(const char *path, const char *text)
{
    struct hlm_err err = { 0 };
    CHECK_MSG(file_write_atomic(path, text, strlen(text), &err), "%s", err.msg);
}

pid_t start(const char *command, const char *in, const char *out, const char *err)
{
    char words[2048], *argv[64];
    uint32_t argc = 0;
    snprintf(words, sizeof words, "%s", command);
    for (char *w = strtok(words, " "); w && argc + 1 < ARRAY_LEN(argv); w = strtok(NULL, " "))
        argv[argc++] = w;
    argv[argc] = NULL;
    const char *program = program_path(argv[0]);

    pid_t pid = -1;
    posix_spawn_file_actions_t a;
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_addopen(&a, 0, in, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&a, 1, out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&a, 2, err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    /* Also where the tests themselves run in the background of a shell, which ignores them. */
    posix_spawnattr_t attr;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigdefault(&attr, &set);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
    int e = posix_spawn(&pid, program, &a, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&a);
    CHECK_MSG(e == 0, "%s: %s", program, strerror(e));
    return e == 0 ? pid : -1;
}

int finish(pid_t pid)
{
    int status = 0;
    double end_s = now_s() + TIMEOUT_S;
    while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
        if (now_s() > end_s) {
            FAIL("still running after %d s", TIMEOUT_S);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            break;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
    return pid < 0 ? -1 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

struct ran run(const char *input, const char *fmt, ...)
{
    char command[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    HLM_ASSERT(n > 0 && (size_t)n < sizeof command);
    const char *in = input ? scratch("in") : "/dev/null";
    const char *out = scratch("out"), *err = scratch("err");
    if (input)
        spill(in, input);
    struct ran r = { .rc = finish(start(command, in, out, err)) };
    r.out = slurp(out);
    r.err = slurp(err);
    return r;
}

uint32_t n_lines(const char *s)
{
    uint32_t n = 0;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

void run_refused(int rc, const char *command, const char *says)
{
    test_case("%d: %s", rc, command);
    struct ran r = run(NULL, "%s", command);
    CHECK_EQ(r.rc, rc);
    CHECK_STR(r.out, "");
    CHECK_EQ(n_lines(r.err), rc == 2 ? 2 : 1);
    char *end = strchr(r.err, '\n');
    CHECK_MSG(rc != 2 || (end && !strncmp(end, "\nusage: hlm-", 12)), "no usage line: %s", r.err);
    if (end)
        *end = 0; /* only the first line is the message */
    CHECK_SAYS(r.err, says);
    ran_free(&r);
}

const char *demo_adapter(const char *path)
{
    struct hlm_err err = { 0 };
    struct rng rng = { 5 };
    struct gguf *g = gguf_open(DEMO, &err);
    const struct gguf_tensor *x = g ? gguf_tensor(g, "blk.1.ffn_down.weight") : NULL;
    struct gguf_build *b = gb_new();
    if (CHECK_MSG(x, "%s", err.msg)) {
        float *v = mem_alloc(4 * (x->dim[0] + x->dim[1]), sizeof *v);
        HLM_ASSERT(v);
        for (uint64_t i = 0; i < 4 * (x->dim[0] + x->dim[1]); i++)
            v[i] = (float)(0.2 * rng_normal(&rng));
        gb_str(b, "general.type", "adapter");
        gb_str(b, "general.architecture", "qwen35");
        gb_str(b, "adapter.type", "lora");
        gb_f32(b, "adapter.lora.alpha", 4);
        gb_tensor(b, "blk.1.ffn_down.weight.lora_a", F32, 2, (uint64_t[]){ x->dim[0], 4 }, v);
        gb_tensor(b, "blk.1.ffn_down.weight.lora_b", F32, 2, (uint64_t[]){ 4, x->dim[1] },
                  v + 4 * x->dim[0]);
        CHECK_MSG(gb_write(b, path, &err), "%s", err.msg);
        free(v);
    }
    gb_free(b);
    gguf_close(g);
    return path;
}
