/* hlm_test: opening whole models in tests - validation on, pipelines kept in build/cache - and
 * closing them with the count of validation messages checked. */
#pragma once
#include "../engine/hlm.h"
#include "test.h"

#include <string.h>

/* As the tests open; without the validation layer where this machine has none (test_validation
 * says so). NULL with the reason of hlm_open. */
static inline hlm *hlm_test_try(const char *path, struct err *err)
{
    static bool bare;
    struct hlm_params params = { .model = path, .cache_dir = "build/cache", .exact = true };
    params.validate = !bare;
    hlm *m = hlm_open(&params, err);
    if (!m && params.validate && strstr(err->msg, "validation layer")) {
        bare = true;
        *err = (struct err){ 0 };
        params.validate = false;
        m = hlm_open(&params, err);
    }
    return m;
}

static inline hlm *hlm_test_open(const char *path)
{
    struct err err = { 0 };
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

static inline hlm_session *hlm_test_session(hlm *m, struct hlm_session_params params)
{
    struct err err = { 0 };
    hlm_session *s = hlm_session_create(m, &params, &err);
    CHECK_MSG(s != NULL, "%s", err.msg);
    return s;
}

/* CHECK of a call that fills err. */
#define CHECK_OK(call, err) CHECK_MSG((call), "%s: %s", #call, (err).msg)
