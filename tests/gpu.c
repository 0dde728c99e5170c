/* gpu: the device under test, opened once with the validation layer and shared by all tests that
 * need one.
 *
 * Its pipelines are kept in build/cache, so that a second run starts faster. test_validation is the
 * last test: it closes the device, which is when the layer reports what was not freed. */
#include "gpu/gpu.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

static struct {
    struct gpu *gpu;
    bool tried, bare;   /* bare: this machine has no validation layer */
    uint32_t n_closing; /* errors while closing */
    struct hlm_err err;
} t;

/* Opens with the validation layer where it is installed. */
static struct gpu *open_validated(struct hlm_err *err)
{
    struct gpu_params params = { .cache_dir = "build/cache", .validate = true };
    struct hlm_log sink = test_sink();
    log_to(&sink);
    struct gpu *g = gpu_open(&params, err);
    if (!g && strstr(err->msg, "validation layer")) {
        *err = (struct hlm_err){ 0 };
        t.bare = true;
        params.validate = false;
        g = gpu_open(&params, err);
    }
    return g;
}

struct gpu *test_gpu(void)
{
    if (!t.tried)
        t.gpu = open_validated(&t.err);
    t.tried = true;
    if (!t.gpu && gpu_list(NULL, 0, NULL) > 0)
        FAIL("%s", t.err.msg);
    else if (!t.gpu)
        test_skip("%s", t.err.msg);
    return t.gpu;
}

static void on_close(void *user, enum hlm_log_level level, const char *msg)
{
    if (level != HLM_LOG_ERROR)
        return;
    t.n_closing++;
    fprintf(stderr, "  %s%s\n", (const char *)user, msg);
}

void test_validation(void)
{
    test_case("no message of the validation layer");
    if (!test_gpu())
        return;
    CHECK_EQ(gpu_validation_count(t.gpu), 0);
    test_log(on_close, "while closing: ");
    gpu_close(t.gpu);
    t.gpu = NULL;
    CHECK_EQ(t.n_closing, 0);
    if (t.bare)
        test_skip("the validation layer is not installed");
}
