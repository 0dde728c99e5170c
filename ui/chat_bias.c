/* chat_bias: see chat_bias.h. */
#include "chat_bias.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The id that the word is or stands for; -1 with a reason. */
static int32_t read_token(hlm_vocab *v, const char *word, size_t n, struct hlm_err *err)
{
    struct hlm_ids ids = { 0 };
    size_t digits = strspn(word, "0123456789");
    if (n && digits >= n && n < 10) {
        long id = strtol(word, NULL, 10);
        if (id < (long)hlm_n_vocab(v))
            return (int32_t)id;
        ui_fail(err, "--logit-bias: there is no token %ld: the last one is %u", id,
                hlm_n_vocab(v) - 1);
        return -1;
    }
    int32_t id = -1;
    if (hlm_tokenize(v, word, n, true, &ids, err)) {
        id = ids.n == 1 ? ids.id[0] : -1;
        if (id < 0)
            ui_fail(err, "--logit-bias: '%.*s' is %u tokens, expected the text or the id of one",
                    (int)n, word, ids.n);
    }
    hlm_ids_free(&ids);
    return id;
}

static bool read_bias(hlm_vocab *v, const char *text, struct hlm_bias *b, struct hlm_err *err)
{
    const char *equals = strrchr(text, '=');
    char *end = NULL;
    errno = 0;
    double by = equals && equals > text ? strtod(equals + 1, &end) : 0;
    if (!end || end == equals + 1 || *end || isnan(by) || by > 1e30)
        return ui_fail(err, "--logit-bias: '%s': expected TOKEN=BIAS, with a number or -inf", text);
    *b = (struct hlm_bias){ read_token(v, text, (size_t)(equals - text), err), (float)by };
    return b->id >= 0;
}

bool bias_read(hlm_vocab *v, const struct flag_list *list, struct hlm_sampling *s,
               struct hlm_err *err)
{
    static_assert((int)MAX_FLAG_LIST <= (int)HLM_MAX_BIAS,
                  "a flag may come as often as there are biases");
    s->n_bias = 0;
    if (list->n && !v)
        return ui_fail(err, "--logit-bias: the model has no tokenizer");
    for (uint32_t i = 0; i < list->n; i++)
        if (!read_bias(v, list->v[i], &s->bias[s->n_bias++], err))
            return false;
    return true;
}
