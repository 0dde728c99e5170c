/* test_gpu: the GPU layer alone: arenas, transfers, hazards, replay, limits, the pipeline cache.
 * The results of one small kernel (test_axpy: y = a x + y + constant 1) show the order of
 * dispatches and the ranges they touch. */
#include "file/file.h"
#include "gpu/gpu.h"
#include "test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 1000u

/* Opens a device; closing it checks for errors and messages. */
static struct gpu *open_with(struct gpu_params params)
{
    struct hlm_err err = { 0 };
    params.validate = true;
    struct gpu *g = gpu_open(&params, &err);
    if (!g && strstr(err.msg, "validation layer")) {
        params.validate = false;
        g = gpu_open(&params, &(struct hlm_err){ 0 });
    }
    CHECK_MSG(g, "%s", err.msg);
    return g;
}

static void close_checked(struct gpu *g)
{
    CHECK_EQ(gpu_validation_count(g), 0);
    gpu_close(g);
}

static bool ok(bool result, const struct hlm_err *err) { return CHECK_MSG(result, "%s", err->msg); }

static void axpy(struct cmd *c, tensor y, tensor x, float a)
{
    cmd_dispatch(c, K_test_axpy, GRID(div_up(y.n * y.n_row, 64), 1, 1), SPEC(.wg = 64),
                 PUSH((struct push_test_axpy){ .n = y.n * y.n_row, .a = a }),
                 USES(BOTH(y), READ(x)));
}

static void fill(struct cmd *c, tensor t, float v)
{
    union {
        float f;
        uint32_t u;
    } word = { v };
    cmd_fill(c, t, tensor_bytes(t), word.u);
}

/* Every element of t equals want. */
static bool holds(struct gpu *g, tensor t, float want)
{
    struct hlm_err err = { 0 };
    uint64_t n = tensor_bytes(t) / 4;
    float *got = mem_alloc(n, 4);
    bool same = ok(gpu_read(g, t, 0, got, 4 * n, &err), &err);
    for (uint64_t i = 0; same && i < n; i++)
        same = CHECK_MSG(got[i] == want, "[%llu] is %g, expected %g", (unsigned long long)i,
                         (double)got[i], (double)want);
    free(got);
    return same;
}

/* A cmd and one arena of n tensors [N]. The cases record dispatches, then run them. */
#define MAX_T 40
struct cmd_rig {
    struct gpu *g;
    struct arena *a;
    struct cmd *c;
    tensor t[MAX_T];
    struct hlm_err err;
};

static struct cmd_rig cmd_rig_open(struct gpu *g)
{
    struct cmd_rig r = { .g = g };
    r.a = arena_create(g, "test", MEM_DEVICE, &r.err);
    for (uint32_t i = 0; i < MAX_T; i++)
        r.t[i] = arena_tensor(r.a, F32, N, 1);
    ok(arena_commit(r.a, &r.err), &r.err);
    r.c = cmd_create(g, "test", NULL, &r.err);
    return r;
}

static void rig_run(struct cmd_rig *r)
{
    ok(cmd_end(r->c, &r->err) && cmd_submit(r->c, &r->err), &r->err);
}

static void cmd_rig_close(struct cmd_rig *r)
{
    cmd_destroy(r->c);
    arena_destroy(r->a);
}

/* ---- device ---------------------------------------------------------------------------------- */

static void test_caps(struct gpu *g)
{
    const struct gpu_caps *c = gpu_caps(g);
    struct gpu_caps list[16];
    struct hlm_err err = { 0 };
    test_case("capabilities");
    CHECK(c->name[0] && c->driver[0] && strlen(c->uuid) == 32);
    CHECK(c->align >= 16 && (c->align & (c->align - 1)) == 0);
    CHECK(c->heap_bytes > 0 && c->free_bytes > 0 && c->max_alloc >= 1 << 28);
    CHECK(c->max_range >= 1 << 27 && c->max_shared >= 16384 && c->max_invocations >= 128);
    CHECK(c->subgroup > 0 && c->timeline);
    int n = gpu_list(list, ARRAY_LEN(list), &err), found = 0;
    for (int i = 0; i < n && i < (int)ARRAY_LEN(list); i++)
        found += strcmp(list[i].name, c->name) == 0;
    CHECK_MSG(found > 0, "%s is not among the %d listed", c->name, n);
    CHECK_EQ(gpu_list(NULL, 0, &err), n);
    CHECK(gpu_ok(g, &err));
}

static void test_choice(struct gpu *g)
{
    static const char *const wrong[] = { "no such device", "99", "18446744073709551616" };
    struct hlm_err err;
    for (uint32_t i = 0; i < ARRAY_LEN(wrong); i++) {
        test_case("--device '%s' is refused", wrong[i]);
        CHECK_REFUSED(gpu_open(&(struct gpu_params){ .device = wrong[i] }, &err), err, wrong[i]);
        CHECK_MSG(strstr(err.msg, gpu_caps(g)->name), "%s", err.msg);
    }
    test_case("a device by part of its name, in another case");
    char part[8];
    snprintf(part, sizeof part, "%.7s", gpu_caps(g)->name);
    for (char *p = part; *p; p++)
        *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    struct gpu *other = open_with((struct gpu_params){ .device = part });
    if (other)
        close_checked(other);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void test_transfers(struct gpu *g, const char *way)
{
    static const uint64_t sizes[] = { 1, 3, 4, 15, 4096, 4097, (1 << 20) + 5, (33 << 20) + 1 };
    struct rng rng = { 7 };
    struct hlm_err err = { 0 };
    uint64_t max = sizes[ARRAY_LEN(sizes) - 1] + 64;
    uint8_t *src = mem_alloc(max, 1), *dst = mem_alloc(max, 1);
    for (uint64_t i = 0; i < max; i++)
        src[i] = (uint8_t)rng_u64(&rng);
    struct arena *a = arena_create(g, "transfers", MEM_DEVICE, &err);
    tensor t = arena_tensor(a, F32, (uint32_t)(max / 4 + 64), 1);
    test_case("%s: fresh memory is zero", way);
    ok(arena_commit(a, &err), &err);
    CHECK_EQ(arena_bytes(a), tensor_bytes(t));
    holds(g, t, 0);
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint64_t n = sizes[i], at = rng_u64(&rng) % 50;
        test_case("%s: %llu bytes at %llu there and back", way, (unsigned long long)n,
                  (unsigned long long)at);
        memset(dst, 0xee, max);
        ok(gpu_write(g, t, at, src, n, &err), &err);
        ok(gpu_read(g, t, at, dst, n, &err), &err);
        CHECK(memcmp(dst, src, n) == 0);
        CHECK_EQ(dst[n], 0xee);
    }
    arena_destroy(a);
    free(src);
    free(dst);
}

/* More transfers than the ring has slots, of odd sizes, overwritten by a second round at once. */
static void test_staging(struct gpu *g, const char *way)
{
    enum { PIECES = 11, BYTES = 300004 };
    struct hlm_err err = { 0 };
    struct arena *a = arena_create(g, "staged", MEM_DEVICE, &err);
    uint64_t at[PIECES];
    test_case("%s: staging", way);
    for (uint32_t i = 0; i < PIECES; i++)
        at[i] = arena_take(a, BYTES, 0);
    ok(arena_commit(a, &err), &err);
    CHECK(gpu_stage_max(g) >= BYTES);
    for (uint32_t round = 0; round < 2; round++)
        for (uint32_t i = 0; i < PIECES; i++) {
            uint8_t *p = gpu_stage(g, a, at[i], BYTES, &err);
            if (ok(p, &err))
                memset(p, (int)(100 * round + i), BYTES);
        }
    ok(gpu_stage_end(g, &err), &err);
    uint8_t *got = mem_alloc(BYTES, 1);
    for (uint32_t i = 0; i < PIECES; i++) {
        uint32_t wrong = 0;
        ok(gpu_read(g, (tensor){ .arena = a }, at[i], got, BYTES, &err), &err);
        for (uint32_t k = 0; k < BYTES; k++)
            wrong += got[k] != 100 + i;
        CHECK_EQ(wrong, 0);
    }
    free(got);
    arena_destroy(a);
}

static void test_host_memory(struct gpu *g)
{
    struct hlm_err err = { 0 };
    struct arena *a = arena_create(g, "host", MEM_HOST, &err);
    tensor x = arena_tensor(a, F32, N, 1), y = arena_tensor(a, F32, N, 1);
    test_case("memory that both sides see");
    ok(arena_commit(a, &err), &err);
    float *px = arena_map(a, x.offset), *py = arena_map(a, y.offset);
    struct cmd *c = cmd_create(g, "host", NULL, &err);
    axpy(c, y, x, 2);
    ok(cmd_end(c, &err), &err);
    float want = 0;
    for (uint32_t round = 1; round < 4; round++) {
        for (uint32_t i = 0; i < N; i++)
            px[i] = (float)round;
        ok(cmd_submit(c, &err) && gpu_wait(g, &err), &err);
        want += 2 * (float)round;
        CHECK(py[0] == want && py[N - 1] == want);
    }
    cmd_destroy(c);
    arena_destroy(a);
}

static void test_out_of_memory(struct gpu *g)
{
    struct hlm_err err = { 0 };
    test_case("an arena of many TiB is refused");
    struct arena *a = arena_create(g, "snapshots", MEM_DEVICE, &err);
    for (uint32_t i = 0; i < 4096; i++)
        arena_take(a, 1ull << 30, 0);
    CHECK(arena_bytes(a) >= 4ull << 40);
    CHECK_REFUSED(arena_commit(a, &err), err, "memory|snapshots|4096.0 GiB|free");
    arena_destroy(a);

    test_case("a range that no buffer can hold is refused");
    err = (struct hlm_err){ 0 };
    a = arena_create(g, "weights", MEM_DEVICE, &err);
    arena_take(a, gpu_caps(g)->max_alloc + 1, 0);
    CHECK_REFUSED(arena_commit(a, &err), err, "weights");
    arena_destroy(a);
}

/* A device whose buffers are small: a range that does not fit one moves to the next, and none spans
 * two. */
static void test_chunks(void)
{
    test_case("arenas of several buffers");
    struct gpu *g = open_with((struct gpu_params){ .test_max_alloc = 65536 });
    if (!g)
        return;
    struct hlm_err err = { 0 };
    struct arena *a = arena_create(g, "chunks", MEM_DEVICE, &err);
    tensor t[60];
    for (uint32_t i = 0; i < ARRAY_LEN(t); i++) {
        t[i] = arena_tensor(a, F32, 900 + 70 * i, 1);
        CHECK(t[i].offset / 65536 == (t[i].offset + tensor_bytes(t[i]) - 1) / 65536);
    }
    CHECK(t[ARRAY_LEN(t) - 1].offset > 2 * 65536);
    struct arena *scratch = arena_create(g, "scratch", MEM_DEVICE, &err);
    struct cmd *c = cmd_create(g, "chunks", scratch, &err);
    for (uint32_t i = 0; i < ARRAY_LEN(t); i++) {
        tensor x = cmd_scratch(c, F32, t[i].n, 1);
        fill(c, x, (float)i);
        axpy(c, t[i], x, 1);
    }
    ok(arena_commit(a, &err) && arena_commit(scratch, &err), &err);
    ok(cmd_end(c, &err) && cmd_submit(c, &err), &err);
    for (uint32_t i = 0; i < ARRAY_LEN(t); i++)
        holds(g, t[i], (float)i);
    cmd_destroy(c);
    arena_destroy(scratch);
    arena_destroy(a);
    close_checked(g);
}

/* ---- hazards --------------------------------------------------------------------------------- */

static void test_hazards(struct gpu *g)
{
    test_case("a chain of dependent dispatches");
    struct cmd_rig r = cmd_rig_open(g);
    fill(r.c, r.t[0], 1);
    for (uint32_t i = 1; i < MAX_T; i++)
        axpy(r.c, r.t[i], r.t[i - 1], 1);
    CHECK_EQ(cmd_n_barrier(r.c), MAX_T - 1);
    CHECK_EQ(cmd_n_dispatch(r.c), MAX_T - 1);
    rig_run(&r);
    holds(g, r.t[MAX_T - 1], 1);
    cmd_rig_close(&r);

    test_case("independent dispatches, with shared reads");
    r = cmd_rig_open(g);
    fill(r.c, r.t[0], 3);
    for (uint32_t i = 1; i < MAX_T; i++)
        axpy(r.c, r.t[i], r.t[0], 2);
    CHECK_EQ(cmd_n_barrier(r.c), 1);
    rig_run(&r);
    for (uint32_t i = 1; i < MAX_T; i++)
        holds(g, r.t[i], 6);
    cmd_rig_close(&r);

    test_case("a write after a read, and one after a write");
    r = cmd_rig_open(g);
    fill(r.c, r.t[0], 5);
    axpy(r.c, r.t[1], r.t[0], 1); /* barrier: it reads the fill */
    fill(r.c, r.t[0], 7);         /* barrier: the read must come first */
    axpy(r.c, r.t[2], r.t[0], 1); /* barrier */
    fill(r.c, r.t[1], 9);         /* no barrier: the write of t[1] is before an earlier one */
    fill(r.c, r.t[1], 10);        /* barrier */
    CHECK_EQ(cmd_n_barrier(r.c), 4);
    rig_run(&r);
    holds(g, r.t[1], 10);
    holds(g, r.t[2], 7);
    cmd_rig_close(&r);
}

static void test_ranges(struct gpu *g)
{
    struct hlm_err err = { 0 };
    struct arena *a = arena_create(g, "ranges", MEM_DEVICE, &err);
    tensor t = arena_tensor(a, F32, 64, 16), x = arena_tensor(a, F32, 64, 16);
    ok(arena_commit(a, &err), &err);
    struct cmd *c = cmd_create(g, "ranges", NULL, &err);
    test_case("ranges that touch are no hazard, ranges that overlap by a row are");
    fill(c, x, 1);
    axpy(c, tensor_rows(t, 0, 8), tensor_rows(x, 0, 8), 1);
    CHECK_EQ(cmd_n_barrier(c), 1);
    axpy(c, tensor_rows(t, 8, 8), tensor_rows(x, 8, 8), 1);
    CHECK_EQ(cmd_n_barrier(c), 1);
    axpy(c, tensor_rows(t, 7, 2), tensor_rows(x, 0, 2), 2);
    CHECK_EQ(cmd_n_barrier(c), 2);
    ok(cmd_end(c, &err) && cmd_submit(c, &err), &err);
    holds(g, tensor_rows(t, 0, 7), 1);
    holds(g, tensor_rows(t, 7, 2), 3);
    holds(g, tensor_rows(t, 9, 7), 1);
    cmd_destroy(c);

    test_case("columns of the same rows are apart, unless their bytes are not");
    c = cmd_create(g, "columns", NULL, &err);
    tensor left = tensor_cols(t, 0, 32), right = tensor_cols(t, 32, 32), half = right;
    half.dtype = F16; /* equal strides in elements: lies under left */
    axpy(c, left, x, 1);
    axpy(c, right, x, 1);
    CHECK_EQ(cmd_n_barrier(c), 0);
    axpy(c, half, x, 1);
    CHECK_EQ(cmd_n_barrier(c), 1);
    axpy(c, tensor_cols(t, 31, 2), x, 1);
    CHECK_EQ(cmd_n_barrier(c), 2);
    cmd_fill(c, tensor_cols(t, 0, 1), 4 * 64 * 16, 0); /* a fill has no columns */
    axpy(c, right, x, 1);
    CHECK_EQ(cmd_n_barrier(c), 4);
    cmd_destroy(c);
    arena_destroy(a);
}

static void test_copies(struct gpu *g)
{
    test_case("copies and fills among dispatches");
    struct cmd_rig r = cmd_rig_open(g);
    fill(r.c, r.t[0], 2);
    cmd_copy(r.c, r.t[1], r.t[0], 4 * N);
    axpy(r.c, r.t[1], r.t[1], 0); /* in place: a dispatch may see its own operands */
    axpy(r.c, r.t[1], r.t[0], 1);
    cmd_copy(r.c, r.t[2], r.t[1], 4 * N);
    cmd_copy(r.c, r.t[3], r.t[1], 0);
    CHECK_EQ(cmd_n_barrier(r.c), 4);
    rig_run(&r);
    holds(g, r.t[2], 4);
    holds(g, r.t[3], 0);
    cmd_rig_close(&r);
}

/* ---- running --------------------------------------------------------------------------------- */

static void test_replay(struct gpu *g)
{
    test_case("one recording, submitted 200 times without a wait");
    struct cmd_rig r = cmd_rig_open(g);
    struct gpu_counts before = gpu_counts(g);
    float one[N];
    for (uint32_t i = 0; i < N; i++)
        one[i] = 1;
    ok(gpu_write(g, r.t[0], 0, one, sizeof one, &r.err), &r.err);
    axpy(r.c, r.t[1], r.t[0], 1);
    axpy(r.c, r.t[2], r.t[1], 1);
    ok(cmd_end(r.c, &r.err), &r.err);
    struct gpu_counts made = gpu_counts(g);
    for (uint32_t i = 0; i < 200; i++)
        ok(cmd_submit(r.c, &r.err), &r.err);
    CHECK_EQ(gpu_counts(g).n_submit - made.n_submit, 200);
    CHECK_EQ(gpu_counts(g).n_record - before.n_record, 1);
    holds(g, r.t[1], 200);
    holds(g, r.t[2], 200 * 201 / 2);
    cmd_rig_close(&r);

    test_case("a cmd that is destroyed while it runs");
    r = cmd_rig_open(g);
    for (uint32_t i = 0; i < 100; i++)
        axpy(r.c, r.t[1], r.t[0], 1);
    rig_run(&r);
    cmd_rig_close(&r);

    test_case("an empty cmd, and a grid of nothing");
    r = cmd_rig_open(g);
    cmd_dispatch(r.c, K_test_axpy, GRID(0, 1, 1), SPEC(.wg = 64),
                 PUSH((struct push_test_axpy){ 0 }), USES(BOTH(r.t[0]), READ(r.t[1])));
    CHECK_EQ(cmd_n_dispatch(r.c), 0);
    rig_run(&r);
    ok(gpu_wait(g, &r.err), &r.err);
    cmd_rig_close(&r);
}

static void test_scratch(struct gpu *g)
{
    struct hlm_err err = { 0 };
    struct cmd_rig r = cmd_rig_open(g);
    struct arena *s = arena_create(g, "scratch", MEM_DEVICE, &err);
    struct cmd *c = cmd_create(g, "blocks", s, &err), *wide = cmd_create(g, "wide", s, &err);
    test_case("scratch halves take turns");
    tensor x = cmd_scratch(c, F32, N, 1), first = x;
    fill(c, x, 1);
    for (uint32_t i = 0; i < 5;
         i++) { /* y = x + (x + x): intermediate and result in different halves */
        cmd_begin_block(c);
        tensor w = cmd_scratch(c, F32, N, 1), y = cmd_scratch(c, F32, N, 1);
        CHECK(w.offset != x.offset && y.offset != x.offset && w.offset != y.offset);
        fill(c, w, 0);
        fill(c, y, 0);
        axpy(c, w, x, 2);
        axpy(c, y, x, 1);
        axpy(c, y, w, 1);
        x = y;
    }
    cmd_copy(c, r.t[0], x, 4 * N);
    cmd_begin_block(c);
    cmd_begin_block(c);
    cmd_begin_block(c);
    CHECK_EQ(cmd_scratch(c, F32, N, 1).offset, first.offset);
    tensor big = cmd_scratch(wide, F32, 20 * N, 1);
    CHECK(arena_bytes(s) >= 22 * N * 4 && arena_bytes(s) < 24 * N * 4);
    fill(wide, big, 4);
    cmd_copy(wide, r.t[1], big, 4 * N);
    ok(arena_commit(s, &err) && cmd_end(c, &err) && cmd_end(wide, &err), &err);
    ok(cmd_submit(c, &err) && cmd_submit(wide, &err) && cmd_submit(c, &err), &err);
    holds(g, r.t[0], 243);
    holds(g, r.t[1], 4);

    test_case("scratch that is committed does not grow");
    struct cmd *late = cmd_create(g, "late", s, &err);
    tensor fits = cmd_scratch(late, F32, 20 * N, 1), more = cmd_scratch(late, F32, N, 1);
    CHECK(fits.arena == s && !more.arena);
    CHECK_REFUSED(cmd_end(late, &err), err, "scratch");
    cmd_destroy(late);
    cmd_destroy(wide);
    cmd_destroy(c);
    arena_destroy(s);
    cmd_rig_close(&r);
}

/* Work that would run long is cut into several submissions, with the same result. */
static void test_cut(struct gpu *g)
{
    test_case("long work is cut");
    struct cmd_rig r = cmd_rig_open(g);
    fill(r.c, r.t[0], 1);
    for (uint32_t i = 1; i < MAX_T; i++) {
        cmd_work(r.c, 1e13);
        axpy(r.c, r.t[i], r.t[i - 1], 1);
    }
    uint64_t before = gpu_counts(g).n_submit;
    rig_run(&r);
    uint64_t cut = gpu_counts(g).n_submit - before;
    CHECK_MSG(cut > 2, "%llu submissions", (unsigned long long)cut);
    holds(g, r.t[MAX_T - 1], 1);
    before = gpu_counts(g).n_submit; /* by now the kernel is known to take microseconds */
    ok(cmd_submit(r.c, &r.err), &r.err);
    CHECK(gpu_counts(g).n_submit - before <= cut);
    holds(g, r.t[MAX_T - 1], MAX_T);
    cmd_rig_close(&r);

    test_case("the work of a token is not");
    r = cmd_rig_open(g);
    cmd_work(r.c, 4e9);
    axpy(r.c, r.t[1], r.t[0], 1);
    cmd_work(r.c, 4e9);
    axpy(r.c, r.t[2], r.t[1], 1);
    before = gpu_counts(g).n_submit;
    rig_run(&r);
    CHECK_EQ(gpu_counts(g).n_submit - before, 1);
    cmd_rig_close(&r);
}

/* ---- what is refused while recording --------------------------------------------------------- */

static void recording_refused(struct gpu *g, struct grid grid, struct spec spec, uint64_t words,
                              const char *says)
{
    struct hlm_err err = { 0 };
    struct arena *a = arena_create(g, "never committed", MEM_DEVICE, &err);
    struct cmd *c = cmd_create(g, "refused", NULL, &err);
    test_case("refused while recording: %s", says);
    tensor y = arena_tensor(a, F32, (uint32_t)words, 1), x = arena_tensor(a, F32, 64, 1);
    cmd_dispatch(c, K_test_axpy, grid, spec, PUSH((struct push_test_axpy){ 0 }),
                 USES(BOTH(y), READ(x)));
    CHECK_EQ(cmd_n_dispatch(c), 0);
    cmd_fail(c, "the second failure");
    CHECK_REFUSED(cmd_end(c, &err), err, says);
    cmd_destroy(c);
    arena_destroy(a);
}

static void test_refusals(struct gpu *g)
{
    const struct gpu_caps *caps = gpu_caps(g);
    const struct grid one = GRID(1, 1, 1);
    recording_refused(g, one, SPEC(.wg = caps->max_invocations + 1), 64, "test_axpy|workgroups");
    recording_refused(g, GRID(1, 0x7fffffff, 1), SPEC(.wg = 64), 64, "test_axpy|grid|2147483647");
    recording_refused(g, one, SPEC(.wg = 64, .rows = 4), 64, "test_axpy|rows|not have");
    recording_refused(g, one, SPEC(.bias = 1), 64, "test_axpy|wg|needs");
    if (caps->max_range / 4 + 4 <= UINT32_MAX)
        recording_refused(g, one, SPEC(.wg = 64), caps->max_range / 4 + 4, "test_axpy|binding 0");

    test_case("cmd_fail sticks");
    struct cmd_rig r = cmd_rig_open(g);
    cmd_fail(r.c, "layer %d has no weights", 3);
    axpy(r.c, r.t[0], r.t[1], 1);
    CHECK_EQ(cmd_n_dispatch(r.c), 0);
    CHECK(!cmd_end(r.c, &r.err));
    CHECK_STR(r.err.msg, "test: layer 3 has no weights");
    CHECK(!cmd_submit(r.c, &r.err));
    cmd_rig_close(&r);
}

/* ---- pipelines ------------------------------------------------------------------------------- */

static void cache_path(char *path, size_t n, const char *dir)
{
    struct dirent *e;
    DIR *d = opendir(dir);
    *path = 0;
    while (d && (e = readdir(d)))
        if (strstr(e->d_name, ".bin"))
            snprintf(path, n, "%.210s/%.80s", dir, e->d_name);
    if (d)
        closedir(d);
}

/* Opens a device with a cache, makes n pipelines that differ in a constant, runs them and closes
 * it. Returns what was made. */
static struct gpu_counts make_pipelines(const char *dir, uint32_t n)
{
    struct gpu *g = open_with((struct gpu_params){ .cache_dir = dir });
    if (!g)
        return (struct gpu_counts){ 0 };
    struct cmd_rig r = cmd_rig_open(g);
    float want = 0;
    for (uint32_t i = 0; i < n; i++) {
        cmd_dispatch(r.c, K_test_axpy, GRID(div_up(N, 32), 1, 1), SPEC(.wg = 32, .bias = i),
                     PUSH((struct push_test_axpy){ .n = N }), USES(BOTH(r.t[0]), READ(r.t[1])));
        want += (float)i;
    }
    rig_run(&r);
    holds(g, r.t[0], want);
    cmd_rig_close(&r);
    struct gpu_counts counts = gpu_counts(g);
    CHECK_EQ(counts.n_pipeline, n);
    CHECK_EQ(gpu_validation_count(g), 0);
    gpu_close(g);
    return counts;
}

static void test_cache(void)
{
    char dir[300], path[300], below[320];
    uint64_t n = 0;
    struct hlm_err err = { 0 };
    snprintf(dir, sizeof dir, "%.200s/a/cache", test_tmp());
    test_case("the pipeline cache is made, used, added to");
    CHECK_EQ(make_pipelines(dir, 5).n_pipeline_cached, 0);
    CHECK_EQ(make_pipelines(dir, 5).n_pipeline_cached, 5);
    CHECK_EQ(make_pipelines(dir, 9).n_pipeline_cached, 5);
    CHECK_EQ(make_pipelines(dir, 9).n_pipeline_cached, 9);
    cache_path(path, sizeof path, dir);
    char *good = file_read(path, 1 << 28, &n, &err), *bad = NULL;
    if (!ok(good && (bad = mem_alloc(n + 1, 1)), &err))
        return;

    const uint64_t cut[] = { 0, 1, 40, 71, 72, n / 2, n - 1 };
    for (uint32_t i = 0; i < ARRAY_LEN(cut); i++) {
        test_case("a cache cut to %llu of %llu bytes is ignored", (unsigned long long)cut[i],
                  (unsigned long long)n);
        ok(file_write_atomic(path, good, cut[i], &err), &err);
        CHECK_EQ(make_pipelines(dir, 3).n_pipeline_cached, 0);
        CHECK_EQ(make_pipelines(dir, 3).n_pipeline_cached, 3);
    }
    /* A byte of each field: magic, uuid, driver, shaders, counts, checksum, and data. */
    const uint64_t flip[] = { 0, 8, 24, 32, 40, 47, 48, 55, 56, 64, 80, n - 1 };
    for (uint32_t i = 0; i < ARRAY_LEN(flip); i++) {
        test_case("a cache with byte %llu changed is ignored", (unsigned long long)flip[i]);
        memcpy(bad, good, n);
        bad[flip[i]] ^= 0x55;
        ok(file_write_atomic(path, bad, n, &err), &err);
        CHECK_EQ(make_pipelines(dir, 2).n_pipeline_cached, 0);
    }
    test_case("a cache with a byte more is ignored");
    memcpy(bad, good, n);
    ok(file_write_atomic(path, bad, n + 1, &err), &err);
    CHECK_EQ(make_pipelines(dir, 2).n_pipeline_cached, 0);

    test_case("a cache folder that cannot be made costs nothing else");
    snprintf(below, sizeof below, "%s/below", path);
    CHECK_EQ(make_pipelines(below, 2).n_pipeline_cached, 0);
    free(good);
    free(bad);
}

/* ---- times ----------------------------------------------------------------------------------- */

static void test_profile(void)
{
    test_case("times per kernel");
    struct gpu *g = open_with((struct gpu_params){ .profile = true });
    if (!g)
        return;
    struct cmd_rig r = cmd_rig_open(g);
    struct gpu_kernel_time times[8];
    for (uint32_t i = 1; i < 10; i++) {
        cmd_work(r.c, 2 * N);
        axpy(r.c, r.t[i], r.t[i - 1], 1);
    }
    fill(r.c, r.t[20], 1);
    rig_run(&r);
    ok(cmd_submit(r.c, &r.err), &r.err);
    uint32_t n = gpu_times(g, times, ARRAY_LEN(times)), seen = 0;
    CHECK_EQ(n, 2);
    for (uint32_t i = 0; i < n; i++) {
        bool is_axpy = strcmp(times[i].name, "test_axpy") == 0;
        seen += is_axpy || strcmp(times[i].name, "fill") == 0;
        CHECK_EQ(times[i].n, is_axpy ? 18 : 2);
        CHECK_EQ(times[i].bytes, is_axpy ? 18 * 2 * 4 * N : 2 * 4 * N);
        CHECK(times[i].flop == (is_axpy ? 18 * 2.0 * N : 0));
        CHECK(times[i].us >= 0 && times[i].us < 1e6);
        CHECK(i == 0 || times[i].us <= times[i - 1].us);
    }
    CHECK_EQ(seen, 2);
    gpu_times_reset(g);
    CHECK_EQ(gpu_times(g, times, ARRAY_LEN(times)), 0);
    cmd_rig_close(&r);
    close_checked(g);
}

/* Times are switched on and off between two submissions of a cmd that was ended before. */
static void test_profile_later(void)
{
    static const bool on[] = { false, true, true, false, true };
    test_case("times per kernel, switched on and off under way");
    struct gpu *g = open_with((struct gpu_params){ 0 });
    if (!g)
        return;
    struct cmd_rig r = cmd_rig_open(g);
    struct gpu_kernel_time times[8];
    fill(r.c, r.t[0], 1);
    for (uint32_t i = 1; i < 10; i++)
        axpy(r.c, r.t[i], r.t[0], 1);
    rig_run(&r);
    uint64_t n_record = gpu_counts(g).n_record, n_want = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(on); i++) {
        gpu_set_profile(g, on[i]);
        ok(cmd_submit(r.c, &r.err), &r.err);
        n_want += on[i] ? 1 : 0;
        uint32_t n = gpu_times(g, times, ARRAY_LEN(times));
        CHECK_EQ(n, n_want ? 2 : 0);
        for (uint32_t k = 0; k < n; k++)
            CHECK_EQ(times[k].n, n_want * (strcmp(times[k].name, "fill") == 0 ? 1 : 9));
    }
    for (uint32_t i = 1; i < 10; i++)
        holds(g, r.t[i], ARRAY_LEN(on) + 1);
    CHECK_EQ(gpu_counts(g).n_record, n_record);
    cmd_rig_close(&r);
    close_checked(g);
}

void test_gpu_layer(void)
{
    test_case("a device");
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_caps(g);
    test_choice(g);
    test_transfers(g, "as the device is");
    test_staging(g, "as the device is");
    struct gpu *staged = open_with((struct gpu_params){ .test_staging = true });
    if (staged) {
        test_transfers(staged, "by staging");
        test_staging(staged, "by staging");
        test_host_memory(staged);
        test_replay(staged);
        close_checked(staged);
    }
    test_host_memory(g);
    test_out_of_memory(g);
    test_chunks();
    test_hazards(g);
    test_ranges(g);
    test_copies(g);
    test_replay(g);
    test_scratch(g);
    test_cut(g);
    test_refusals(g);
    test_cache();
    test_profile();
    test_profile_later();
}
