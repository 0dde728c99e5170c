/* merge: see merge.h. lora.c reads and checks the adapters. The base is only a file: each matrix is
 * one tensor, and draft blocks are included. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "lora/merge.h"
#include "lora/lora_parts.h"
#include "base/quant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_ADAPTERS = 32, COPY = 1 << 20 };

/* What becomes of a tensor in the file that is written. */
struct merge_fate {
    bool drop, gate, touched;
    enum dtype type;
    uint64_t n_bytes;
    struct lora_hash sum; /* of the bytes that were written */
};

struct merge_run {
    const struct hlm_merge_params *p;
    struct hlm_err *err;
    struct gguf *base;
    struct lora_file_base fb;
    struct lora_file *file[MAX_ADAPTERS];
    enum dtype type; /* of p->type, if that is set */
    struct merge_fate *fate;
    uint64_t done, total;
    /* memory for one row */
    float *w, *after;
    double *d;
    uint8_t *bytes;
};

static bool merge_no_memory(struct merge_run *m)
{
    return fail_memory(m->err, "%.300s: out of memory", m->p->model);
}

/* Reports that n more bytes are done. False: the caller of hlm_merge wants to stop. */
static bool merge_progress(struct merge_run *m, uint64_t n)
{
    m->done += n;
    bool on = !m->p->progress || m->p->progress(m->p->user, m->done, m->total);
    log_to(&m->p->log);
    return on || fail_stopped(m->err);
}

/* ---- the base -------------------------------------------------------------------------------- */

static bool see_base(struct merge_run *m)
{
    uint64_t n = gguf_n_tensor(m->base);
    m->fate = mem_alloc(n + 1, sizeof *m->fate);
    if (!m->fate)
        return merge_no_memory(m);
    for (uint64_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->base, i);
        m->fate[i] = (struct merge_fate){ .type = t->type, .n_bytes = t->n_bytes };
    }
    return lora_file_base(&m->fb, m->base, m->err);
}

/* ---- what adapters change -------------------------------------------------------------------- */

static bool refuse_tensor(struct merge_run *m, const struct gguf_tensor *t, const char *why)
{
    return fail_as(m->err, HLM_ERR_UNSUPPORTED, "%.200s: %s is %s, %s", gguf_path(m->base), t->name,
                   dtype_info(t->type)->name, why);
}

static bool touch_matrix(struct merge_run *m, const struct gguf_tensor *t)
{
    char scale[96], why[160];
    struct merge_fate *f = &m->fate[t->index];
    f->touched = true;
    if (m->p->type && t->n_dim > 1)
        f->type = m->type;
    const struct dtype_info *from = dtype_info(t->type), *to = dtype_info(f->type);
    if (!from->to_f32)
        return refuse_tensor(m, t, "which this version of hlm cannot compute with");
    snprintf(scale, sizeof scale, "%.*s.scale", (int)(strlen(t->name) - strlen(".weight")),
             t->name);
    if (t->type == NVFP4 && gguf_tensor(m->base, scale))
        return refuse_tensor(m, t, "with scales in a separate tensor: hlm cannot merge into it");
    if (!quant_has(f->type))
        return refuse_tensor(m, t, "which hlm does not write: name another type");
    if (t->dim[0] % to->block_len) {
        snprintf(why, sizeof why, "with rows of %" PRIu64 ": %s needs a multiple of %" PRIu32,
                 t->dim[0], to->name, to->block_len);
        return refuse_tensor(m, t, why);
    }
    bool fits = dtype_bytes(f->type, t->n_elem, &f->n_bytes);
    HLM_ASSERT(fits);
    return true;
}

static bool touch_gate(struct merge_run *m, const struct gguf_tensor *t)
{
    struct merge_fate *f = &m->fate[t->index];
    f->touched = f->gate = true;
    return t->type == F32 || refuse_tensor(m, t, "a gate, which hlm changes in F32 only");
}

static bool touch(struct merge_run *m, const struct lora_file *l)
{
    bool ok = true;
    for (uint64_t i = 0; ok && !m->p->gates_only && i < l->n_pair; i++)
        ok = touch_matrix(m, l->pair[i].x);
    for (uint64_t i = 0; ok && i < l->n_delta; i++)
        ok = touch_gate(m, l->delta[i].x);
    return ok;
}

static bool open_adapters(struct merge_run *m)
{
    uint64_t hash[2];
    bool has_hash = !m->p->any_base && gguf_hash(m->base, hash, NULL);
    for (uint32_t i = 0; i < m->p->n_lora; i++) {
        const struct hlm_lora *a = &m->p->lora[i];
        struct gguf *g = gguf_open(a->path, m->err);
        m->file[i] = lora_file_check(g, a->scale, &m->fb.base, m->err);
        if (m->file[i] && has_hash)
            lora_warn_of_base(g, m->p->model, hash);
        if (!m->file[i] || !touch(m, m->file[i]))
            return false;
    }
    if (!m->p->gates_only)
        return true;
    const struct lora_file *l = m->file[0];
    if (!l->n_delta)
        return fail(m->err, "%.200s: it has no gate deltas, so there is nothing to separate",
                    gguf_path(l->g));
    return l->n_pair || fail(m->err,
                             "%.200s: it has only gate deltas: after merging them, no "
                             "adapter would be left",
                             gguf_path(l->g));
}

/* ---- one row --------------------------------------------------------------------------------- */

/* The factors of one adapter for the tensor being merged. Of A only one expert's are in memory. */
struct merge_factor {
    const struct lora_pair *p;
    double scale; /* that of p, not rounded to float */
    float *a, *b;
    uint64_t expert; /* the expert whose A is in a; UINT64_MAX: none yet */
};

struct merge_tensor {
    struct merge_run *m;
    const struct gguf_tensor *t;
    struct merge_fate *f;
    struct merge_factor factor[MAX_ADAPTERS];
    uint32_t n;
    double dd, wd, ww, ee; /* <D,D>, <W'-W,D>, <W,W>, |W'-W-D|^2 */
};

static void read_values(const struct gguf_tensor *t, uint64_t at, uint64_t n, float *to)
{
    uint64_t bytes = 0;
    dtype_bytes(t->type, at, &bytes);
    dtype_to_f32(t->type, t->data + bytes, n, to);
}

/* D of a row, in double. Rows of all experts are numbered consecutively. False: D is zero. */
static bool row_delta(struct merge_tensor *x, uint64_t row)
{
    uint64_t n = x->t->dim[0], expert = row / x->t->dim[1];
    double *d = x->m->d;
    bool any = false;
    memset(d, 0, (size_t)n * sizeof *d);
    for (struct merge_factor *f = x->factor; f < x->factor + x->n; f++) {
        uint64_t r = f->p->rank;
        if (f->expert != expert)
            read_values(f->p->a, expert * r * n, r * n, f->a);
        f->expert = expert;
        read_values(f->p->b, row * r, r, f->b);
        for (uint64_t k = 0; k < r; k++) {
            double s = f->scale * (double)f->b[k];
            const float *a = f->a + k * n;
            if (s == 0)
                continue;
            any = true;
            for (uint64_t i = 0; i < n; i++)
                d[i] += s * (double)a[i];
        }
    }
    return any;
}

static void measure_row(struct merge_tensor *x)
{
    const struct merge_run *m = x->m;
    for (uint64_t i = 0; i < x->t->dim[0]; i++) {
        double d = m->d[i], moved = (double)m->after[i] - (double)m->w[i];
        x->dd += d * d;
        x->wd += moved * d;
        x->ww += (double)m->w[i] * (double)m->w[i];
        x->ee += (moved - d) * (moved - d);
    }
}

/* Writes the merged row to m->bytes, in the type of the file. */
static bool merge_row(struct merge_tensor *x, uint64_t row, uint64_t old_bytes)
{
    struct merge_run *m = x->m;
    const struct gguf_tensor *t = x->t;
    uint64_t n = t->dim[0];
    const uint8_t *old = t->data + row * old_bytes;
    dtype_to_f32(t->type, old, n, m->w);
    bool any = row_delta(x, row), same = x->f->type == t->type;
    if (!any && same) {
        memcpy(m->bytes, old, (size_t)old_bytes);
        memcpy(m->after, m->w, (size_t)n * sizeof *m->w);
    } else {
        for (uint64_t i = 0; i < n; i++)
            m->after[i] = (float)((double)m->w[i] + m->d[i]);
        if (!quant_from_f32(x->f->type, m->after, n, same ? old : NULL, m->bytes))
            return fail(m->err,
                        "%.200s: %s: row %" PRIu64 " of the merged tensor has a number "
                        "that is not finite or too large for %s",
                        gguf_path(m->base), t->name, row, dtype_info(x->f->type)->name);
        dtype_to_f32(x->f->type, m->bytes, n, m->after);
    }
    measure_row(x);
    return true;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static void report_tensor(const struct merge_tensor *x)
{
    const struct merge_run *m = x->m;
    struct hlm_merged t = { .name = x->t->name,
                            .gate = x->f->gate,
                            .from = dtype_info(x->t->type)->name,
                            .to = dtype_info(x->f->type)->name };
    t.size = x->ww > 0 ? sqrt(x->dd / x->ww) : x->dd > 0 ? (double)INFINITY : 0;
    t.kept = x->dd > 0 ? x->wd / x->dd : 1;
    t.noise = x->dd > 0 ? sqrt(x->ee / x->dd) : x->ee > 0 ? (double)INFINITY : 0;
    if (m->p->merged)
        m->p->merged(m->p->user, &t);
    log_to(&m->p->log);
}

static bool merge_put(struct merge_run *m, struct file_out *out, struct sum *sum, const void *bytes,
                      uint64_t n)
{
    sum_add(sum, bytes, n);
    return file_out_put(out, bytes, n, m->err) && merge_progress(m, n);
}

static double exact_scale(const struct lora_file *l, const struct lora_pair *p)
{
    float alpha = 0;
    gguf_f32(l->g, "adapter.lora.alpha", REQUIRED, &alpha, NULL); /* checked by lora.c */
    return (alpha != 0 ? (double)alpha / p->rank : 1) * (double)l->scale;
}

static bool put_matrix(struct merge_tensor *x, struct file_out *out, struct sum *sum)
{
    struct merge_run *m = x->m;
    uint64_t n_row = x->t->dim[1] * x->t->dim[2], old_bytes = 0, new_bytes = 0;
    bool ok = true;
    dtype_bytes(x->t->type, x->t->dim[0], &old_bytes);
    dtype_bytes(x->f->type, x->t->dim[0], &new_bytes);
    for (uint32_t i = 0; ok && i < m->p->n_lora; i++)
        for (uint64_t k = 0; ok && k < m->file[i]->n_pair; k++) {
            const struct lora_pair *p = &m->file[i]->pair[k];
            if (p->x != x->t)
                continue;
            struct merge_factor *f = &x->factor[x->n++];
            *f = (struct merge_factor){ p, exact_scale(m->file[i], p),
                                        mem_alloc(p->rank * x->t->dim[0], sizeof(float)),
                                        mem_alloc(p->rank, sizeof(float)), UINT64_MAX };
            ok = (f->a && f->b) || merge_no_memory(m);
        }
    for (uint64_t row = 0; ok && row < n_row; row++)
        ok = merge_row(x, row, old_bytes) && merge_put(m, out, sum, m->bytes, new_bytes);
    for (uint32_t i = 0; i < x->n; i++) {
        free(x->factor[i].a);
        free(x->factor[i].b);
    }
    if (ok)
        report_tensor(x);
    return ok;
}

/* Computes the same numbers as lora_set_use writes to the device. */
static bool put_gate(struct merge_tensor *x, struct file_out *out, struct sum *sum)
{
    struct merge_run *m = x->m;
    bool decay = ends_with(x->t->name, DECAY);
    uint64_t n = x->t->n_elem;
    double *add = mem_alloc(n, sizeof *add);
    float *v = mem_alloc(n, sizeof *v), *d = mem_alloc(n, sizeof *d);
    bool ok = (add && v && d) || merge_no_memory(m);
    for (uint32_t i = 0; ok && i < m->p->n_lora; i++)
        for (uint64_t k = 0; k < m->file[i]->n_delta; k++) {
            const struct lora_delta *s = &m->file[i]->delta[k];
            if (s->x != x->t)
                continue;
            dtype_to_f32(s->d->type, s->d->data, n, d);
            for (uint64_t j = 0; j < n; j++)
                add[j] += (double)s->scale * (double)d[j];
        }
    if (ok)
        dtype_to_f32(F32, x->t->data, n, v);
    for (uint64_t j = 0; ok && j < n; j++) {
        double w = (double)v[j];
        v[j] = (float)(decay ? w * exp(add[j]) : w + add[j]);
        x->ww += w * w;
        x->dd += ((double)v[j] - w) * ((double)v[j] - w);
        if (!isfinite(v[j]))
            ok = fail(m->err, "%.200s: %s: value %" PRIu64 " becomes %g, expected a finite number",
                      gguf_path(m->base), x->t->name, j, (double)v[j]);
    }
    x->wd = x->dd;
    ok = ok && merge_put(m, out, sum, v, n * sizeof *v);
    if (ok)
        report_tensor(x);
    free(add);
    free(v);
    free(d);
    return ok;
}

static bool merge_put_tensor(struct merge_run *m, struct file_out *out, const struct gguf_tensor *t,
                             struct merge_fate *f)
{
    struct merge_tensor x = { .m = m, .t = t, .f = f };
    struct sum *sum = sum_begin(m->err);
    uint64_t hash[2];
    bool ok = sum != NULL;
    if (ok && f->touched)
        ok = f->gate ? put_gate(&x, out, sum) : put_matrix(&x, out, sum);
    for (uint64_t at = 0; ok && !f->touched && at < t->n_bytes; at += COPY)
        ok = merge_put(m, out, sum, t->data + at, min_u64(COPY, t->n_bytes - at));
    if (sum)
        sum_end(sum, hash);
    if (ok)
        f->sum = (struct lora_hash){ hash[0], hash[1] };
    return ok;
}

/* ---- the file -------------------------------------------------------------------------------- */

static void merge_put_keys(struct gguf_out *o, const struct gguf *g)
{
    uint64_t none = 0;
    for (uint64_t i = 0; i < gguf_n_kv(g); i++) {
        struct gguf_kv kv = *gguf_kv_at(g, i);
        /* Several shards become one file; 0 shards says that it is complete. */
        if (!strcmp(kv.key, "split.count") && kv.type != GGUF_ARRAY &&
            gguf_kv_bytes(&kv) <= sizeof none)
            kv.data = (const uint8_t *)&none;
        gguf_out_kv(o, &kv);
    }
}

static bool write_file(struct merge_run *m, struct file_out *out, const struct gguf *g,
                       struct merge_fate *fate)
{
    uint32_t alignment = 32;
    uint64_t n = 0;
    if (!gguf_u32(g, "general.alignment", OPTIONAL, &alignment, m->err))
        return false;
    struct gguf_out o = {
        .put = gguf_out_to_file, .user = out, .err = m->err, .alignment = alignment
    };
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        n += !fate[i].drop;
    gguf_out_begin(&o, n, gguf_n_kv(g));
    merge_put_keys(&o, g);
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (!fate[i].drop)
            gguf_out_tensor(&o, t->name, fate[i].type, t->n_dim, t->dim);
    }
    bool ok = gguf_out_pad(&o);
    for (uint64_t i = 0; ok && i < gguf_n_tensor(g); i++) {
        if (fate[i].drop)
            continue;
        ok = merge_put_tensor(m, out, gguf_tensor_at(g, i), &fate[i]);
        o.at += fate[i].n_bytes;
        ok = ok && gguf_out_pad(&o);
    }
    return ok;
}

/* ---- reading back ---------------------------------------------------------------------------- */

static bool sum_tensor(struct merge_run *m, const struct gguf_tensor *t, struct lora_hash *out)
{
    struct sum *s = sum_begin(m->err);
    uint64_t hash[2];
    bool ok = s != NULL;
    for (uint64_t at = 0; ok && at < t->n_bytes; at += COPY) {
        sum_add(s, t->data + at, min_u64(COPY, t->n_bytes - at));
        ok = merge_progress(m, min_u64(COPY, t->n_bytes - at));
    }
    if (s)
        sum_end(s, hash);
    if (ok)
        *out = (struct lora_hash){ hash[0], hash[1] };
    return ok;
}

/* Reads the file back and compares its keys, its directory, and the checksum of every tensor with
 * what was written. */
static bool check_merged_file(struct merge_run *m, struct file_out *out, const char *path,
                              const struct gguf *g, const struct merge_fate *fate)
{
    const char *tmp = file_out_flush(out, m->err);
    struct gguf *got = tmp ? gguf_open(tmp, m->err) : NULL;
    bool ok = got != NULL;
    uint64_t n = 0;
    for (uint64_t i = 0; ok && i < gguf_n_kv(g); i++) {
        const struct gguf_kv *a = gguf_kv_at(g, i), *b = gguf_kv(got, a->key);
        if (!b || a->type != b->type || a->elem != b->elem || a->n != b->n ||
            (memcmp(a->data, b->data, (size_t)gguf_kv_bytes(a)) && strcmp(a->key, "split.count")))
            ok = fail_system(m->err, "%.200s: key %.60s, read back, differs from what was written",
                             path, a->key);
    }
    for (uint64_t i = 0; ok && i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i), *b = gguf_tensor(got, t->name);
        struct lora_hash h = { 0 };
        if (fate[i].drop)
            continue;
        n++;
        ok = b && b->type == fate[i].type && b->n_dim == t->n_dim &&
             !memcmp(b->dim, t->dim, sizeof t->dim);
        ok = ok && sum_tensor(m, b, &h);
        if (!ok || h.lo != fate[i].sum.lo || h.hi != fate[i].sum.hi)
            ok = fail_system(m->err, "%.200s: tensor %s, read back, differs from what was written",
                             path, t->name);
    }
    if (ok && n != gguf_n_tensor(got))
        ok = fail_system(m->err, "%.200s: %" PRIu64 " tensors read back, expected %" PRIu64, path,
                         gguf_n_tensor(got), n);
    gguf_close(got);
    return ok;
}

static struct file_out *make_file(struct merge_run *m, const char *path, const struct gguf *g,
                                  struct merge_fate *fate)
{
    struct file_out *out = file_out_begin(path, m->err);
    if (out && write_file(m, out, g, fate) && check_merged_file(m, out, path, g, fate))
        return out;
    file_out_drop(out);
    return NULL;
}

/* ---- the call -------------------------------------------------------------------------------- */

/* What becomes of the adapter's tensors when its gates are dropped. */
static struct merge_fate *adapter_fate(struct merge_run *m)
{
    const struct gguf *g = m->file[0]->g;
    struct merge_fate *fate = mem_alloc(gguf_n_tensor(g) + 1, sizeof *fate);
    for (uint64_t i = 0; fate && i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        fate[i] = (struct merge_fate){ .type = t->type,
                                       .n_bytes = t->n_bytes,
                                       .drop = ends_with(t->name, ".delta") };
        m->total += fate[i].drop ? 0 : 2 * t->n_bytes;
    }
    if (!fate)
        merge_no_memory(m);
    return fate;
}

static bool write_outputs(struct merge_run *m)
{
    struct merge_fate *rest = m->p->gates_only ? adapter_fate(m) : NULL;
    bool ok = (rest || !m->p->gates_only) && merge_progress(m, 0);
    struct file_out *out = ok ? make_file(m, m->p->out, m->base, m->fate) : NULL, *pair = NULL;
    ok = out != NULL;
    if (ok && m->p->gates_only)
        ok = (pair = make_file(m, m->p->gates_only, m->file[0]->g, rest)) != NULL;
    free(rest);
    if (!ok) {
        file_out_drop(out);
        return false;
    }
    if (pair && !file_out_end(pair, m->err)) {
        file_out_drop(out);
        return false;
    }
    return file_out_end(out, m->err);
}

/* No output may replace an input. */
static bool check_paths(const struct hlm_merge_params *p, struct hlm_err *err)
{
    const char *out[2] = { p->out, p->gates_only };
    for (uint32_t i = 0; i < 2 && out[i]; i++) {
        bool clash = file_same(out[i], p->model);
        for (uint32_t k = 0; k < p->n_lora; k++)
            clash = clash || file_same(out[i], p->lora[k].path);
        if (clash || (i && file_same(out[0], out[1])))
            return fail(err, "%.300s: is also %s, expected a file of its own", out[i],
                        clash ? "an input" : "the other output");
        if (!file_may_write(out[i], err))
            return false;
    }
    return true;
}

static bool find_type(struct merge_run *m)
{
    for (uint32_t i = 0; m->p->type && i < DTYPE_COUNT; i++)
        if (dtype_info(i) && !strcasecmp(dtype_info(i)->name, m->p->type)) {
            m->type = (enum dtype)i;
            return quant_has(m->type) || fail_as(m->err, HLM_ERR_UNSUPPORTED,
                                                 "hlm cannot write type %s", dtype_info(i)->name);
        }
    return !m->p->type || fail(m->err, "unknown type '%.40s'", m->p->type);
}

static bool make_row_memory(struct merge_run *m)
{
    uint64_t n = 1;
    for (uint64_t i = 0; i < gguf_n_tensor(m->base); i++) {
        m->total += 2 * m->fate[i].n_bytes;
        if (m->fate[i].touched)
            n = max_u64(n, gguf_tensor_at(m->base, i)->dim[0]);
    }
    m->w = mem_alloc(n, sizeof *m->w);
    m->after = mem_alloc(n, sizeof *m->after);
    m->d = mem_alloc(n, sizeof *m->d);
    m->bytes = mem_alloc(n, sizeof(float)); /* F32 is the largest type */
    return (m->w && m->after && m->d && m->bytes) || merge_no_memory(m);
}

bool hlm_merge(const struct hlm_merge_params *p, struct hlm_merge_sum *sum, struct hlm_err *err)
{
    struct merge_run m = { .p = p, .err = err };
    struct hlm_merge_sum own = { 0 };
    api_begin(&p->log, err);
    if (!p->n_lora || p->n_lora > MAX_ADAPTERS)
        return fail(err, "%" PRIu32 " adapters, expected 1 to %d", p->n_lora, MAX_ADAPTERS);
    if (p->gates_only && p->n_lora != 1)
        return fail(err, "%.200s: %" PRIu32 " adapters, expected one to merge only its gates",
                    p->gates_only, p->n_lora);
    bool ok = check_paths(p, err) && find_type(&m) && (m.base = gguf_open(p->model, err)) &&
              see_base(&m) && open_adapters(&m) && make_row_memory(&m) && write_outputs(&m);
    for (uint64_t i = 0; ok && i < gguf_n_tensor(m.base); i++) {
        own.n_tensor++;
        own.n_gate += m.fate[i].gate;
        own.n_matrix += m.fate[i].touched && !m.fate[i].gate;
        own.bytes += m.fate[i].n_bytes;
    }
    if (sum)
        *sum = own;
    for (uint32_t i = 0; i < p->n_lora; i++)
        lora_file_close(m.file[i]);
    lora_file_base_free(&m.fb);
    free(m.fate);
    free(m.w);
    free(m.after);
    free(m.d);
    free(m.bytes);
    gguf_close(m.base);
    return ok;
}
