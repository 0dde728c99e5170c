/* not_finite: finds the first block of a model that computes numbers which are not finite, after
 * logits have shown that there is one. It reads the same tokens again, in a session of its own that
 * keeps the output of every block. This happens once, at an end: normal running looks at the logits
 * alone, where the sampler has them in hand. */
#include "session/session.h"

#include <stdio.h>
#include <stdlib.h>

enum { TRACE_BATCH = 32 };

/* Names the first part of the model whose output for this batch is not finite. False: all is. */
static bool first_of_batch(const hlm_session *s, const float *hidden, const float *logits,
                           uint32_t first, uint32_t n, char where[160])
{
    const struct model *m = s->m->model;
    for (uint32_t l = 0; l < m->n_layer + 3; l++)
        for (uint32_t t = 0; t < n; t++) {
            bool head = l == m->n_layer + 2;
            uint32_t width = head ? m->n_vocab : m->n_embd;
            const float *row =
                head ? logits + (uint64_t)t * width : hidden + ((uint64_t)l * n + t) * width;
            if (head ? session_finite_logits(s, row) : all_finite(row, width))
                continue;
            char what[64];
            if (l && l <= m->n_layer)
                snprintf(what, sizeof what, "block %u", l - 1);
            else
                snprintf(what, sizeof what, "%s",
                         !l     ? "token_embd.weight"
                         : head ? "the output matrix"
                                : "output_norm.weight");
            snprintf(where, 160, "%s is the first whose output is not finite, at token %u (id %d)",
                     what, first + t + 1, s->id[first + t]);
            return true;
        }
    return false;
}

static void find_first(const hlm_session *s, char where[160])
{
    const struct model *m = s->m->model;
    struct hlm_err why = { 0 };
    struct hlm_session_params p = { .n_ctx = s->n_past,
                                    .n_batch = TRACE_BATCH,
                                    .kv = s->x->kv_type,
                                    .keep_logits = true,
                                    .keep_hidden = true,
                                    .snapshot_budget = HLM_SNAPSHOT_NONE };
    hlm_session *again = hlm_session_create(s->m, &p, &why);
    uint32_t batch = again ? again->x->n_eval : 0;
    float *hidden = mem_alloc((uint64_t)(m->n_layer + 2) * batch, 4ull * m->n_embd);
    float *logits = mem_alloc(batch, 4ull * m->n_vocab);
    bool found = false, ok = again && hidden && logits;
    for (uint32_t at = 0, n; ok && !found && at < s->n_past; at += n) {
        n = min_u32(batch, s->n_past - at);
        ok = session_read_rows(again, s->id + at, n, logits, hidden, &why);
        found = ok && first_of_batch(s, hidden, logits, at, n, where);
    }
    if (!ok)
        snprintf(where, 160, "the block was not found: %.120s",
                 why.kind ? why.msg : "out of memory");
    else if (!found)
        snprintf(where, 160,
                 "reading the %u tokens again gave finite numbers; the device, its driver or a "
                 "saved session is at fault",
                 s->n_past);
    free(hidden);
    free(logits);
    hlm_session_destroy(again);
}

bool session_not_finite(hlm_session *s, struct hlm_err *err)
{
    char where[160];
    find_first(s, where);
    fail(err, "%s: of the first %u tokens some numbers are not finite: %s", gguf_path(s->m->file),
         s->n_past, where);
    session_forget(s);
    return false;
}
