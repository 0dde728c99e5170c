/* hlm_test: opens whole models in tests, with validation on and pipelines kept in build/cache, and
 * checks for validation messages when it closes them. */
#pragma once
#include "session/session.h"
#include "test.h"
#include "text/vocab.h"

#include <stdio.h>
#include <string.h>

/* Opens a model, without the validation layer if this machine has none (test_validation reports
 * that). NULL with the reason of hlm_open. */
static inline hlm *hlm_test_try_as(struct hlm_params params, struct hlm_err *err)
{
    static bool bare;
    params.cache_dir = "build/cache";
    params.f32_only = true;
    params.log = test_sink();
    params.validate = !bare;
    hlm *m = hlm_open(&params, err);
    if (!m && params.validate && strstr(err->msg, "validation layer")) {
        bare = true;
        *err = (struct hlm_err){ 0 };
        params.validate = false;
        m = hlm_open(&params, err);
    }
    return m;
}

static inline hlm *hlm_test_try(const char *path, struct hlm_err *err)
{
    return hlm_test_try_as((struct hlm_params){ .model = path }, err);
}

static inline hlm *hlm_test_open(const char *path)
{
    struct hlm_err err = { 0 };
    hlm *m = hlm_test_try(path, &err);
    CHECK_MSG(m != NULL, "%s", err.msg);
    return m;
}

static inline void hlm_test_close(hlm *m)
{
    if (m)
        CHECK_EQ(hlm_get_info(m).n_validation, 0);
    hlm_close(m);
}

/* The inside of a model. */
static inline struct gguf *hlm_test_file(hlm *m) { return m->file; }
static inline struct tok *hlm_test_tok(hlm *m) { return m->vocab->tok; }

/* Opens a session. Here a snapshot budget of 0 means none, and this value the library's default. */
#define TEST_BUDGET_DEFAULT (UINT64_MAX - 1)
static inline hlm_session *hlm_test_session(hlm *m, struct hlm_session_params params)
{
    struct hlm_err err = { 0 };
    uint64_t budget = params.snapshot_budget;
    params.snapshot_budget = budget == TEST_BUDGET_DEFAULT ? 0
                             : budget                      ? budget
                                                           : HLM_SNAPSHOT_NONE;
    hlm_session *s = hlm_session_create(m, &params, &err);
    CHECK_MSG(s != NULL, "%s", err.msg);
    return s;
}

/* CHECK of a call that fills err. */
#define CHECK_OK(call, err) CHECK_MSG((call), "%s: %s", #call, (err).msg)

/* Memory; tests abort without it. */
static inline void *test_room(uint64_t n, uint64_t size)
{
    void *p = mem_alloc(n ? n : 1, size);
    HLM_ASSERT(p != NULL);
    return p;
}

/* The values of a tensor; the caller frees. */
static inline float *test_floats(const struct gguf_tensor *t)
{
    float *v = test_room(t->n_elem, sizeof *v);
    dtype_to_f32(t->type, t->data, t->n_elem, v);
    return v;
}

static inline bool test_has_tail(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}

/* A file of the scratch folder. The path stays valid until the sixteenth call from here. */
static inline const char *test_scratch(const char *name)
{
    static char path[16][160];
    static uint32_t i;
    i = (i + 1) % ARRAY_LEN(path);
    snprintf(path[i], sizeof path[i], "%s/%s", test_tmp(), name);
    return path[i];
}
