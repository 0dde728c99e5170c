/* tok_split: the pre-tokenizers. Each is a row with its published expressions, run by PCRE2. To add
 * one, add a row.
 *
 * \s is spelt out: PCRE2 counts U+180E as white space, unlike Unicode and the models' own
 * tokenizers. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tok_parts.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* Parts that expressions share. White space inside a class; then \s and \S outside one. */
#define WS "\\t-\\r\\x{85}\\p{Z}"
#define SPACE "[" WS "]"
#define NO_SPACE "[^" WS "]"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define SPACES SPACE "*[\\r\\n]+|" SPACE "+(?!" NO_SPACE ")|" SPACE "+"
#define GPT4(letters, digits)                                                                      \
    CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?[" letters "]+|" digits "| ?[^" WS letters                 \
                 "\\p{N}]+[\\r\\n]*|" SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

enum { MAX_EXPR = 3 };
struct pre {
    const char *names;          /* all names of it in files, each followed by a space */
    bool ignore_merges;         /* a piece that is a token needs no merges */
    bool nfc, add_bos;          /* defaults, where the file does not say */
    const char *expr[MAX_EXPR]; /* each cuts the pieces of the one before */
};

static const struct pre table[] = {
    { "qwen2 ", false, true, false, { GPT4("\\p{L}", "\\p{N}") } },
    { "qwen35 ", false, true, false, { GPT4("\\p{L}\\p{M}", "\\p{N}") } },
    { "pixtral llama-bpe llama3 ", true, false, true, { GPT4("\\p{L}", "\\p{N}{1,3}") } },
    { "tekken ",
      true,
      false,
      true,
      { "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|"
        "[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|"
        "\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES } },
    { "deepseek-v3 ",
      false,
      false,
      false,
      { "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
        "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES } },
};
#undef WS
#undef SPACE
#undef NO_SPACE
#undef CONTRACTIONS
#undef SPACES
#undef GPT4
#undef UPPER
#undef LOWER

const struct pre *pre_find(struct hlm_str name)
{
    for (const struct pre *p = table; p < table + ARRAY_LEN(table); p++)
        for (const char *s = p->names, *end; *s; s = end + 1) {
            end = strchr(s, ' ');
            if ((uint64_t)(end - s) == name.n && !memcmp(s, name.p, name.n))
                return p;
        }
    return NULL;
}

const char *pre_list(char *buf, uint64_t n)
{
    uint64_t at = 0;
    for (const struct pre *p = table; p < table + ARRAY_LEN(table); p++)
        for (const char *s = p->names; *s && at + 1 < n; s++)
            buf[at++] = *s;
    buf[at ? at - 1 : 0] = 0; /* without the last space */
    return buf;
}

bool pre_ignores_merges(const struct pre *p) { return p->ignore_merges; }
bool pre_is_nfc(const struct pre *p) { return p->nfc; }
bool pre_adds_bos(const struct pre *p) { return p->add_bos; }

struct split {
    pcre2_code *code[MAX_EXPR];
    pcre2_match_data *match;
    pcre2_match_context *limits;
    bool nfc;
    struct nfc scratch;
};

struct split *split_create(const struct pre *p, bool nfc, struct hlm_err *err)
{
    struct split *s = mem_alloc(1, sizeof *s);
    if (!s)
        goto no_memory;
    s->nfc = nfc;
    for (int i = 0; i < MAX_EXPR && p->expr[i]; i++) {
        int code;
        size_t at;
        s->code[i] = pcre2_compile((PCRE2_SPTR)p->expr[i], PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        HLM_ASSERT(s->code[i] || code == PCRE2_ERROR_HEAP_FAILED);
        if (!s->code[i])
            goto no_memory;
        /* Fails harmlessly where memory cannot be both writable and executable: matching is then
         * slower. */
        pcre2_jit_compile(s->code[i], PCRE2_JIT_COMPLETE);
    }
    s->match = pcre2_match_data_create(1, NULL);
    s->limits = pcre2_match_context_create(NULL);
    if (s->match && s->limits)
        return s;
no_memory:
    fail_memory(err, "tokenizer: no memory for the pre-tokenizer");
    split_destroy(s);
    return NULL;
}

void split_destroy(struct split *s)
{
    if (!s)
        return;
    for (int i = 0; i < MAX_EXPR; i++)
        pcre2_code_free(s->code[i]);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->limits);
    nfc_finish(&s->scratch);
    free(s);
}

struct sink {
    piece_fn *fn;
    void *user;
};

/* Cuts the text into the matches of expression `level` and the gaps between them, and passes both
 * to the next expression. */
static bool cut(struct split *s, int level, const char *text, uint64_t n, struct sink out,
                struct hlm_err *err)
{
    if (level == MAX_EXPR || !s->code[level])
        return out.fn(out.user, text, n, err);
    for (uint64_t at = 0; at < n;) {
        int rc = pcre2_match(s->code[level], (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, s->match,
                             s->limits);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return fail(err,
                        "tokenizer: cannot split the text at byte %llu of %llu (PCRE2 error %d)",
                        (unsigned long long)at, (unsigned long long)n, rc);
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(s->match);
        uint64_t from = rc < 0 ? n : found[0], to = rc < 0 ? n : found[1];
        if (from > at && !cut(s, level + 1, text + at, from - at, out, err))
            return false;
        if (to > from && !cut(s, level + 1, text + from, to - from, out, err))
            return false;
        at = to; /* no expression matches the empty string */
    }
    return true;
}

bool split_text(struct split *s, const char *text, uint64_t n, piece_fn *fn, void *user,
                struct hlm_err *err)
{
    /* No expression backtracks more than a few times over a run of characters, so the work is
     * linear. The limit makes sure of it. */
    pcre2_set_match_limit(s->limits, (uint32_t)min_u64(UINT32_MAX, 10000000 + 16 * n));
    for (uint64_t at = 0; at < n;) {
        uint64_t good = at, bad;
        int len = 1;
        while (good < n && (len = utf8_next(text + good, n - good)) > 0)
            good += (uint64_t)len;
        const char *part = text + at;
        uint64_t n_part = good - at;
        if (s->nfc && !nfc_apply(&s->scratch, &part, &n_part, err))
            return false;
        if (!cut(s, 0, part, n_part, (struct sink){ fn, user }, err))
            return false;
        for (bad = good; bad < n && (len = utf8_next(text + bad, n - bad)) <= 0;)
            bad += len < 0 ? (uint64_t)-len : n - bad;
        if (bad > good && !fn(user, text + good, bad - good, err))
            return false;
        at = bad;
    }
    return true;
}
