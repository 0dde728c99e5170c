/* says: the checks of test.h that are more than a comparison: the parts of a message, and bounds.
 */
#include "test.h"

#include <ctype.h>
#include <string.h>

static bool in_word(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* Where the part is first found in text as whole words; NULL when it is not. */
static const char *find_part(const char *text, const char *part, size_t n)
{
    for (const char *p = text; *p; p++) {
        bool begins = p == text || !in_word(p[-1]) || !in_word(part[0]);
        if (begins && !strncmp(p, part, n) && !(in_word(part[n - 1]) && in_word(p[n])))
            return p;
    }
    return NULL;
}

/* The first part that text does not have, and its length; NULL when it has them all. */
static const char *missing_part(const char *text, const char *parts, size_t *n)
{
    for (const char *part = parts; *part; part += *n, part += *part == '|') {
        *n = strcspn(part, "|");
        HLM_ASSERT(*n > 0);
        text = find_part(text, part, *n);
        if (!text)
            return part;
        text += *n;
    }
    return NULL;
}

bool test_has(const char *text, const char *parts)
{
    size_t n;
    return text && !missing_part(text, parts, &n);
}

bool test_says_at(const char *file, int line, const char *text, const char *parts)
{
    size_t n = 0;
    const char *part = text ? missing_part(text, parts, &n) : parts;
    if (text && !part)
        return true;
    return test_fail_at(file, line, "\"%s\" does not say \"%.*s\" of \"%s\"",
                        text ? text : "(null)", text ? (int)n : 0, part, parts);
}

bool test_refused_at(const char *file, int line, bool accepted, const struct hlm_err *err,
                     const char *parts)
{
    if (accepted)
        return test_fail_at(file, line, "accepted, expected a refusal with \"%s\"", parts);
    if (!err->kind)
        return test_fail_at(file, line, "refused without a reason, expected \"%s\"", parts);
    if (strchr(err->msg, '\n') || strlen(err->msg) + 1 >= sizeof err->msg)
        return test_fail_at(file, line, "not one line: \"%s\"", err->msg);
    return test_says_at(file, line, err->msg, parts);
}

bool test_within_at(const char *file, int line, const char *what, double got, struct bound bound)
{
    test_note("  %s: %.3g (measured %.3g, at most %.3g)", what, got, bound.measured, bound.most);
    return got <= bound.most || test_fail_at(file, line, "%s is %.3g, at most %.3g (measured %.3g)",
                                             what, got, bound.most, bound.measured);
}

/* The rules of test_has itself: a loose one would let the wrong reason pass everywhere. */
void test_says(void)
{
    static const struct {
        bool has;
        const char *text, *parts;
    } rows[] = {
        { true, "a.gguf: blk.0.x is 64 x 32, needs 64 x 16", "a.gguf|blk.0.x|64 x 32|64 x 16" },
        { true, "a.gguf: missing", "missing" },
        { true, "layer 3: 3 found", "3|3" },
        { false, "layer 3", "3|3" },
        { false, "found 64, expected 32", "32|64" },
        { false, "found 640", "64" },
        { false, "found 640", "40" },
        { false, "blk.0.ssm_alpha is missing", "blk.0.ssm_a|missing" },
        { true, "--kv: 'q4' is none of f16|f32", "--kv|q4|f16|f32" },
        { true, "65: then 5", "5" },
        { false, "", "a" },
        { false, NULL, "a" },
    };
    test_case("parts of a message: in order, as whole words");
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        CHECK_MSG(test_has(rows[i].text, rows[i].parts) == rows[i].has, "row %u", i);
}
