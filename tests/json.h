/* json: jansson for the tests that read fixtures. */
#pragma once
#include "test.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A fixture as JSON, freed with json_decref(). NULL and a failed case if it cannot be read. */
static inline json_t *fixture_json(const char *path)
{
    uint64_t n;
    char *text = fixture_read(&n, "%s", path);
    json_error_t e;
    json_t *j = text ? json_loadb(text, n, JSON_ALLOW_NUL, &e) : NULL;
    if (text && !j)
        FAIL("%s: %s, line %d", path, e.text, e.line);
    free(text);
    return j;
}

/* True if ids are the integers of the array. */
static inline bool json_ids_equal(const json_t *want, const int32_t *id, uint32_t n)
{
    bool equal = json_array_size(want) == n;
    for (uint32_t i = 0; equal && i < n; i++)
        equal = json_integer_value(json_array_get(want, i)) == id[i];
    return equal;
}

/* The value at a path of keys, "tests/full_p7/logits/file" (keys contain dots, so the separator is
 * a slash). NULL when there is none. */
static inline json_t *json_at(json_t *j, const char *path)
{
    while (j && *path) {
        size_t n = strcspn(path, "/");
        char key[128] = "";
        if (n >= sizeof key)
            return NULL;
        memcpy(key, path, n);
        j = json_object_get(j, key);
        path += n + (path[n] == '/');
    }
    return j;
}

/* The text at a path; "" and a failed case when there is none. */
static inline const char *json_str(json_t *j, const char *path)
{
    const char *s = json_string_value(json_at(j, path));
    if (!s)
        FAIL("no string at %s", path);
    return s ? s : "";
}

/* An array of integers as ids in new memory; NULL and a failed case when it is not one. */
static inline int32_t *json_ids(const json_t *j, uint32_t *n)
{
    int32_t *ids = json_is_array(j) ? mem_alloc(json_array_size(j) + 1, sizeof *ids) : NULL;
    if (!ids) {
        FAIL("not a list of ids");
        return NULL;
    }
    *n = (uint32_t)json_array_size(j);
    for (uint32_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(j, i));
    return ids;
}

/* The n floats of a tensor of expected.bin; expected.json has the places and shapes. NULL and a
 * failed case when its size is not n. */
static inline const float *json_expected(json_t *expected, const uint8_t *bin, uint64_t n_bin,
                                         const char *name, uint64_t n)
{
    json_t *t = json_object_get(json_object_get(expected, "tensors"), name);
    uint64_t at = (uint64_t)json_integer_value(json_object_get(t, "offset")), product = 1;
    json_t *shape = json_object_get(t, "shape");
    for (size_t i = 0; i < json_array_size(shape); i++)
        product *= (uint64_t)json_integer_value(json_array_get(shape, i));
    if (!CHECK_MSG(t && product == n && at + n * sizeof(float) <= n_bin,
                   "%s: %llu values expected, %llu here", name, (unsigned long long)product,
                   (unsigned long long)n))
        return NULL;
    return (const float *)(const void *)(bin + at);
}
