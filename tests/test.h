/* test: the frame that all tests run in. A test file defines functions `void test_x(void)`,
 * tests.def names them, each opens cases, and a case passes unless something in it failed. See
 * main.c. */
#pragma once
#include "base/base.h"

/* Opens the next case; the one before is closed and counted. False when --case leaves it out: then
 * nothing in it is counted, and a case that no later one builds on need not run. */
bool test_case(const char *fmt, ...) HLM_PRINTF(1, 2);
/* Fails the open case and prints why, with the place. Returns false. */
bool test_fail_at(const char *file, int line, const char *fmt, ...) HLM_PRINTF(3, 4);
void test_skip(const char *fmt, ...) HLM_PRINTF(1, 2);

#define FAIL(...) test_fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond) ((cond) ? true : FAIL("%s", #cond))
#define CHECK_MSG(cond, ...) ((cond) ? true : FAIL(__VA_ARGS__))
#define CHECK_EQ(got, want)                                                                        \
    test_eq_at(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
#define CHECK_STR(got, want) test_str_at(__FILE__, __LINE__, #got, (got), (want))
bool test_eq_at(const char *file, int line, const char *what, long long got, long long want);
bool test_str_at(const char *file, int line, const char *what, const char *got, const char *want);

/* What a message must say. The parts are separated by '|'; each must occur as whole words (so "4"
 * is not found in "64"), in this order, and none may overlap. Name what a person needs: the file,
 * the tensor, key or flag, the number found, the number expected, and a word that sets this reason
 * apart from the others. The sentence around them may change. */
#define CHECK_SAYS(text, parts) test_says_at(__FILE__, __LINE__, (text), (parts))
bool test_says_at(const char *file, int line, const char *text, const char *parts);
bool test_has(const char *text, const char *parts);
/* The call fails and fills err, which is cleared first, with one line that says these parts. */
#define CHECK_REFUSED(call, err, parts)                                                            \
    ((err) = (struct hlm_err){ 0 },                                                                \
     test_refused_at(__FILE__, __LINE__, (call) ? true : false, &(err), (parts)))
bool test_refused_at(const char *file, int line, bool accepted, const struct hlm_err *err,
                     const char *parts);

/* Normalised mean squared error: sum (got-want)^2 / sum want^2, and the largest difference with
 * its index. */
struct diff {
    double nmse, max_abs;
    uint64_t at;
};
struct diff diff_f32(const float *got, const float *want, uint64_t n);
struct diff diff_f64(const float *got, const double *want, uint64_t n);

/* A bound, and the worst value that was measured when it was set, on lavapipe unless it says
 * otherwise; 0: not recorded. Bounds are only ever tightened. */
struct bound {
    double most, measured;
};
/* got is at most bound.most; -v prints it beside the bound and what was measured. */
#define CHECK_WITHIN(what, got, bound) test_within_at(__FILE__, __LINE__, (what), (got), (bound))
/* The larger of two errors; not a number is the largest. */
static inline double test_worse(double a, double b) { return a >= b || a != a ? a : b; }
bool test_within_at(const char *file, int line, const char *what, double got, struct bound bound);

/* Fixtures: a path inside the fixtures folder (tests/fixtures, or --fixtures DIR for the full set).
 * The string stays valid until the eighth call from here. */
const char *fixture(const char *fmt, ...) HLM_PRINTF(1, 2);
bool fixture_has(const char *fmt, ...) HLM_PRINTF(1, 2);
/* A whole file in fresh memory; fails the open case when it is missing. */
void *fixture_read(uint64_t *n_bytes, const char *fmt, ...) HLM_PRINTF(2, 3);
/* A scratch folder for this run under build/, made on first use. */
const char *test_tmp(void);

/* --all: a test that usually takes a few of many cases takes them all. */
bool test_all(void);
/* --brief: a test leaves out cases that another subgroup size, which an earlier run had, does not
 * change. */
bool test_brief(void);
/* Do all tests of this test's group run, with all of their cases? */
bool test_whole_group(void);

/* Sends messages of the engine to fn until the next call; NULL: to the output, as at the start.
 * Objects are opened with test_sink() for their log. What has no log of its own uses the sink of
 * the calling thread, which test_log sets too. */
void test_log(hlm_log_fn fn, void *user);
struct hlm_log test_sink(void);
/* A line of the output; only with -v. */
void test_note(const char *fmt, ...) HLM_PRINTF(1, 2);

struct gpu;
struct gpu *test_gpu(void); /* the device under test, opened once; NULL, and the case skipped,
                             * without one */
