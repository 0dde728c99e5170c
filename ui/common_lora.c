/* common_lora: see common_lora.h. */
#define _POSIX_C_SOURCE 200809L
#include "common_lora.h"
#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_one(struct hlm_lora *l, const char *word, struct hlm_err *err)
{
    const char *colon = strrchr(word, ':');
    uint64_t n = strlen(word);
    float scale = 1;
    char *path = ui_copy(word, n), *end = NULL;
    if (!path)
        return ui_fail_memory(err, "out of memory for the name of an adapter");
    if (colon && colon > word && colon[1]) {
        float v = strtof(colon + 1, &end);
        path[colon - word] = 0;
        if (!*end && isfinite(v) && (access(path, F_OK) == 0 || access(word, F_OK) != 0))
            scale = v;
        else
            path[colon - word] = ':';
    }
    *l = (struct hlm_lora){ path, scale };
    return true;
}

bool adapters_read(struct adapters *a, const char *const *word, uint32_t n, struct hlm_err *err)
{
    *a = (struct adapters){ 0 };
    if (n > ARRAY_LEN(a->l))
        return ui_fail(err, "%u adapters, expected at most %u", n, (uint32_t)ARRAY_LEN(a->l));
    while (a->n < n) {
        if (!read_one(&a->l[a->n], word[a->n], err)) {
            adapters_free(a);
            return false;
        }
        a->n++;
    }
    return true;
}

void adapters_free(struct adapters *a)
{
    for (uint32_t i = 0; i < a->n; i++)
        free((void *)(uintptr_t)a->l[i].path);
    *a = (struct adapters){ 0 };
}

void adapters_log(const struct adapters *a)
{
    for (uint32_t i = 0; i < a->n; i++)
        ui_event("adapter", "{s:s, s:f}", "path", a->l[i].path, "scale", (double)a->l[i].scale);
    if (!a->n)
        ui_event("adapter", "{s:n, s:f}", "path", "scale", 0.0);
}

bool adapters_use(hlm *m, const struct adapters *a, struct hlm_err *err)
{
    if (!hlm_set_lora(m, a->l, a->n, err))
        return false;
    adapters_log(a);
    return true;
}

bool adapters_open(hlm *m, const struct flag_list *list, struct hlm_err *err)
{
    struct adapters a;
    if (!list->n)
        return true;
    bool ok = adapters_read(&a, list->v, list->n, err) && adapters_use(m, &a, err);
    adapters_free(&a);
    return ok;
}
