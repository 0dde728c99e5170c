/* test_plot: hlm-tune plot: the figures of logs as columns, and pictures of them. */
#define _POSIX_C_SOURCE 200809L
#include "file/file.h"
#include "hlm_test.h"
#include "run.h"

#include <stdlib.h>

#define STEP(n, loss) "{\"event\":\"step\",\"step\":" #n ",\"loss\":" #loss ",\"lr\":0.001}\n"
#define VALID(n, loss)                                                                             \
    "{\"event\":\"valid\",\"step\":" #n ",\"valid_loss\":" #loss ",\"best\":true}\n"

static const char log_a[] =
    "{\"event\":\"model\",\"path\":\"x\"}\n" VALID(0, 3.5) STEP(1, 2.5) STEP(2, 2.25)
        VALID(2, 2.75) "not JSON\n"
                       "{\"event\":\"step\",\"step\":3,\"loss\":\"x\"}\n"
                       "{\"event\":\"step\",\"step\":-1,\"loss\":1}\n"
                       "{\"no\":\"event\"}\n" STEP(3, 1.125) "{\"event\":\"step\",\"step\":4,\"los";

static void test_columns(void)
{
    const char *a = scratch("a.json"), *b = scratch("b,\"2\".json"), *out = scratch("loss.csv");
    test_case("columns of two logs, one of them with lines that are cut or malformed");
    spill(a, log_a);
    spill(b, STEP(7, 0.5));
    struct ran r = run(NULL, "hlm-tune plot %s %s -o %s", a, b, out);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    CHECK_SAYS(r.err, "warning|a.json|5 lines skipped");
    CHECK_STR(r.out, "");
    ran_free(&r);
    char *text = slurp(out);
    CHECK_STR(text, "log,step,loss,loss_main,loss_mtp,lr,grad_norm,n,tokens,epoch,step_s,"
                    "tokens_per_s,valid_loss,valid_loss_mtp\n"
                    "a.json,0,,,,,,,,,,,3.5,\n"
                    "a.json,1,2.5,,,0.001,,,,,,,,\n"
                    "a.json,2,2.25,,,0.001,,,,,,,2.75,\n"
                    "a.json,3,1.125,,,0.001,,,,,,,,\n"
                    "\"b,\"\"2\"\".json\",7,0.5,,,0.001,,,,,,,,\n");
    free(text);
}

/* The bytes of a picture; NULL, and the case is skipped, where the program cannot draw. */
static char *picture(const char *logs, uint64_t *n)
{
    const char *out = scratch("loss.png");
    struct hlm_err err = { 0 };
    struct ran r = run(NULL, "hlm-tune plot %s -o %s", logs, out);
    bool drawn = r.rc == 0;
    if (!drawn) { /* built without Cairo: then it says what to install */
        CHECK_EQ(r.rc, 1);
        CHECK_SAYS(r.err, "without Cairo|.csv|.png|libcairo2-dev");
    }
    ran_free(&r);
    return drawn ? file_read(out, 1 << 26, n, &err) : NULL;
}

static void test_picture(void)
{
    static const char begin[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x06\x90\0\0\x03\xe8";
    const char *a = scratch("a.json"), *flat = scratch("flat.json"), *none = scratch("none.json");
    uint64_t n = 0, n_again = 0, n_flat = 0;
    char both[600];
    test_case(
        "a picture: its size, its mark; the same log gives the same picture, another another");
    spill(flat, STEP(5, 1.5) STEP(6, 1.5));
    char *png = picture(a, &n), *again = picture(a, &n_again);
    snprintf(both, sizeof both, "%s %s", a, flat);
    char *two = picture(both, &n_flat);
    if (png && again && two) {
        CHECK(n > 10000 && !memcmp(png, begin, sizeof begin - 1));
        CHECK(!memcmp(png + 37, "tEXtSoftware\0hlm-tune plot", 26));
        CHECK(n == n_again && !memcmp(png, again, n));
        CHECK(n_flat != n || memcmp(png, two, n));
    }
    free(again);
    free(two);
    again = picture(flat, &n_again); /* one value, two steps: still axes of some length */
    CHECK(!png || again);
    free(again);
    free(png);

    test_case("a picture that is not ours stays; a log without a loss, no log, no ending");
    spill(scratch("photo.png"),
          "\x89PNG\r\n\x1a\n and a photo of somebody's holidays in the mountains");
    struct ran r = run(NULL, "hlm-tune plot %s -o %s", a, scratch("photo.png"));
    CHECK_EQ(r.rc, 2);
    CHECK_SAYS(r.err, "photo.png|is not a picture that hlm-tune drew");
    ran_free(&r);
    spill(none, "{\"event\":\"model\"}\n");
    r = run(NULL, "hlm-tune plot %s -o %s", none, scratch("none.csv"));
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "none.json|no loss|--log-json");
    ran_free(&r);
    run_refused(2, "hlm-tune plot -o x.csv", "no log");
    run_refused(2, "hlm-tune plot x", "no output|-o");
    run_refused(2, "hlm-tune plot x -o x.jpg", "x.jpg|.png|.csv");
    run_refused(1, "hlm-tune plot /nowhere/x -o build/x.csv", "/nowhere/x|No such file");
}

void test_plot(void)
{
    test_columns();
    test_picture();
}
