/* lora: reads adapter files and checks them against a base; see lora.h. Sets are in lora_set.c. */
#include "lora/lora_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- base ------------------------------------------------------------------------------------ */

bool lora_base_matrix(struct lora_base *b, linear *w, bool beside)
{
    if (!mem_reserve(&b->matrix, b->n_matrix + 1, &b->cap_matrix, sizeof *b->matrix))
        return false;
    b->matrix[b->n_matrix++] = (struct base_matrix){ .w = w, .rows = b->n_rows, .beside = beside };
    return true;
}

bool lora_base_rows(struct lora_base *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n)
{
    if (!mem_reserve(&b->rows, b->n_rows + 1, &b->cap_rows, sizeof *b->rows))
        return false;
    struct base_matrix *m = &b->matrix[b->n_matrix - 1];
    const struct base_rows *last = m->n_rows ? &b->rows[b->n_rows - 1] : NULL;
    b->rows[b->n_rows++] =
        (struct base_rows){ .t = t, .row0 = row0, .n = n, .at = last ? last->at + last->n : 0 };
    m->n_rows++;
    return true;
}

bool lora_base_gate(struct lora_base *b, tensor at, const struct gguf_tensor *t)
{
    if (!mem_reserve(&b->gate, b->n_gate + 1, &b->cap_gate, sizeof *b->gate))
        return false;
    b->gate[b->n_gate++] = (struct base_gate){ .at = at, .t = t };
    return true;
}

void lora_base_free(struct lora_base *b)
{
    free(b->rows);
    free(b->matrix);
    free(b->gate);
    *b = (struct lora_base){ 0 };
}

/* True if the tensor is a matrix that multiplies activations. Decided by name and shape. */
static bool is_matrix(const struct gguf_tensor *t)
{
    static const char *const other[] = { "_norm.weight", ".ssm_conv1d.weight", "rope_freqs.weight",
                                         "token_embd.weight" };
    for (uint32_t i = 0; i < ARRAY_LEN(other); i++)
        if (ends_with(t->name, other[i]) || !strcmp(t->name, other[i]))
            return false;
    return ends_with(t->name, ".weight") && t->dim[3] == 1 && t->dim[1] * t->dim[2] <= UINT32_MAX &&
           (t->n_dim > 1 || ends_with(t->name, ".ffn_gate_inp_shexp.weight"));
}

bool lora_file_base(struct lora_file_base *b, const struct gguf *file, struct hlm_err *err)
{
    struct hlm_str arch = { 0 };
    uint64_t n = gguf_n_tensor(file);
    if (!gguf_str(file, "general.architecture", REQUIRED, &arch, err))
        return false;
    *b = (struct lora_file_base){ .base = { .file = file, .n_layer = UINT32_MAX },
                                  .matrix = mem_alloc(n + 1, sizeof *b->matrix) };
    snprintf(b->arch, sizeof b->arch, "%.*s", (int)min_u64(arch.n, sizeof b->arch - 1), arch.p);
    b->base.arch = b->arch;
    bool ok = b->matrix != NULL;
    for (uint64_t i = 0; ok && i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        if (is_matrix(t)) {
            b->matrix[i].n_out = (uint32_t)t->dim[1];
            ok = lora_base_matrix(&b->base, &b->matrix[i], false) &&
                 lora_base_rows(&b->base, t, 0, (uint32_t)(t->dim[1] * t->dim[2]));
        } else if (!ends_with(t->name, ".weight")) { /* lora_base_uses finds the gates among them */
            ok = lora_base_gate(&b->base, (tensor){ 0 }, t);
        }
    }
    return ok || fail_memory(err, "%.300s: out of memory", gguf_path(file));
}

void lora_file_base_free(struct lora_file_base *b)
{
    lora_base_free(&b->base);
    free(b->matrix);
    *b = (struct lora_file_base){ 0 };
}

/* ---- reading and checking -------------------------------------------------------------------- */

struct dims_text {
    char s[96];
};

static struct dims_text dims_text(const struct gguf_tensor *t)
{
    struct dims_text out;
    int n = snprintf(out.s, sizeof out.s, "%" PRIu64, t->dim[0]);
    for (uint32_t i = 1; i < t->n_dim && n > 0 && (size_t)n < sizeof out.s; i++)
        n += snprintf(out.s + n, sizeof out.s - (size_t)n, " x %" PRIu64, t->dim[i]);
    return out;
}

/* Refuses g. Returns false. */
static bool refuse_as(const struct gguf *g, struct hlm_err *err, enum hlm_error kind,
                      const char *fmt, ...) HLM_PRINTF(4, 5);
static bool refuse_as(const struct gguf *g, struct hlm_err *err, enum hlm_error kind,
                      const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return fail_as(err, kind, "%s: %s", gguf_path(g), what);
}
#define refuse_adapter(g, err, ...) refuse_as(g, err, HLM_ERR_INPUT, __VA_ARGS__)

static bool check_key(const struct gguf *g, const char *key, const char *want, struct hlm_err *err)
{
    struct hlm_str s = { 0 };
    if (!gguf_str(g, key, REQUIRED, &s, err))
        return false;
    if (s.n == strlen(want) && !memcmp(s.p, want, s.n))
        return true;
    return refuse_adapter(g, err, "%s is \"%.*s\", expected \"%s\"", key, (int)min_u64(s.n, 60),
                          s.p, want);
}

static bool check_keys(const struct gguf *g, const struct lora_base *b, float *alpha,
                       struct hlm_err *err)
{
    if (!check_key(g, "general.type", "adapter", err) ||
        !check_key(g, "general.architecture", b->arch, err) ||
        !check_key(g, "adapter.type", "lora", err) ||
        !gguf_f32(g, "adapter.lora.alpha", REQUIRED, alpha, err))
        return false;
    if (!isfinite(*alpha))
        return refuse_adapter(g, err, "adapter.lora.alpha is %g, expected a finite number",
                              (double)*alpha);
    if (gguf_kv(g, "adapter.alora.invocation_tokens"))
        return refuse_adapter(g, err,
                              "adapter.alora.invocation_tokens is set: adapters that a token "
                              "sequence activates are not supported");
    return true;
}

/* True if all values are finite. */
static bool check_values(const struct gguf *g, const struct gguf_tensor *t, struct hlm_err *err)
{
    const struct dtype_info *info = dtype_info(t->type);
    float v[1024];
    if (!info->to_f32)
        return refuse_as(g, err, HLM_ERR_UNSUPPORTED,
                         "%s has type %s, which this version of hlm cannot compute with", t->name,
                         info->name);
    uint64_t step = ARRAY_LEN(v) / info->block_len * info->block_len, bytes = 0;
    for (uint64_t at = 0; at < t->n_elem; at += step) {
        uint64_t n = min_u64(step, t->n_elem - at);
        dtype_bytes(t->type, at, &bytes);
        dtype_to_f32(t->type, t->data + bytes, n, v);
        for (uint64_t i = 0; i < n; i++)
            if (!isfinite(v[i]))
                return refuse_adapter(g, err,
                                      "%s: value %" PRIu64 " is %g, expected a finite number",
                                      t->name, at + i, (double)v[i]);
    }
    return true;
}

/* True if the tensor belongs to a draft block that is not loaded. */
static bool is_draft(const struct lora_base *b, const struct gguf_tensor *t)
{
    unsigned layer = 0;
    return sscanf(t->name, "blk.%u.", &layer) == 1 && layer >= b->n_layer &&
           layer - b->n_layer < b->n_mtp;
}

/* True if tensor and matrix divide their rows among experts in the same way. */
static bool same_experts(const struct linear *w, const struct base_rows *r)
{
    uint64_t per = r->t->dim[1], last = r->n - 1;
    if (r->t->dim[3] != 1)
        return false;
    if (r->t->dim[2] == 1 || (per == w->n_out && r->row0 == r->at))
        return true;
    uint64_t e = r->at / w->n_out;
    return r->row0 / per == e && (r->row0 + last) / per == e && (r->at + last) / w->n_out == e;
}

uint8_t *lora_base_uses(const struct lora_base *b)
{
    static const char *const gates[] = { DECAY, ".ssm_dt.bias", ".ssm_d" };
    uint8_t *use = mem_alloc(gguf_n_tensor(b->file) + 1, 1);
    for (uint64_t i = 0; use && i < b->n_matrix; i++) {
        const struct base_matrix *m = &b->matrix[i];
        for (uint64_t k = m->rows; k < m->rows + m->n_rows; k++) {
            uint8_t *u = &use[b->rows[k].t->index];
            if (*u != ODD_EXPERTS)
                *u = same_experts(m->w, &b->rows[k]) ? IN_A_MATRIX : ODD_EXPERTS;
        }
    }
    for (uint64_t i = 0; use && i < b->n_gate; i++)
        for (uint32_t k = 0; k < ARRAY_LEN(gates); k++)
            if (ends_with(b->gate[i].t->name, gates[k]))
                use[b->gate[i].t->index] = A_GATE;
    return use;
}

static bool check_pair(const struct gguf *g, const struct lora_base *b, const struct lora_pair *p,
                       struct hlm_err *err)
{
    const struct gguf_tensor *x = p->x, *bad = NULL;
    uint64_t rank = p->a->dim[1];
    if (p->a->dim[0] != x->dim[0] || p->a->dim[2] != x->dim[2] || p->a->dim[3] != 1)
        bad = p->a;
    else if (p->b->dim[1] != x->dim[1] || p->b->dim[2] != x->dim[2] || p->b->dim[3] != 1)
        bad = p->b;
    if (bad) {
        char experts[32] = "", want[64];
        if (x->dim[2] != 1)
            snprintf(experts, sizeof experts, " x %" PRIu64, x->dim[2]);
        if (bad == p->a)
            snprintf(want, sizeof want, "%" PRIu64 " x RANK%s", x->dim[0], experts);
        else
            snprintf(want, sizeof want, "RANK x %" PRIu64 "%s", x->dim[1], experts);
        return refuse_adapter(g, err, "%s is %s, expected %s, as %s is %s in %s", bad->name,
                              dims_text(bad).s, want, x->name, dims_text(x).s, gguf_path(b->file));
    }
    if (p->b->dim[0] != rank)
        return refuse_adapter(g, err, "%s has rank %" PRIu64 ", %s rank %" PRIu64, p->a->name, rank,
                              p->b->name, p->b->dim[0]);
    if (rank > MAX_RANK)
        return refuse_adapter(g, err, "%s has rank %" PRIu64 ", expected 1 to %d", p->a->name, rank,
                              MAX_RANK);
    return check_values(g, p->a, err) && check_values(g, p->b, err);
}

/* The reading of one adapter file. */
struct lora_reader {
    struct lora_file *f;
    const struct lora_base *b;
    struct hlm_err *err;
    const uint8_t *use; /* enum meets, by tensor of the base */
    float alpha;
    uint64_t n_norm, n_draft; /* ignored */
};

/* The tensor of the base whose name is this one without its last n_tail bytes. */
static const struct gguf_tensor *base_tensor(struct lora_reader *r, const char *name, size_t n_tail)
{
    char x[128];
    snprintf(x, sizeof x, "%.*s", (int)(strlen(name) - n_tail), name);
    const struct gguf_tensor *t = gguf_tensor(r->b->file, x);
    if (!t)
        refuse_adapter(r->f->g, r->err, "tensor %s: there is no %s in %s", name, x,
                       gguf_path(r->b->file));
    return t;
}

static bool read_gate_delta(struct lora_reader *r, const struct gguf_tensor *d)
{
    const struct gguf *g = r->f->g;
    const struct gguf_tensor *x = base_tensor(r, d->name, strlen(".delta"));
    if (!x)
        return false;
    if (r->use[x->index] != A_GATE)
        return refuse_adapter(g, r->err,
                              "tensor %s: only gates take deltas, and %s is not a gate of %s",
                              d->name, x->name, r->b->arch);
    if (d->n_elem != x->n_elem || (d->n_dim > 1 && memcmp(d->dim, x->dim, sizeof d->dim) != 0))
        return refuse_adapter(g, r->err, "%s is %s, expected %" PRIu64 ", as %s is %s in %s",
                              d->name, dims_text(d).s, x->n_elem, x->name, dims_text(x).s,
                              gguf_path(r->b->file));
    r->f->delta[r->f->n_delta++] = (struct lora_delta){ x, d, r->f->scale };
    return check_values(g, d, r->err);
}

static bool read_factors(struct lora_reader *r, const struct gguf_tensor *a)
{
    struct lora_file *f = r->f;
    char name[128];
    size_t tail = strlen(".lora_a"), n = strlen(a->name) - tail;
    bool is_a = ends_with(a->name, ".lora_a");
    snprintf(name, sizeof name, "%.*s%s", (int)n, a->name, is_a ? ".lora_b" : ".lora_a");
    const struct gguf_tensor *other = gguf_tensor(f->g, name), *x = base_tensor(r, a->name, tail);
    if (!x)
        return false;
    if (!other)
        return refuse_adapter(f->g, r->err, "tensor %s has no partner %s", a->name, name);
    if (!is_a)
        return true; /* it is read with its A */
    struct lora_pair p = { .x = x, .a = a, .b = other };
    bool embed = !strcmp(x->name, "token_embd.weight");
    if (embed || (r->use[x->index] != IN_A_MATRIX && !is_draft(r->b, x)))
        return refuse_adapter(f->g, r->err, "tensor %s: hlm cannot adapt %s%s", a->name, x->name,
                              embed ? ", the embedding"
                              : r->use[x->index] == ODD_EXPERTS
                                  ? ", whose experts are in an order it does not know"
                                  : ", which is not a matrix that activations are multiplied by");
    if (!check_pair(f->g, r->b, &p, r->err))
        return false;
    if (r->use[x->index] != IN_A_MATRIX) {
        r->n_draft++;
        return true;
    }
    p.rank = (uint32_t)a->dim[1];
    p.scale = r->alpha != 0 ? r->alpha / (float)p.rank * f->scale : f->scale;
    if (!isfinite(p.scale))
        return refuse_adapter(f->g, r->err,
                              "tensor %s: alpha %g, rank %u and a factor of %g give the scale "
                              "%g, expected a finite number",
                              a->name, (double)r->alpha, p.rank, (double)f->scale, (double)p.scale);
    f->pair[f->n_pair++] = p;
    return true;
}

static bool read_all_factors(struct lora_reader *r)
{
    const struct gguf *g = r->f->g;
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        bool ok = true;
        if (ends_with(t->name, ".lora_a") || ends_with(t->name, ".lora_b"))
            ok = read_factors(r, t);
        else if (ends_with(t->name, ".delta"))
            ok = read_gate_delta(r, t);
        else if (ends_with(t->name, "_norm.weight"))
            r->n_norm++;
        else
            ok = refuse_adapter(g, r->err,
                                "tensor %s: expected the name of a tensor followed by .lora_a or "
                                ".lora_b, or of a gate followed by .delta",
                                t->name);
        if (!ok)
            return false;
    }
    if (gguf_n_tensor(g) == 0)
        return refuse_adapter(g, r->err, "it has no tensors");
    if (r->n_norm)
        log_msg(HLM_LOG_WARN,
                "%s: %" PRIu64 " norm vectors are ignored: hlm adapts only matrices and gates",
                gguf_path(g), r->n_norm);
    if (r->n_draft)
        log_msg(HLM_LOG_WARN,
                "%s: %" PRIu64 " matrices of draft blocks are ignored: these blocks are not loaded",
                gguf_path(g), r->n_draft);
    return true;
}

/* Hashes what the adapter computes; the layout of the file does not matter. */
static bool hash_file(struct lora_file *f, float alpha, struct hlm_err *err)
{
    struct sum *s = sum_begin(err);
    if (!s)
        return false;
    sum_add(s, &alpha, sizeof alpha);
    for (uint64_t i = 0; i < gguf_n_tensor(f->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(f->g, i);
        uint32_t type = (uint32_t)t->type;
        sum_add(s, t->name, strlen(t->name) + 1);
        sum_add(s, &type, sizeof type);
        sum_add(s, t->dim, sizeof t->dim);
        sum_add(s, t->data, t->n_bytes);
    }
    uint64_t hash[2];
    sum_end(s, hash);
    f->hash = (struct lora_hash){ hash[0], hash[1] };
    return true;
}

struct lora_file *lora_file_check(struct gguf *g, float scale, const struct lora_base *b,
                                  struct hlm_err *err)
{
    struct lora_file *f = g ? mem_alloc(1, sizeof *f) : NULL;
    if (!f) {
        if (g)
            fail_memory(err, "%.300s: out of memory", gguf_path(g));
        gguf_close(g);
        return NULL;
    }
    f->g = g;
    f->scale = scale;
    f->pair = mem_alloc(gguf_n_tensor(g) / 2 + 1, sizeof *f->pair);
    f->delta = mem_alloc(gguf_n_tensor(g) + 1, sizeof *f->delta);
    uint8_t *use = lora_base_uses(b);
    struct lora_reader r = { .f = f, .b = b, .err = err, .use = use };
    bool ok =
        (f->pair && f->delta && use) || fail_memory(err, "%.300s: out of memory", gguf_path(g));
    ok = ok && (isfinite(scale) ||
                refuse_adapter(g, err, "a factor of %g, expected a finite number", (double)scale));
    ok =
        ok && check_keys(g, b, &r.alpha, err) && read_all_factors(&r) && hash_file(f, r.alpha, err);
    free(use);
    if (!ok) {
        lora_file_close(f);
        return NULL;
    }
    return f;
}

const struct gguf *lora_file_gguf(const struct lora_file *f) { return f->g; }

const char *lora_past_key(enum lora_past k)
{
    static const char *const keys[] = {
#define PAST(name, key) "hlm." key,
        LORA_PAST(PAST)
#undef PAST
    };
    return keys[k];
}

void lora_warn_of_base(const struct gguf *g, const char *path, const uint64_t hash[2])
{
    struct hash_text here = hash_text(hash);
    struct hlm_str was = { 0 };
    if (!gguf_str(g, lora_past_key(LORA_BASE_HASH), OPTIONAL, &was, NULL) || !was.n)
        return;
    if (was.n != strlen(here.s) || memcmp(was.p, here.s, was.n))
        log_msg(HLM_LOG_WARN,
                "%s: was trained on another file than %s: its answers may be wrong unless that is "
                "the same model in another quantisation",
                gguf_path(g), path);
}

bool lora_is_rslora(const struct gguf *g)
{
    struct hlm_str s = { 0 };
    return gguf_str(g, lora_past_key(LORA_SCALING), OPTIONAL, &s, NULL) &&
           s.n == strlen(LORA_RSLORA) && !memcmp(s.p, LORA_RSLORA, s.n);
}

void lora_file_close(struct lora_file *f)
{
    if (!f)
        return;
    gguf_close(f->g);
    free(f->pair);
    free(f->delta);
    free(f);
}
