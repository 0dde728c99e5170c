/* test_finite: a number in a model's file that is not one. Every call that would give logits or a
 * loss fails, and names the first block whose output is not finite. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "hlm_train.h"

#include <math.h>
#include <stdlib.h>

static const int32_t ids[] = { 5, 17, 300, 2, 91, 44 };
enum { N_ID = ARRAY_LEN(ids) };

/* A copy of a fixture in which one number of a tensor is bad; its path. NULL, and the case failed.
 */
static const char *damaged(const char *file, const char *name, uint64_t at, float bad)
{
    const char *path = test_scratch("damaged.gguf");
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(fixture("%s", file), &err);
    struct gguf_build *b = gb_from(fixture("%s", file), &err);
    const struct gguf_tensor *t = g ? gguf_tensor(g, name) : NULL;
    bool ok = CHECK_OK(b != NULL, err) && CHECK(t && t->type == F32 && at < t->n_elem);
    if (ok) {
        float *v = test_floats(t);
        v[at] = bad;
        gb_tensor(b, name, F32, t->n_dim, t->dim, v);
        free(v);
        ok = CHECK_OK(gb_write(b, path, &err), err);
    }
    gb_free(b);
    gguf_close(g);
    return ok ? path : NULL;
}

static void finite_row(const char *file, const char *name, uint64_t at, float bad, const char *says)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1 };
    struct hlm_err err = { 0 };
    int32_t id = 0;
    if (!test_case("%s: %g in %s", file, (double)bad, name))
        return;
    const char *path = damaged(file, name, at, bad);
    hlm *m = path ? hlm_test_open(path) : NULL;
    hlm_session *s = m ? hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 16,
                                                                          .keep_logits = true,
                                                                          .keep_nll = true })
                       : NULL;
    if (s) {
        float *logits = test_room((uint64_t)N_ID * hlm_get_info(m).n_vocab, sizeof *logits);
        double nll[N_ID];
        CHECK_OK(hlm_session_sync(s, ids, N_ID, NULL, 0, NULL, NULL, &err), err);
        CHECK_REFUSED(hlm_session_next(s, &greedy, &id, &err), err, says);
        CHECK_SAYS(err.msg, "damaged.gguf|the first 6 tokens");
        /* a second time, after the session has gone back */
        CHECK_OK(hlm_session_sync(s, ids, N_ID, NULL, 0, NULL, NULL, &err), err);
        CHECK_REFUSED(hlm_session_next(s, &greedy, &id, &err), err, says);
        hlm_session_reset(s);
        CHECK_REFUSED(hlm_session_eval(s, ids, N_ID, logits, NULL, &err), err, says);
        CHECK(!hlm_session_save(s, test_scratch("bad.hlm"), NULL, 0, &err)); /* it is lost */
        hlm_session_reset(s);
        CHECK_REFUSED(hlm_session_nll(s, ids, N_ID, nll, &err), err, says);
        free(logits);
    }
    hlm_session_destroy(s);
    hlm_test_close(m);
}

static void finite_training(void)
{
    if (!test_case("training on a model with a number that is none"))
        return;
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = hlm_tune_defaults();
    struct hlm_tune_loss loss;
    struct hlm_tune_step step;
    const char *path = damaged("train/qwen35/model.gguf", "blk.1.ffn_up.weight", 3, NAN);
    p.data = "tests/fixtures/train/qwen35/data.jsonl";
    p.targets = "attn";
    p.read.max_seq = 64;
    p.read.valid = 0.1;
    p.train.steps = 1;
    hlm *m = path ? hlm_test_open(path) : NULL;
    hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
    if (m && CHECK_OK(t && hlm_tune_begin(t, NULL, &err), err)) {
        CHECK_REFUSED(hlm_tune_validate(t, HLM_TUNE_VALID, &loss, NULL, NULL, &err), err,
                      "loss|not finite|block 1|damaged.gguf");
        CHECK_REFUSED(hlm_tune_do_step(t, &step, &err), err,
                      "step 1|loss|not finite|block 1|damaged.gguf");
    }
    hlm_tune_close(t);
    hlm_test_close(m);
}

void test_finite(void)
{
    static const char dense[] = "qwen35/base/model-f32.gguf",
                      moe[] = "qwen35moe/base/model-f32.gguf";
    if (!test_gpu())
        return;
    finite_row(dense, "blk.2.ffn_down.weight", 0, NAN, "block 2|token 1|id 5");
    finite_row(dense, "blk.3.attn_v.weight", 7, INFINITY, "block 3|token 1|id 5");
    finite_row(dense, "token_embd.weight", 64 * 300 + 1, NAN, "token_embd.weight|token 3|id 300");
    finite_row(dense, "output_norm.weight", 63, NAN, "output_norm.weight|token 1|id 5");
    finite_row(moe, "output.weight", 64 * 9, NAN, "output matrix|token 1|id 5");
    finite_training();
}
