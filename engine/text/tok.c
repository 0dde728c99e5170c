/* tok: the vocabulary, added tokens, and the way from spans to ids and back. See tok.h. Its parts
 * are declared in tok_parts.h.
 *
 * A GGUF writes the bytes of an ordinary token as printable characters (GPT-2's table). Loading
 * undoes this, so that tokens and merges are compared as plain bytes. */
#include "text/tok_parts.h"

#include <stdlib.h>
#include <string.h>

enum { /* tokenizer.ggml.token_type */
       NORMAL = 1,
       UNKNOWN,
       CONTROL,
       USER_DEFINED,
       UNUSED,
       BYTE
};
enum { /* flags of a token */
       IS_CONTROL = 1,
       IS_USER = 2,
       IS_UNUSED = 4,
       IS_EOG = 8
};
/* Longest added token and merge, in bytes. Real ones are below 64 and 600. The bounds keep the work
 * on a hostile vocabulary linear. */
enum { ADDED_MAX = 256, MERGE_MAX = 4096 };

struct entry {
    uint32_t tag;
    int32_t id;
}; /* an entry of the hash table; id -1: free */

struct tok {
    uint32_t n;
    char *bytes;         /* of all tokens, end to end */
    uint32_t *at;        /* [n + 1] where each begins */
    uint8_t *flags;      /* [n] */
    struct entry *table; /* bytes -> id; open addressing */
    uint32_t mask;

    int32_t *added; /* control and user-defined tokens in the order of their bytes */
    uint32_t n_added;
    uint32_t added_from[257]; /* where those with each first byte begin */

    struct bpe bpe;
    struct split *split;
    bool whole; /* a piece that is a token needs no merges */
    bool add_bos;
    int32_t bos;

    char *text; /* scratch: the text of consecutive spans */
    uint64_t text_cap;
    struct hlm_ids *out; /* the output of the call in progress */
};

/* ---- GPT-2's characters for bytes ------------------------------------------------------------ */

enum { N_CHAR = 324 }; /* code points below this may encode bytes */

/* Bytes 33..126, 161..172 and 174..255 are written as the code point of the same number. The other
 * 68, in order, are written as 256 and up. */
static void byte_chars(int16_t byte_of[N_CHAR])
{
    int next = 256;
    memset(byte_of, 0xff, N_CHAR * sizeof *byte_of);
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        byte_of[itself ? b : next++] = (int16_t)b;
    }
}

/* Writes the bytes of a token's characters, at most n. Other characters are copied unchanged. */
static uint32_t unmap(const int16_t byte_of[N_CHAR], const char *p, uint64_t n, char *out)
{
    uint32_t n_out = 0;
    for (uint64_t i = 0; i < n;) {
        uint8_t c = (uint8_t)p[i];
        bool two = (c & 0xe0) == 0xc0 && i + 1 < n && ((uint8_t)p[i + 1] & 0xc0) == 0x80;
        uint32_t cp = two ? (c & 0x1fu) << 6 | ((uint8_t)p[i + 1] & 0x3fu) : c < 0x80 ? c : N_CHAR;
        if (cp < N_CHAR && byte_of[cp] >= 0) {
            out[n_out++] = (char)byte_of[cp];
            i += two ? 2 : 1;
        } else {
            out[n_out++] = p[i++];
        }
    }
    return n_out;
}

/* ---- the table of texts ---------------------------------------------------------------------- */

static uint32_t hash_bytes(const char *p, uint64_t n)
{
    uint64_t h = n * 0x9e3779b97f4a7c15u, v;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&v, p, 8);
        h = (h ^ v) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 29;
    }
    v = 0;
    for (uint64_t i = 0; i < n; i++)
        v |= (uint64_t)(uint8_t)p[i] << 8 * i;
    h = (h ^ v) * 0x94d049bb133111ebu;
    return (uint32_t)(h >> 32);
}

/* The entry of a text, or the free one where it would go. */
static struct entry *text_slot(const struct tok *t, const char *p, uint64_t n, uint32_t tag)
{
    for (uint32_t i = tag & t->mask;; i = (i + 1) & t->mask) {
        struct entry *e = &t->table[i];
        if (e->id < 0)
            return e;
        if (e->tag == tag && t->at[e->id + 1] - t->at[e->id] == n &&
            !memcmp(t->bytes + t->at[e->id], p, n))
            return e;
    }
}

static int32_t find(const struct tok *t, const char *p, uint64_t n)
{
    return text_slot(t, p, n, hash_bytes(p, n))->id;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* The array of strings under `key`, or NULL with a reason. */
static const struct gguf_kv *strings(const struct gguf *g, const char *key, struct hlm_err *err)
{
    const struct gguf_kv *kv = gguf_kv(g, key);
    if (!kv)
        fail(err, "%s: %s is missing", gguf_path(g), key);
    else if (kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING)
        fail(err, "%s: %s is not an array of strings", gguf_path(g), key);
    else if (kv->n > INT32_MAX / 2)
        fail(err, "%s: %s has %llu entries", gguf_path(g), key, (unsigned long long)kv->n);
    else
        return kv;
    return NULL;
}

static bool load_types(struct tok *t, const struct gguf *g, struct hlm_err *err)
{
    static const char key[] = "tokenizer.ggml.token_type";
    static const uint8_t flags[] = {
        [UNKNOWN] = IS_CONTROL,
        [CONTROL] = IS_CONTROL,
        [USER_DEFINED] = IS_USER,
        [UNUSED] = IS_UNUSED,
        [BYTE] = 0,
    };
    const struct gguf_kv *kv = gguf_kv(g, key);
    if (!kv)
        return true; /* all are normal */
    if (kv->type != GGUF_ARRAY || (kv->elem != GGUF_I32 && kv->elem != GGUF_U32))
        return fail(err, "%s: %s is not an array of 32-bit integers", gguf_path(g), key);
    if (kv->n != t->n)
        return fail(err, "%s: %s has %llu entries for %u tokens", gguf_path(g), key,
                    (unsigned long long)kv->n, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t type;
        memcpy(&type, kv->data + 4ull * i, 4);
        if (type < NORMAL || type > BYTE)
            return fail(err, "%s: %s: token %u has type %d, known are 1 to 6", gguf_path(g), key, i,
                        (int)type);
        t->flags[i] = flags[type];
    }
    return true;
}

static bool load_tokens(struct tok *t, const struct gguf *g, const int16_t byte_of[N_CHAR],
                        struct hlm_err *err)
{
    const struct gguf_kv *kv = strings(g, "tokenizer.ggml.tokens", err);
    if (!kv)
        return false;
    if (!kv->n)
        return fail(err, "%s: the vocabulary is empty", gguf_path(g));
    uint64_t n_byte = 0;
    struct hlm_str s;
    for (struct gguf_str_iter it = { kv->data, kv->n }; gguf_next_str(&it, &s);)
        n_byte += s.n;
    uint32_t size = 16;
    while (size < kv->n + kv->n / 2)
        size *= 2;
    t->n = (uint32_t)kv->n;
    t->mask = size - 1;
    t->bytes = mem_alloc(n_byte, 1);
    t->at = mem_alloc(kv->n + 1, sizeof *t->at);
    t->flags = mem_alloc(kv->n, 1);
    t->table = mem_alloc(size, sizeof *t->table);
    if (n_byte > UINT32_MAX || !t->bytes || !t->at || !t->flags || !t->table)
        return fail_memory(err, "%s: no memory for a vocabulary of %llu bytes", gguf_path(g),
                           (unsigned long long)n_byte);
    memset(t->table, 0xff, size * sizeof *t->table);
    if (!load_types(t, g, err))
        return false;

    struct gguf_str_iter it = { kv->data, kv->n };
    for (uint32_t i = 0; i < t->n && gguf_next_str(&it, &s); i++) {
        char *to = t->bytes + t->at[i];
        uint32_t n = (uint32_t)s.n;
        if (t->flags[i])
            memcpy(to, s.p, s.n); /* the file does not encode the bytes of added tokens */
        else
            n = unmap(byte_of, s.p, s.n, to);
        t->at[i + 1] = t->at[i] + n;
        if (!n || t->flags[i] & IS_UNUSED)
            continue;
        uint32_t tag = hash_bytes(to, n);
        struct entry *e = text_slot(t, to, n, tag);
        if (e->id < 0) /* the first of several equal texts wins */
            *e = (struct entry){ tag, (int32_t)i };
    }
    return true;
}

static bool load_merges(struct tok *t, const struct gguf *g, const int16_t byte_of[N_CHAR],
                        struct hlm_err *err)
{
    static const char key[] = "tokenizer.ggml.merges";
    const struct gguf_kv *kv = strings(g, key, err);
    if (!kv || !bpe_init(&t->bpe, kv->n, err))
        return false;
    uint32_t n_missing = 0;
    for (int b = 0; b < 256; b++) {
        int32_t id = find(t, &(char){ (char)b }, 1);
        t->bpe.byte_id[b] = id >= 0 && !t->flags[id] ? id : -1;
        n_missing += t->bpe.byte_id[b] < 0;
    }
    if (n_missing)
        log_msg(HLM_LOG_WARN, "%s: %u of the 256 bytes have no token and will be lost from text",
                gguf_path(g), n_missing);

    struct gguf_str_iter it = { kv->data, kv->n };
    struct hlm_str s;
    for (uint32_t rank = 0; gguf_next_str(&it, &s); rank++) {
        char buf[MERGE_MAX];
        const char *space = s.n > 2 && s.n <= sizeof buf ? memchr(s.p + 1, ' ', s.n - 2) : NULL;
        if (!space)
            return fail(err, "%s: %s: entry %u is not a pair of tokens", gguf_path(g), key, rank);
        uint32_t n_left = unmap(byte_of, s.p, (uint64_t)(space - s.p), buf);
        uint32_t n_right =
            unmap(byte_of, space + 1, (uint64_t)(s.p + s.n - space - 1), buf + n_left);
        int32_t left = find(t, buf, n_left), right = find(t, buf + n_left, n_right);
        int32_t id = find(t, buf, n_left + n_right);
        if (left < 0 || right < 0 || id < 0)
            return fail(err, "%s: %s: entry %u, \"%s\", names a token not in the vocabulary",
                        gguf_path(g), key, rank, show_text(s.p, s.n, 60).s);
        /* Ordinary text must never turn into a control token, whatever the merges say. */
        if (!(t->flags[id] & IS_CONTROL))
            bpe_add(&t->bpe, left, right, rank, id);
    }
    return true;
}

struct added {
    const char *p;
    uint32_t n;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct added *x = a, *y = b;
    int c = memcmp(x->p, y->p, min_u32(x->n, y->n));
    return c ? c : x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->id > y->id) - (x->id < y->id);
}

/* Sorts the added tokens, so that those with the same beginning are neighbours. */
static bool load_added(struct tok *t, const struct gguf *g, struct hlm_err *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        n += (t->flags[i] & (IS_CONTROL | IS_USER)) != 0;
    struct added *list = mem_alloc(n, sizeof *list);
    t->added = mem_alloc(n, sizeof *t->added);
    bool ok = list && t->added;
    if (!ok)
        fail_memory(err, "%s: no memory for %u added tokens", gguf_path(g), n);
    for (uint32_t i = 0; ok && i < t->n; i++) {
        struct hlm_str s = tok_bytes(t, (int32_t)i);
        if (!(t->flags[i] & (IS_CONTROL | IS_USER)) || !s.n)
            continue;
        if (s.n > ADDED_MAX)
            ok = fail(err, "%s: added token %u has %llu bytes, expected at most %d", gguf_path(g),
                      i, (unsigned long long)s.n, ADDED_MAX);
        list[t->n_added++] = (struct added){ s.p, (uint32_t)s.n, (int32_t)i };
    }
    if (ok && t->n_added)
        qsort(list, t->n_added, sizeof *list, by_bytes);
    for (uint32_t i = 0; ok && i < t->n_added; i++) {
        t->added[i] = list[i].id;
        t->added_from[(uint8_t)*list[i].p + 1] = i + 1;
    }
    for (int c = 0; c < 256; c++)
        t->added_from[c + 1] = max_u32(t->added_from[c + 1], t->added_from[c]);
    free(list);
    return ok;
}

/* Reads tokenizer.ggml.NAME_token_id; *id is -1 when the key is missing. */
static bool read_id(const struct tok *t, const struct gguf *g, const char *name, int32_t *id,
                    struct hlm_err *err)
{
    char key[64] = "tokenizer.ggml.";
    uint32_t v = UINT32_MAX;
    strcat(strcat(key, name), "_token_id");
    *id = -1;
    if (!gguf_kv(g, key))
        return true;
    if (!gguf_u32(g, key, REQUIRED, &v, err))
        return false;
    if (v >= t->n)
        return fail(err, "%s: %s is %u, the vocabulary has %u tokens", gguf_path(g), key, v, t->n);
    *id = (int32_t)v;
    return true;
}

static bool load_ends(struct tok *t, const struct gguf *g, struct hlm_err *err)
{
    static const char *const key[] = { "eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep" };
    /* clang-format off */
    static const char *const text[] = {
        "<|im_end|>",    "<|endoftext|>",   "<|eot_id|>",   "<|eom_id|>",
        "<|end|>",       "<|end_of_text|>", "</s>",         "<｜end▁of▁sentence｜>",
        "<end_of_turn>", "<EOT>",           "[EOT]",        "[EOS]",
        "<|fim_pad|>",   "<|repo_name|>",   "<|file_sep|>",
        "<｜▁pad▁｜>", /* Step 3.5 lists it as an eos, but a file has only one key for that */
    };
    /* clang-format on */
    int32_t id;
    for (uint32_t i = 0; i < ARRAY_LEN(key); i++) {
        if (!read_id(t, g, key[i], &id, err))
            return false;
        if (id >= 0)
            t->flags[id] |= IS_EOG;
    }
    for (uint32_t i = 0; i < ARRAY_LEN(text); i++)
        if ((id = tok_find(t, text[i])) >= 0)
            t->flags[id] |= IS_EOG;
    return true;
}

static bool looks_control(struct hlm_str s)
{
    return s.n >= 3 && s.p[0] == '<' && s.p[s.n - 1] == '>';
}

/* Files exist whose control tokens have the type of ordinary or of added ones. Prompts would then
 * not find them, or take them from a message's own text. So the tokens that the keys name, and
 * those that frame the turns of known templates, are control tokens whatever their type is. */
static bool mark_control(struct tok *t, const struct gguf *g, struct hlm_err *err)
{
    static const char *const key[] = { "bos", "eos", "eot", "eom" };
    static const char *const text[] = {
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end_of_text|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
    };
    uint32_t n = 0;
    int32_t id, first = -1;
    for (uint32_t i = 0; i < ARRAY_LEN(key) + ARRAY_LEN(text); i++) {
        if (i >= ARRAY_LEN(key))
            id = tok_find(t, text[i - ARRAY_LEN(key)]);
        else if (!read_id(t, g, key[i], &id, err))
            return false;
        if (id < 0 || t->flags[id] & (IS_CONTROL | IS_UNUSED) || !looks_control(tok_bytes(t, id)))
            continue;
        t->flags[id] = (uint8_t)((t->flags[id] & ~IS_USER) | IS_CONTROL);
        first = n++ ? first : id;
    }
    if (n)
        log_msg(HLM_LOG_WARN,
                "%s: tokenizer.ggml.token_type has another type than control for %u control "
                "token%s, as %s: taken as control",
                gguf_path(g), n, n == 1 ? "" : "s",
                show_text(tok_bytes(t, first).p, tok_bytes(t, first).n, 40).s);
    return true;
}

static bool load_pre(struct tok *t, const struct gguf *g, struct hlm_err *err)
{
    struct hlm_str model = { "", 0 }, name = { "", 0 };
    char known[128];
    if (!gguf_str(g, "tokenizer.ggml.model", REQUIRED, &model, err) ||
        !gguf_str(g, "tokenizer.ggml.pre", OPTIONAL, &name, err))
        return false;
    if (model.n != 4 || memcmp(model.p, "gpt2", 4))
        return fail(err, "%s: tokenizer.ggml.model is \"%s\", known is gpt2", gguf_path(g),
                    show_text(model.p, model.n, 60).s);
    const struct pre *pre = pre_find(name);
    if (!pre)
        return fail(err, "%s: tokenizer.ggml.pre is \"%s\", known are %s", gguf_path(g),
                    show_text(name.p, name.n, 60).s, pre_list(known, sizeof known));

    bool nfc = pre_is_nfc(pre);
    t->add_bos = pre_adds_bos(pre);
    t->whole = pre_ignores_merges(pre);
    if (!gguf_bool(g, "tokenizer.ggml.normalizer.nfc", OPTIONAL, &nfc, err) ||
        !gguf_bool(g, "tokenizer.ggml.add_bos_token", OPTIONAL, &t->add_bos, err) ||
        !read_id(t, g, "bos", &t->bos, err))
        return false;
    t->split = split_create(pre, nfc, err);
    return t->split != NULL;
}

struct tok *tok_create(const struct gguf *g, struct hlm_err *err)
{
    int16_t byte_of[N_CHAR];
    byte_chars(byte_of);
    struct tok *t = mem_alloc(1, sizeof *t);
    if (!t)
        fail_memory(err, "%s: no memory for the tokenizer", gguf_path(g));
    else if (load_tokens(t, g, byte_of, err) && load_pre(t, g, err) && mark_control(t, g, err) &&
             load_merges(t, g, byte_of, err) && load_added(t, g, err) && load_ends(t, g, err))
        return t;
    tok_destroy(t);
    return NULL;
}

void tok_destroy(struct tok *t)
{
    if (!t)
        return;
    split_destroy(t->split);
    bpe_finish(&t->bpe);
    free(t->bytes);
    free(t->at);
    free(t->flags);
    free(t->table);
    free(t->added);
    free(t->text);
    free(t);
}

/* ---- text to ids ----------------------------------------------------------------------------- */

void hlm_ids_free(struct hlm_ids *ids)
{
    free(ids->id);
    *ids = (struct hlm_ids){ 0 };
}

bool tok_ids_push(struct hlm_ids *ids, const int32_t *id, uint32_t n, struct hlm_err *err)
{
    uint64_t want = (uint64_t)ids->n + n, cap = ids->cap;
    if (want > UINT32_MAX || !mem_reserve(&ids->id, want, &cap, sizeof *ids->id))
        return fail_memory(err, "tokenizer: no memory for %llu token ids",
                           (unsigned long long)want);
    ids->cap = (uint32_t)min_u64(cap, UINT32_MAX);
    for (uint32_t i = 0; i < n; i++)
        ids->id[ids->n++] = id[i];
    return true;
}

static bool encode_piece(void *user, const char *piece, uint64_t n, struct hlm_err *err)
{
    struct tok *t = user;
    int32_t id = t->whole ? find(t, piece, n) : -1;
    if (id >= 0 && !(t->flags[id] & IS_CONTROL))
        return tok_ids_push(t->out, &id, 1, err);
    return bpe_piece(&t->bpe, piece, n, t->out, err);
}

/* The first of added[lo .. hi) whose byte k is at least c. All are equal before byte k. */
static uint32_t first_from(const struct tok *t, uint32_t lo, uint32_t hi, uint64_t k, int c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)t->bytes[t->at[t->added[mid]] + k] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest added token that the text begins with, or -1. Control tokens must lie within the
 * first n_special bytes. Candidates are sorted; each byte narrows their range. */
static int32_t match_added(const struct tok *t, const char *text, uint64_t n, uint64_t n_special)
{
    uint8_t c = (uint8_t)text[0];
    uint32_t lo = t->added_from[c], hi = t->added_from[c + 1];
    int32_t best = -1;
    for (uint64_t k = 1; lo < hi; k++) {
        /* Tokens that end here come first in the range. The first of equal tokens wins. */
        for (int32_t found = -1; lo < hi && tok_bytes(t, t->added[lo]).n == k; lo++)
            if (found < 0 && (k <= n_special || !(t->flags[t->added[lo]] & IS_CONTROL)))
                best = found = t->added[lo];
        if (k == n)
            break;
        lo = first_from(t, lo, hi, k, (uint8_t)text[k]);
        hi = first_from(t, lo, hi, k, (uint8_t)text[k] + 1);
    }
    return best;
}

/* Encodes spans without ids as one text. Added tokens are found before NFC, as the models' own
 * tokenizers do. A control token may cross the borders of special spans. */
static bool encode_run(struct tok *t, const struct tok_span *span, uint32_t n_span,
                       struct hlm_err *err)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_span; i++)
        if (!size_add(n, span[i].len, &n))
            return fail(err, "tokenizer: the text is too long");
    if (!n)
        return true;
    if (!tok_room((void **)&t->text, &t->text_cap, n, 1, err))
        return false;
    n = 0;
    for (uint32_t i = 0; i < n_span; i++) {
        if (span[i].len)
            memcpy(t->text + n, span[i].text, span[i].len);
        n += span[i].len;
    }

    /* region: where the consecutive spans of one kind around i end. special: the same if they are
     * special, else 0. */
    uint64_t done = 0, region = 0, special = 0;
    for (uint64_t i = 0, k = 0; i < n;) {
        while (i >= region && k < n_span) {
            bool is = span[k].special;
            while (k < n_span && span[k].special == is)
                region += span[k++].len;
            special = is ? region : 0;
        }
        int32_t id = match_added(t, t->text + i, n - i, special > i ? special - i : 0);
        if (id < 0) {
            i++;
            continue;
        }
        if (!split_text(t->split, t->text + done, i - done, encode_piece, t, err) ||
            !tok_ids_push(t->out, &id, 1, err))
            return false;
        done = i += tok_bytes(t, id).n;
    }
    return split_text(t->split, t->text + done, n - done, encode_piece, t, err);
}

bool tok_encode(struct tok *t, const struct tok_span *span, uint32_t n_span, struct hlm_ids *out,
                struct hlm_err *err)
{
    t->out = out;
    for (uint32_t i = 0; i < n_span;) {
        uint32_t end = i;
        while (end < n_span && !span[end].ids)
            end++;
        if (!encode_run(t, span + i, end - i, err))
            return false;
        if (end < n_span && !tok_ids_push(out, span[end].ids, span[end].n_ids, err))
            return false;
        i = end + 1;
    }
    return true;
}

bool tok_encode_text(struct tok *t, const char *text, uint64_t len, bool special,
                     struct hlm_ids *out, struct hlm_err *err)
{
    return tok_encode(t, &(struct tok_span){ .text = text, .len = len, .special = special }, 1, out,
                      err);
}

/* ---- ids to text, and properties of tokens --------------------------------------------------- */

static bool in(const struct tok *t, int32_t id, uint8_t flags)
{
    return id >= 0 && (uint32_t)id < t->n && t->flags[id] & flags;
}

struct hlm_str tok_bytes(const struct tok *t, int32_t id)
{
    if (id < 0 || (uint32_t)id >= t->n || in(t, id, IS_UNUSED))
        return (struct hlm_str){ "", 0 };
    return (struct hlm_str){ t->bytes + t->at[id], t->at[id + 1] - t->at[id] };
}

uint32_t tok_n_vocab(const struct tok *t) { return t->n; }
int32_t tok_find(const struct tok *t, const char *text) { return find(t, text, strlen(text)); }
bool tok_is_eog(const struct tok *t, int32_t id) { return in(t, id, IS_EOG); }
bool tok_is_unused(const struct tok *t, int32_t id) { return in(t, id, IS_UNUSED); }
bool tok_is_special(const struct tok *t, int32_t id) { return in(t, id, IS_CONTROL); }

bool tok_add_bos(const struct tok *t, int32_t *bos)
{
    *bos = t->bos;
    return t->add_bos && t->bos >= 0;
}

bool tok_lead_bos(const struct tok *t, struct hlm_ids *ids, uint32_t at, struct hlm_err *err)
{
    int32_t bos;
    if (!tok_add_bos(t, &bos) || (ids->n > at && ids->id[at] == bos))
        return true;
    if (!tok_ids_push(ids, &bos, 1, err))
        return false;
    memmove(ids->id + at + 1, ids->id + at, (ids->n - at - 1) * sizeof *ids->id);
    ids->id[at] = bos;
    return true;
}
