/* test: the frame of all tests. A test file defines functions `void test_x(void)`, which are listed
 * in tests.def. Each opens cases; a case passes unless a check in it fails. See main.c. */
#pragma once
#include "base/base.h"

/* Opens the next case; the one before is closed and counted. False when --case leaves it out: its
 * checks are then not counted, and it need not run unless a later case builds on it. */
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

/* Checks what a message says. The parts are separated by '|'. Each must occur as whole words (so
 * "4" is not found in "64"), in this order, without overlap. Quote what a person needs: the file,
 * the tensor, key or flag, the number found, the number expected, and a word that distinguishes
 * this reason from others. The sentence around them may change. */
#define CHECK_SAYS(text, parts) test_says_at(__FILE__, __LINE__, (text), (parts))
bool test_says_at(const char *file, int line, const char *text, const char *parts);
bool test_has(const char *text, const char *parts);
/* Checks that the call fails and fills err, which is cleared first, with one line that says these
 * parts. */
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

/* A bound, and the worst value measured when it was set (on lavapipe, if nothing else is said); 0:
 * not recorded. Bounds are only ever tightened. */
struct bound {
    double most, measured;
};
/* Checks that got is at most bound.most; -v prints both, with the value measured earlier. */
#define CHECK_WITHIN(what, got, bound) test_within_at(__FILE__, __LINE__, (what), (got), (bound))
/* The larger of two errors; a NaN is larger than any number. */
static inline double test_worse(double a, double b) { return a >= b || a != a ? a : b; }
bool test_within_at(const char *file, int line, const char *what, double got, struct bound bound);

/* Fixtures: a path inside the fixtures folder (tests/fixtures, or --fixtures DIR for the full set).
 * The string stays valid until the eighth call from here. */
const char *fixture(const char *fmt, ...) HLM_PRINTF(1, 2);
bool fixture_has(const char *fmt, ...) HLM_PRINTF(1, 2);
/* A whole file in new memory; fails the open case when it is missing. */
void *fixture_read(uint64_t *n_bytes, const char *fmt, ...) HLM_PRINTF(2, 3);
/* A scratch folder for this run under build/, made on first use. */
const char *test_tmp(void);

/* --all: tests that usually run a few of many cases run them all. */
bool test_all(void);
/* --brief: tests leave out cases whose result does not depend on the subgroup size, because an
 * earlier run with another size had them. */
bool test_brief(void);
/* True if all tests of this test's group run, with all their cases. */
bool test_whole_group(void);

/* Sends messages of the engine to fn until the next call; NULL: to the output, as at first. Objects
 * are opened with test_sink() as their log. Code without its own log uses the sink of the calling
 * thread, which this sets too. */
void test_log(hlm_log_fn fn, void *user);
struct hlm_log test_sink(void);
/* A line of the output; only with -v. */
void test_note(const char *fmt, ...) HLM_PRINTF(1, 2);

struct gpu;
struct gpu *test_gpu(void); /* the device under test, opened once; NULL, and the case skipped,
                             * without one */
