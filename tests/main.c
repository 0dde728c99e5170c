/* main: runs the tests of tests.def and counts their cases.
 *
 *     build/tests [--fixtures DIR] [--only NAME[,NAME]] [--skip NAME[,NAME]] [--case TEXT]
 *                 [--host] [--list] [--all] [--brief] [-v]
 *
 * --only and --skip name tests or groups of tests.def. --case takes the cases whose name contains
 * TEXT, as -v and failures print it: only they are counted. Rows of the op tables and cases of
 * whole models that it leaves out do not run; other cases may, for a later one may build on them.
 *
 * Run it from the root of the tree. The last line of output is "N passed, N failed[, N skipped]";
 * the exit status is 0, 1 when a case failed, 2 for a bad flag, 77 when every case was skipped. */
#define _XOPEN_SOURCE 700
#include "crash.h"

#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum needs { HOST, GPU };

struct test {
    const char *name;
    enum needs needs;
    const char *group;
    void (*run)(void);
};

#define TEST(name, needs, group) void test_##name(void);
#include "tests.def"
#undef TEST

static const struct test table[] = {
#define TEST(name, needs, group) { #name, needs, #group, test_##name },
#include "tests.def"
#undef TEST
};

struct count {
    uint32_t passed, failed, skipped;
};
enum outcome { NONE, OPEN, FAILED, SKIPPED, LEFT_OUT /* by --case */ };

static struct {
    const char *fixtures, *only, *skip, *text; /* text: of --case */
    bool host, all, brief, verbose;
    const struct test *test; /* that runs */
    struct count count;      /* of it */
    enum outcome outcome;    /* of the open case */
    char name[200];          /* of the open case */
    clock_t start_cpu;       /* of the open case: processor time of all threads */
    double start_s;
    uint32_t n_fail;       /* messages of the open case */
    bool mid_line;         /* the test's own line has been begun and not ended */
    char skip_reason[200]; /* of the first case that was skipped */
    char tmp[64];
} t = { .fixtures = "tests/fixtures" };

/* ---- cases ----------------------------------------------------------------------------------- */

#define MAX_FAIL_SHOWN 5 /* messages a case: a broken kernel would print a million */

static void end_line(void)
{
    if (t.mid_line)
        putchar('\n');
    t.mid_line = false;
}

static double cpu_s(clock_t since) { return (double)(clock() - since) / CLOCKS_PER_SEC; }

static void start_clocks(void)
{
    t.start_cpu = clock();
    t.start_s = now_s();
}

static void close_case(void)
{
    if (t.verbose && t.outcome != NONE && t.outcome != LEFT_OUT)
        printf("  %s: %.1f s (CPU %.1f)\n", t.test->name, now_s() - t.start_s, cpu_s(t.start_cpu));
    if (t.n_fail > MAX_FAIL_SHOWN)
        printf("  %s: %s: %u more\n", t.test->name, t.name, t.n_fail - MAX_FAIL_SHOWN);
    t.count.passed += t.outcome == OPEN;
    t.count.failed += t.outcome == FAILED;
    t.count.skipped += t.outcome == SKIPPED;
    t.outcome = NONE;
    t.n_fail = 0;
}

bool test_case(const char *fmt, ...)
{
    close_case();
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t.name, sizeof t.name, fmt, ap);
    va_end(ap);
    t.outcome = !t.text || strstr(t.name, t.text) ? OPEN : LEFT_OUT;
    start_clocks();
    if (t.verbose && t.outcome == OPEN) {
        end_line();
        printf("  %s: %s\n", t.test->name, t.name);
        fflush(stdout);
    }
    return t.outcome == OPEN;
}

/* What happens outside of any case is counted whatever --case says. */
static void need_case(void)
{
    if (t.outcome != NONE)
        return;
    snprintf(t.name, sizeof t.name, "(outside of any case)");
    t.outcome = OPEN;
    start_clocks();
}

bool test_fail_at(const char *file, int line, const char *fmt, ...)
{
    need_case();
    if (t.outcome == LEFT_OUT)
        return false;
    t.outcome = FAILED;
    if (t.n_fail++ >= MAX_FAIL_SHOWN)
        return false;
    end_line();
    printf("  FAIL %s: %s\n       %s:%d: ", t.test->name, t.name, file, line);
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
    return false;
}

void test_skip(const char *fmt, ...)
{
    need_case();
    if (t.outcome != OPEN)
        return; /* What has failed stays failed, what is left out stays out. */
    t.outcome = SKIPPED;
    char why[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    end_line();
    printf("  SKIP %s: %s: %s\n", t.test->name, t.name, why);
    if (!t.skip_reason[0])
        snprintf(t.skip_reason, sizeof t.skip_reason, "%s", why);
}

bool test_eq_at(const char *file, int line, const char *what, long long got, long long want)
{
    return got == want || test_fail_at(file, line, "%s is %lld, expected %lld", what, got, want);
}

bool test_str_at(const char *file, int line, const char *what, const char *got, const char *want)
{
    if (got == want || (got && want && strcmp(got, want) == 0))
        return true;
    return test_fail_at(file, line, "%s is \"%s\", expected \"%s\"", what, got ? got : "(null)",
                        want ? want : "(null)");
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void diff_one(struct diff *d, double *sum_want, double got, double want, uint64_t i)
{
    double e = fabs(got - want);
    if (!isfinite(e))
        e = INFINITY; /* a NaN or an infinity on either side is the largest difference */
    if (e > d->max_abs) {
        d->max_abs = e;
        d->at = i;
    }
    d->nmse += e * e;
    *sum_want += want * want;
}

static struct diff diff_end(struct diff d, double sum_want)
{
    if (d.nmse != 0)
        d.nmse = isfinite(d.nmse) && sum_want > 0 ? d.nmse / sum_want : INFINITY;
    return d;
}

struct diff diff_f32(const float *got, const float *want, uint64_t n)
{
    struct diff d = { 0 };
    double sum_want = 0;
    for (uint64_t i = 0; i < n; i++)
        diff_one(&d, &sum_want, (double)got[i], (double)want[i], i);
    return diff_end(d, sum_want);
}

struct diff diff_f64(const float *got, const double *want, uint64_t n)
{
    struct diff d = { 0 };
    double sum_want = 0;
    for (uint64_t i = 0; i < n; i++)
        diff_one(&d, &sum_want, (double)got[i], want[i], i);
    return diff_end(d, sum_want);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Paths live in a ring, so that a few can be used in one expression. */
static const char *fixture_v(const char *fmt, va_list ap)
{
    static char ring[8][PATH_MAX];
    static unsigned i_ring;
    char *path = ring[i_ring++ % ARRAY_LEN(ring)];
    int n = snprintf(path, PATH_MAX, "%s/", t.fixtures);
    HLM_ASSERT(n > 0 && n < PATH_MAX);
    int m = vsnprintf(path + n, (size_t)(PATH_MAX - n), fmt, ap);
    HLM_ASSERT(m >= 0 && m < PATH_MAX - n);
    return path;
}

const char *fixture(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *path = fixture_v(fmt, ap);
    va_end(ap);
    return path;
}

bool fixture_has(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *path = fixture_v(fmt, ap);
    va_end(ap);
    return access(path, R_OK) == 0;
}

void *fixture_read(uint64_t *n_bytes, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *path = fixture_v(fmt, ap);
    va_end(ap);
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        FAIL("%s: cannot be read", path);
        if (f)
            fclose(f);
        return NULL;
    }
    uint64_t n = (uint64_t)st.st_size;
    char *bytes = mem_alloc(n + 1, 1); /* one more for the NUL of a text */
    if (!bytes || fread(bytes, 1, n, f) != n) {
        FAIL("%s: %llu bytes cannot be read", path, (unsigned long long)n);
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    if (bytes && n_bytes)
        *n_bytes = n;
    return bytes;
}

bool test_all(void) { return t.all; }
bool test_brief(void) { return t.brief; }

const char *test_tmp(void)
{
    if (!t.tmp[0]) {
        mkdir("build", 0777);
        snprintf(t.tmp, sizeof t.tmp, "build/tmp-XXXXXX");
        if (!mkdtemp(t.tmp)) {
            fprintf(stderr, "tests: build/ is not writable (run from the root of the tree)\n");
            exit(1);
        }
    }
    return t.tmp;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

/* ---- the run --------------------------------------------------------------------------------- */

static bool named(const char *list, const char *group)
{
    size_t len = strlen(group);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == len && memcmp(p, group, len) == 0)
            return true;
    return false;
}

static bool picked(const struct test *test)
{
    if (t.host && test->needs != HOST)
        return false;
    return (!t.only || named(t.only, test->group) || named(t.only, test->name)) &&
           !(t.skip && (named(t.skip, test->group) || named(t.skip, test->name)));
}

bool test_whole_group(void)
{
    bool whole = !t.brief && !t.text;
    for (uint32_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i].group, t.test->group) == 0)
            whole = whole && picked(&table[i]);
    return whole;
}

static struct count run_one(const struct test *test)
{
    t.test = test;
    t.count = (struct count){ 0 };
    printf("%-10s ", test->name);
    fflush(stdout);
    t.mid_line = true;
    double start = now_s();
    clock_t start_cpu = clock();
    test->run();
    close_case();
    if (t.count.passed + t.count.failed + t.count.skipped == 0 && !t.text && !t.brief) {
        FAIL("the test opened no case");
        close_case();
    }
    printf("%s%u passed", t.mid_line ? "" : "           ", t.count.passed);
    if (t.count.failed)
        printf(", %u FAILED", t.count.failed);
    if (t.count.skipped)
        printf(", %u SKIPPED", t.count.skipped);
    printf(", %.1f s (CPU %.1f)\n", now_s() - start, cpu_s(start_cpu));
    fflush(stdout);
    t.mid_line = false;
    return t.count;
}

/* What the engine reports: errors always, the rest only when asked. */
static void on_log(void *user, enum hlm_log_level level, const char *msg)
{
    static const char *const word[] = { "error", "warning", "info", "debug" };
    (void)user;
    if (level > HLM_LOG_ERROR && !t.verbose)
        return;
    end_line();
    printf("  %s: %s\n", word[level], msg);
    fflush(stdout);
}

static struct hlm_log heard = { .fn = on_log };

static void pass_on(void *user, enum hlm_log_level level, const char *msg)
{
    (void)user;
    heard.fn(heard.user, level, msg);
}

struct hlm_log test_sink(void) { return (struct hlm_log){ .fn = pass_on }; }

void test_log(hlm_log_fn fn, void *user)
{
    struct hlm_log sink = test_sink();
    heard = (struct hlm_log){ fn ? fn : on_log, fn ? user : NULL };
    log_to(&sink);
}

void test_note(const char *fmt, ...)
{
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    on_log(NULL, HLM_LOG_INFO, msg);
}

static int usage(void)
{
    fprintf(stderr, "usage: tests [--fixtures DIR] [--only GROUP[,GROUP]] "
                    "[--skip GROUP[,GROUP]] [--case TEXT] [--host] [--list] [--all] [--brief] "
                    "[-v]\n");
    return 2;
}

/* False for a bad flag. */
static bool take_flags(int argc, char **argv, bool *list)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--fixtures") == 0 && i + 1 < argc)
            t.fixtures = argv[++i];
        else if (strcmp(a, "--only") == 0 && i + 1 < argc)
            t.only = argv[++i];
        else if (strcmp(a, "--skip") == 0 && i + 1 < argc)
            t.skip = argv[++i];
        else if (strcmp(a, "--case") == 0 && i + 1 < argc)
            t.text = argv[++i];
        else if (strcmp(a, "--host") == 0)
            t.host = true;
        else if (strcmp(a, "--list") == 0)
            *list = true;
        else if (strcmp(a, "--all") == 0)
            t.all = true;
        else if (strcmp(a, "--brief") == 0)
            t.brief = true;
        else if (strcmp(a, "-v") == 0)
            t.verbose = true;
        else
            return false;
    }
    return true;
}

/* Runs, or lists, the tests that are picked; how many these are. */
static uint32_t run_picked(bool list, struct count *sum)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(table); i++) {
        if (!picked(&table[i]))
            continue;
        n++;
        if (list) {
            const char *needs = table[i].needs == GPU ? "GPU" : "HOST";
            printf("%s %s %s\n", table[i].name, needs, table[i].group);
            continue;
        }
        struct count c = run_one(&table[i]);
        sum->passed += c.passed;
        sum->failed += c.failed;
        sum->skipped += c.skipped;
    }
    return n;
}

int main(int argc, char **argv)
{
    bool list = false;
    struct count sum = { 0 };
    if (argc > 1 && strcmp(argv[1], "--crash-child") == 0)
        return crash_child(argc, argv);
    if (!take_flags(argc, argv, &list))
        return usage();
    test_log(NULL, NULL);
    if (run_picked(list, &sum) == 0) {
        fprintf(stderr, "tests: no test is in %s; see --list\n", t.only ? t.only : "the table");
        return 2;
    }
    if (list)
        return 0;
    if (t.tmp[0])
        nftw(t.tmp, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (t.text && sum.passed + sum.failed + sum.skipped == 0) {
        fprintf(stderr, "tests: no case has \"%s\" in its name; -v prints the names\n", t.text);
        return 2;
    }
    if (sum.skipped)
        printf("SKIPPED %u cases, the first because: %s\n", sum.skipped, t.skip_reason);
    printf("%u passed, %u failed", sum.passed, sum.failed);
    if (sum.skipped)
        printf(", %u skipped", sum.skipped);
    putchar('\n');
    return sum.failed ? 1 : sum.passed ? 0 : 77;
}
