/* tune_sample: the model's present answers to the prompts of --sample. They are greedy, so that
 * answers at different steps differ only by what was learnt. */
#include "common_counters.h"
#include "tune_run.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The prompt that hlm-chat would make without thinking; with --raw-completion, the text itself. */
static bool encode(struct tune *u, const char *text, struct hlm_ids *ids, struct hlm_err *err)
{
    if (u->p.read.raw_completion)
        return hlm_tokenize(u->vocab, text, strlen(text), true, ids, err);
    json_t *list = json_pack("[{s:s, s:s}]", "role", "user", "content", text);
    char *json = list ? json_dumps(list, JSON_COMPACT) : NULL;
    struct hlm_render_params p = { .json = json,
                                   .n = json ? strlen(json) : 0,
                                   .name = "--sample",
                                   .format = u->p.read.format,
                                   .no_think = true };
    bool ok = json ? hlm_render_ids(u->vocab, &p, ids, err)
                   : ui_fail(err, "--sample: the text is not UTF-8");
    json_decref(list);
    free(json);
    return ok;
}

/* Sets *out to the text of the answer, in new memory. */
static bool answer(struct tune *u, const struct hlm_ids *ids, char **out, struct hlm_err *err)
{
    struct hlm_sampling greedy = { .temp = 0, .repeat_penalty = 1 };
    uint64_t n = 0, room = 64;
    *out = ui_alloc(room, 1);
    bool ok = *out != NULL;
    hlm_session_reset(u->session); /* its caches are from other values of the adapter */
    ok = ok && hlm_session_sync(u->session, ids->id, ids->n, NULL, 0, NULL, NULL, err);
    for (int32_t i = 0, id; ok && i < u->n_sample && !ui_interrupted(); i++) {
        ok = hlm_session_next(u->session, &greedy, &id, err);
        if (!ok || hlm_is_end(u->vocab, id))
            break;
        struct hlm_str s = hlm_token_text(u->vocab, id);
        if (n + s.n + 1 > room) {
            room = 2 * (n + s.n + 1);
            char *more = ui_grow(*out, room, 1);
            if (!more)
                return ui_fail_memory(err, "out of memory for a sample");
            *out = more;
        }
        memcpy(*out + n, s.p, s.n);
        n += s.n;
        (*out)[n] = 0;
    }
    return ok || ui_fail_memory(err, "out of memory for a sample");
}

bool print_samples(struct tune *u, uint64_t step, struct hlm_err *err)
{
    bool ok = true;
    for (uint32_t i = 0; ok && i < u->samples.n && !ui_interrupted(); i++) {
        struct hlm_ids ids = { 0 };
        char *text = NULL;
        ok = encode(u, u->samples.v[i], &ids, err) && answer(u, &ids, &text, err);
        if (ok) {
            bar_clear();
            printf("step %llu, %s\n  ", (unsigned long long)step, u->samples.v[i]);
            ui_text(stdout, text, strlen(text));
            putchar('\n');
            fflush(stdout);
            counters_sample(step, u->samples.v[i], text);
            ui_event("sample", "{s:I, s:s, s:s%}", "step", (long long)step, "prompt",
                     u->samples.v[i], "text", text, strlen(text));
        }
        free(text);
        hlm_ids_free(&ids);
    }
    return ok;
}
