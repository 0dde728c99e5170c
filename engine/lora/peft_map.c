/* peft_map: maps the matrices and heads of a GGUF file to those of its checkpoint on Hugging Face,
 * with the table of the architecture (hf.h). See peft.h and models/README.md, "Tensors". */
#include "lora/peft_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- names ----------------------------------------------------------------------------------- */

/* NULL: the architecture has no table. */
static const struct hf_names *names_of(const char *arch)
{
    static const struct {
        const char *arch;
        const struct hf_names *names;
    } all[] = {
#define ARCH(name) { #name, &hf_##name },
#include "models/models.def"
#undef ARCH
    };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(arch, all[i].arch))
            return all[i].names;
    return NULL;
}

/* The text before a module of a block in the checkpoint, such as "model.layers.3.". */
static void layer_name(const struct peft *p, uint32_t layer, const char *stem, char *name,
                       size_t size)
{
    if (layer < p->n_layer || !p->names->draft)
        snprintf(name, size, "%s%u.", p->names->layers, layer);
    else
        p->names->draft(layer - p->n_layer, stem, name, size);
}

/* The block of a tensor, and its name there. False: it belongs to no block. */
static bool split_name(const char *name, uint32_t *layer, char stem[64])
{
    int at = 0;
    if (sscanf(name, "blk.%u.%n", layer, &at) != 1 || !at)
        return false;
    size_t n = strlen(name + at), tail = ends_with(name, ".weight") ? strlen(".weight") : 0;
    snprintf(stem, 64, "%.*s", (int)(n - tail), name + at);
    return true;
}

/* ---- modules --------------------------------------------------------------------------------- */

static double peft_scale(const struct peft *p, const struct lora_pair *a)
{
    return p->alpha != 0 ? p->alpha / a->rank : 1;
}

static const struct lora_pair *pair_of(const struct peft *p, const struct gguf_tensor *x)
{
    for (uint64_t i = 0; x && i < p->lora->n_pair; i++)
        if (p->lora->pair[i].x == x)
            return &p->lora->pair[i];
    return NULL;
}

/* Checks that the tensor has the sizes that the order assumes. */
static bool check_order(const struct peft *p, const struct peft_module *m)
{
    const struct peft_heads *h = &p->heads;
    uint64_t v = (uint64_t)h->nv * h->s, k = (uint64_t)h->nk * h->s, rows = m->x[0]->dim[1];
    bool ok = true;
    switch (m->order) {
    case HF_AS_IS:
    case HF_APPENDED: break;
    case HF_V_ROWS: ok = h->nv && rows % h->nv == 0; break;
    case HF_V_COLS: ok = h->nv && m->n_in == v; break;
    case HF_QKV_ROWS: ok = h->nv && rows == 2 * k + v; break;
    case HF_QKVZ_ROWS: ok = h->nv && rows == 2 * k + v && m->x[1] && m->x[1]->dim[1] == v; break;
    case HF_BA_ROWS: ok = h->nv && rows == h->nv && m->x[1] && m->x[1]->dim[1] == h->nv; break;
    case HF_UPPER_HALF:
    case HF_LOWER_HALF: ok = rows % 2 == 0; break;
    }
    return ok || fail(p->err,
                      "%.300s: %s has %" PRIu64 " rows and %" PRIu64 " columns, which do "
                      "not fit %u K heads and %u V heads of %u",
                      gguf_path(p->file), m->x[0]->name, rows, m->n_in, h->nk, h->nv, h->s);
}

/* Adds the module of one expert: rank, sizes, scale. */
static bool add_module(struct peft *p, struct peft_module m, const char *layer, const char *hf)
{
    const char *star = strchr(hf, '*');
    int n = star ? snprintf(m.name, sizeof m.name, "%s%.*s%u%s", layer, (int)(star - hf), hf,
                            m.expert, star + 1)
                 : snprintf(m.name, sizeof m.name, "%s%s", layer, hf);
    HLM_ASSERT(n > 0 && (size_t)n < sizeof m.name);
    m.n_in = m.x[0]->dim[0];
    m.n_out = m.x[0]->dim[1] + (m.x[1] ? m.x[1]->dim[1] : 0);
    if (m.order == HF_UPPER_HALF || m.order == HF_LOWER_HALF)
        m.n_out /= 2;
    for (uint32_t k = 0; k < 2; k++)
        m.rank += m.p[k] ? m.p[k]->rank : 0;
    m.scale = peft_scale(p, m.p[0] ? m.p[0] : m.p[1]);
    if (!check_order(p, &m))
        return false;
    if (!mem_reserve(&p->module, p->n_module + 1, &p->cap_module, sizeof *p->module))
        return fail_memory(p->err, "%.300s: out of memory", p->params->out);
    p->module[p->n_module++] = m;
    return true;
}

static bool add_matrix(struct peft *p, const struct lora_pair *a, const struct hf_matrix *e,
                       uint32_t layer)
{
    struct peft_module m = { .order = e->order, .draft = layer >= p->n_layer };
    char other[80], name[64];
    m.x[e->second] = a->x;
    m.p[e->second] = a;
    if (e->other) {
        snprintf(other, sizeof other, "blk.%u.%s.weight", layer, e->other);
        const struct gguf_tensor *y = gguf_tensor(p->file, other);
        m.x[!e->second] = y;
        m.p[!e->second] = pair_of(p, y);
        if (e->second && m.p[0])
            return true; /* done with the first one */
        if (!y || y->dim[0] != a->x->dim[0] || y->dim[2] != a->x->dim[2])
            return fail(p->err,
                        "%.300s: %s does not fit %s, although the checkpoint fuses them "
                        "into one matrix",
                        gguf_path(p->file), a->x->name, other);
    }
    layer_name(p, layer, e->stem, name, sizeof name);
    for (m.expert = 0; m.expert < a->x->dim[2]; m.expert++)
        if (!add_module(p, m, name, e->module))
            return false;
    return true;
}

static bool add_pair(struct peft *p, const struct lora_pair *a)
{
    char stem[64];
    uint32_t layer = 0, n = 0;
    if (!strcmp(a->x->name, "output.weight"))
        return add_module(p, (struct peft_module){ .x = { a->x }, .p = { a } }, "", "lm_head");
    bool in_block = split_name(a->x->name, &layer, stem);
    for (uint32_t k = 0; in_block && k < ARRAY_LEN(p->names->list); k++)
        for (uint32_t i = 0; i < p->names->list[k].n; i++) {
            const struct hf_matrix *e = &p->names->list[k].matrix[i];
            if (strcmp(e->stem, stem) != 0 || (a->x->dim[2] > 1 && !strchr(e->module, '*')))
                continue;
            n++;
            if (!add_matrix(p, a, e, layer))
                return false;
        }
    return n > 0 || p->any_name ||
           fail_as(p->err, HLM_ERR_UNSUPPORTED,
                   "%.200s: %s: hlm does not know the name of %s in checkpoints of %s",
                   gguf_path(p->lora->g), a->a->name, a->x->name, p->fb.arch);
}

static bool peft_read_heads(struct peft *p)
{
    struct peft_heads *h = &p->heads;
    char key[4][96];
    static const char *const keys[] = { "ssm.group_count", "ssm.time_step_rank", "ssm.state_size",
                                        "ssm.v_head_reordered" };
    if (p->names->v_heads == HF_NO_V_HEADS)
        return true;
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++)
        snprintf(key[i], sizeof key[i], "%s.%s", p->fb.arch, keys[i]);
    h->tiled = p->names->v_heads == HF_V_TILED;
    return gguf_u32(p->file, key[0], REQUIRED, &h->nk, p->err) &&
           gguf_u32(p->file, key[1], REQUIRED, &h->nv, p->err) &&
           gguf_u32(p->file, key[2], REQUIRED, &h->s, p->err) &&
           gguf_bool(p->file, key[3], OPTIONAL, &h->tiled, p->err) &&
           ((h->nk && h->nv && h->s && h->nv % h->nk == 0) ||
            fail(p->err, "%.300s: %u V heads for %u K heads, expected a multiple",
                 gguf_path(p->file), h->nv, h->nk));
}

bool peft_map(struct peft *p)
{
    char name[64];
    p->names = names_of(p->fb.arch);
    if (!p->names)
        return fail_as(p->err, HLM_ERR_UNSUPPORTED,
                       "%.300s: hlm does not know the checkpoints of %s", gguf_path(p->file),
                       p->fb.arch);
    for (uint64_t i = 0; i < gguf_n_tensor(p->file); i++) { /* draft blocks come last */
        uint32_t layer = 0;
        if (split_name(gguf_tensor_at(p->file, i)->name, &layer, name) && layer < 1u << 16)
            p->n_layer = max_u32(p->n_layer, layer + 1);
    }
    for (uint32_t i = p->n_layer; i-- > 0;) {
        snprintf(name, sizeof name, "blk.%u.nextn.eh_proj.weight", i);
        if (!gguf_tensor(p->file, name))
            break;
        p->n_layer = i;
    }
    bool ok = peft_read_heads(p);
    for (uint64_t i = 0; ok && i < p->lora->n_pair; i++)
        ok = add_pair(p, &p->lora->pair[i]);
    return ok;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* GGUF's V head for V head i of the checkpoint, which orders them by K head. The tiled order begins
 * with the first V head of every K head. */
static uint64_t v_head(const struct peft_heads *h, uint64_t i)
{
    uint64_t r = h->nv / h->nk;
    return h->tiled ? i % r * h->nk + i / r : i;
}

/* The same for item i of V heads of `each` items. */
static uint64_t v_item(const struct peft_heads *h, uint64_t i, uint64_t each)
{
    return v_head(h, i / each) * each + i % each;
}

uint64_t peft_column(const struct peft *p, const struct peft_module *m, uint64_t c)
{
    return m->order == HF_V_COLS ? v_item(&p->heads, c, p->heads.s) : c;
}

uint32_t peft_row(const struct peft *p, const struct peft_module *m, uint64_t o, uint64_t *row)
{
    const struct peft_heads *h = &p->heads;
    uint64_t s = h->s, kd = h->nk * s, r = h->nv ? h->nv / h->nk : 0, first = m->x[0]->dim[1];
    uint64_t per = 2 * s + 2 * r * s, at;
    *row = o;
    switch (m->order) {
    case HF_AS_IS:
    case HF_V_COLS:
    case HF_UPPER_HALF: return 0;
    case HF_LOWER_HALF: *row = o + m->n_out; return 0;
    case HF_V_ROWS: *row = v_item(h, o, m->n_out / h->nv); return 0;
    case HF_QKV_ROWS: *row = o < 2 * kd ? o : 2 * kd + v_item(h, o - 2 * kd, s); return 0;
    case HF_QKVZ_ROWS:
        at = o % per;
        if (at < 2 * s) {
            *row = (at < s ? 0 : kd) + o / per * s + at % s;
            return 0;
        }
        at -= 2 * s;
        *row = v_item(h, o / per * r * s + at % (r * s), s) + (at < r * s ? 2 * kd : 0);
        return at >= r * s;
    case HF_BA_ROWS:
        at = o % (2 * r);
        *row = v_head(h, o / (2 * r) * r + at % r);
        return at >= r;
    case HF_APPENDED: *row = o < first ? o : o - first; return o >= first;
    }
    return 0;
}

static void read_f32_row(const struct gguf_tensor *t, uint64_t row, float *to)
{
    uint64_t bytes = 0;
    dtype_bytes(t->type, t->dim[0], &bytes);
    dtype_to_f32(t->type, t->data + row * bytes, t->dim[0], to);
}

void peft_row_a(const struct peft *p, const struct peft_module *m, uint64_t r, float *to)
{
    uint32_t first = m->p[0] ? m->p[0]->rank : 0, k = r >= first;
    const struct lora_pair *a = m->p[k];
    uint64_t row = m->expert * (uint64_t)a->rank + r - (k ? first : 0);
    if (m->order != HF_V_COLS) {
        read_f32_row(a->a, row, to);
        return;
    }
    read_f32_row(a->a, row, p->row);
    for (uint64_t c = 0; c < m->n_in; c++)
        to[c] = p->row[peft_column(p, m, c)];
}

void peft_row_b(const struct peft *p, const struct peft_module *m, uint64_t r, float *to)
{
    uint64_t row = 0;
    uint32_t k = peft_row(p, m, r, &row), first = m->p[0] ? m->p[0]->rank : 0;
    const struct lora_pair *a = m->p[k];
    memset(to, 0, m->rank * sizeof *to);
    if (!a)
        return;
    to += k ? first : 0;
    read_f32_row(a->b, m->expert * m->x[k]->dim[1] + row, to);
    double fold = peft_scale(p, a) / m->scale; /* 1 unless the ranks of the two pairs differ */
    for (uint32_t j = 0; j < a->rank; j++)
        to[j] = (float)((double)to[j] * fold);
}

/* ---- gates ----------------------------------------------------------------------------------- */

bool peft_gate_name(const struct peft *p, const struct gguf_tensor *x, char *name, size_t size)
{
    static const struct {
        const char *stem, *hf;
    } names[] = {
        { "ssm_a", "A_log" },
        { "ssm_dt.bias", "dt_bias" },
        { "ssm_d", "D" },
    };
    char stem[64], layer_is[64];
    uint32_t layer = 0;
    bool in_block = split_name(x->name, &layer, stem);
    for (uint32_t i = 0; in_block && i < ARRAY_LEN(names); i++)
        if (!strcmp(stem, names[i].stem)) {
            layer_name(p, layer, stem, layer_is, sizeof layer_is);
            snprintf(name, size, "%s%s.%s", layer_is, p->names->mixer, names[i].hf);
            return true;
        }
    return fail_as(p->err, HLM_ERR_UNSUPPORTED,
                   "%.300s: hlm does not know the name of %s in checkpoints of %s",
                   gguf_path(p->file), x->name, p->fb.arch);
}

bool peft_gate(const struct peft *p, const struct lora_delta *d, float *to)
{
    const struct peft_heads *h = &p->heads;
    uint64_t n = d->x->n_elem;
    bool decay = ends_with(d->x->name, DECAY);
    float *w = mem_alloc(n, sizeof *w), *add = mem_alloc(n, sizeof *add);
    bool ok = (w && add) || fail_memory(p->err, "%.300s: out of memory", p->params->out);
    if (ok && h->nv && n != h->nv)
        ok = fail(p->err, "%.300s: %s has %" PRIu64 " values, expected one for each of %u V heads",
                  gguf_path(p->file), d->x->name, n, h->nv);
    if (ok) {
        dtype_to_f32(d->x->type, d->x->data, n, w);
        dtype_to_f32(d->d->type, d->d->data, n, add);
    }
    for (uint64_t i = 0; ok && i < n; i++) {
        uint64_t from = h->nv ? v_head(h, i) : i;
        double was = (double)w[from];
        to[i] = (float)((decay ? log(-was) : was) + (double)add[from]);
        if (!isfinite(to[i]))
            ok =
                fail(p->err, "%.300s: %s: value %" PRIu64 " is %g, expected %s", gguf_path(p->file),
                     d->x->name, from, was, decay ? "a negative number" : "a finite number");
    }
    free(w);
    free(add);
    return ok;
}
