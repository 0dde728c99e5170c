/* peft: writes the folder; see peft.h. lora.c reads and checks the adapter. */
#include "lora/peft_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LEAF = 64 };

static bool peft_no_memory(struct peft *p)
{
    return fail_memory(p->err, "%.300s: out of memory", p->params->out);
}

/* ---- ranks and scales ------------------------------------------------------------------------ */

/* Modules with the same last name. */
struct peft_leaf {
    const char *name;
    uint32_t rank;
    double alpha; /* for PEFT, which makes the scale of it and the rank */
    uint64_t n;
    bool same; /* all have this rank and alpha */
};
struct peft_leaves {
    struct peft_leaf l[MAX_LEAF];
    uint32_t n;
};

static const char *leaf_name(const struct peft_module *m)
{
    const char *dot = strrchr(m->name, '.');
    return dot ? dot + 1 : m->name;
}

/* With rsLoRA the file has alpha times a square root, in f32: the alpha that was given is mostly a
 * whole number near this one. */
static double alpha_of(const struct peft *p, const struct peft_module *m)
{
    double v = m->scale * (p->rslora ? sqrt((double)m->rank) : (double)m->rank),
           near = floor(v + 0.5);
    return p->rslora && fabs(near - v) <= 1e-6 * fabs(v) ? near : v;
}

static bool same_alpha(double a, double b) { return fabs(a - b) <= 1e-9 * fabs(b); }

static void find_leaves(const struct peft *p, bool draft, struct peft_leaves *out)
{
    *out = (struct peft_leaves){ 0 };
    for (const struct peft_module *m = p->module; m < p->module + p->n_module; m++) {
        struct peft_leaf *l = out->l;
        if (m->draft != draft)
            continue;
        while (l < out->l + out->n && strcmp(l->name, leaf_name(m)) != 0)
            l++;
        if (l == out->l + out->n) {
            HLM_ASSERT(out->n < MAX_LEAF); /* no table of models/ has so many */
            out->n++;
            *l = (struct peft_leaf){ leaf_name(m), m->rank, alpha_of(p, m), 0, true };
        }
        l->n++;
        l->same &= l->rank == m->rank && same_alpha(l->alpha, alpha_of(p, m));
    }
}

static json_t *json_number(double v)
{
    bool whole = fabs(v) < 1e9 && v == floor(v);
    return whole ? json_integer((json_int_t)v) : json_real(v);
}

/* Writes r and lora_alpha, and rank_pattern and alpha_pattern for the modules that differ from
 * them. A pattern is a last name if all modules with that name agree, otherwise a whole name. */
static void put_ranks(const struct peft *p, bool draft, json_t *to)
{
    struct peft_leaves all;
    const struct peft_leaf *most = all.l;
    json_t *ranks = json_object(), *alphas = json_object();
    find_leaves(p, draft, &all);
    for (uint32_t i = 1; i < all.n; i++)
        most = all.l[i].n > most->n ? &all.l[i] : most;
    uint32_t rank = all.n ? most->rank : 1;
    double alpha = all.n ? most->alpha : 1;
    for (const struct peft_module *m = p->module; m < p->module + p->n_module; m++) {
        const struct peft_leaf *l = all.l;
        if (m->draft != draft)
            continue;
        while (strcmp(l->name, leaf_name(m)) != 0)
            l++;
        const char *key = l->same ? l->name : m->name;
        if (m->rank != rank)
            json_object_set_new(ranks, key, json_integer(m->rank));
        if (!same_alpha(alpha_of(p, m), alpha))
            json_object_set_new(alphas, key, json_number(alpha_of(p, m)));
    }
    json_object_set_new(to, "r", json_integer(rank));
    json_object_set_new(to, "lora_alpha", json_number(alpha));
    json_object_set_new(to, "rank_pattern", ranks);
    json_object_set_new(to, "alpha_pattern", alphas);
    json_object_set_new(to, "use_rslora", json_boolean(p->rslora));
}

/* ---- adapter_config.json --------------------------------------------------------------------- */

/* Where the model's weights are published, if its file says so. */
static json_t *base_name(const struct peft *p)
{
    static const char *const keys[] = { "general.source.repo_url", "general.repo_url",
                                        "general.name" };
    static const char hub[] = "https://huggingface.co/";
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct hlm_str s = { 0 };
        size_t n = strlen(hub);
        if (!gguf_str(p->file, keys[i], OPTIONAL, &s, NULL) || !s.n)
            continue;
        if (s.n > n && !memcmp(s.p, hub, n))
            s = (struct hlm_str){ s.p + n, s.n - n };
        json_t *name = json_stringn(s.p, s.n);
        if (name)
            return name;
    }
    return json_null();
}

static bool write_config(struct peft *p, const char *path)
{
    static const char *const no[] = { "use_dora", "fan_in_fan_out" };
    static const char *const none[] = { "auto_mapping", "revision", "modules_to_save",
                                        "layers_to_transform", "layers_pattern" };
    json_t *all = json_object(), *targets = json_array();
    struct peft_leaves leaves;
    find_leaves(p, false, &leaves);
    for (uint32_t i = 0; i < leaves.n; i++)
        json_array_append_new(targets, json_string(leaves.l[i].name));
    json_object_set_new(all, "peft_type", json_string("LORA"));
    json_object_set_new(all, "task_type", json_string("CAUSAL_LM"));
    json_object_set_new(all, "base_model_name_or_path", base_name(p));
    json_object_set_new(all, "inference_mode", json_true());
    json_object_set_new(all, "init_lora_weights", json_true());
    json_object_set_new(all, "bias", json_string("none"));
    json_object_set_new(all, "lora_dropout", json_real(0));
    put_ranks(p, false, all);
    json_object_set_new(all, "target_modules", targets);
    for (uint32_t i = 0; i < ARRAY_LEN(no); i++)
        json_object_set_new(all, no[i], json_false());
    for (uint32_t i = 0; i < ARRAY_LEN(none); i++)
        json_object_set_new(all, none[i], json_null());
    char *text = json_dumps(all, JSON_INDENT(2)), *got = NULL;
    uint64_t n = 0;
    bool ok = (text || peft_no_memory(p)) && file_write_atomic(path, text, strlen(text), p->err) &&
              (got = file_read(path, 1 << 26, &n, p->err)) != NULL;
    json_t *again = ok ? json_loads(got, 0, NULL) : NULL;
    if (ok && !json_equal(all, again))
        ok = fail_system(p->err, "%.300s: read back, it differs from what was written", path);
    json_decref(again);
    json_decref(all);
    free(text);
    free(got);
    return ok;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* The tensors of one file: A and B of each module, then the gates. */
struct peft_tensors {
    struct peft *p;
    const struct peft_module **module;
    uint64_t n_module, n_gate;
    bool draft;
};

static void peft_tensor_at(void *user, uint64_t i, struct st_tensor *t)
{
    const struct peft_tensors *l = user;
    *t = (struct st_tensor){ .n_dim = 2 };
    if (i >= 2 * l->n_module) {
        const struct gguf_tensor *x = l->p->lora->delta[i - 2 * l->n_module].x;
        peft_gate_name(l->p, x, t->name, sizeof t->name); /* cannot fail: it succeeded before */
        t->n_dim = 1;
        t->shape[0] = x->n_elem;
        return;
    }
    const struct peft_module *m = l->module[i / 2];
    snprintf(t->name, sizeof t->name, "%s%s.lora_%c.weight", l->draft ? "" : "base_model.model.",
             m->name, i % 2 ? 'B' : 'A');
    t->shape[0] = i % 2 ? m->n_out : m->rank;
    t->shape[1] = i % 2 ? m->rank : m->n_in;
}

/* n more bytes are done. False: the caller of hlm_peft_export wants no more. */
static bool peft_progress(struct peft *p, uint64_t n)
{
    p->done += n;
    bool on = !p->params->progress || p->params->progress(p->params->user, p->done, p->total);
    log_to(&p->params->log);
    return on || fail_stopped(p->err);
}

static bool peft_row_at(void *user, uint64_t i, uint64_t r, float *to)
{
    const struct peft_tensors *l = user;
    struct peft *p = l->p;
    uint64_t n;
    if (i >= 2 * l->n_module) {
        const struct lora_delta *d = &p->lora->delta[i - 2 * l->n_module];
        n = d->x->n_elem;
        if (!peft_gate(p, d, to))
            return false;
    } else {
        const struct peft_module *m = l->module[i / 2];
        n = i % 2 ? m->rank : m->n_in;
        (i % 2 ? peft_row_b : peft_row_a)(p, m, r, to);
    }
    return peft_progress(p, n * sizeof *to);
}

/* Values of metadata are text. */
static void put_text(json_t *to, const char *key, const json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    json_object_set_new(to, key, json_string(text ? text : ""));
    free(text);
}

static bool write_tensors(struct peft *p, const char *path, bool draft, float *room)
{
    struct peft_tensors l = { .p = p,
                              .draft = draft,
                              .n_gate = draft ? p->lora->n_delta : 0,
                              .module = mem_alloc(p->n_module + 1, sizeof *l.module) };
    struct st s = { .metadata = json_pack("{s:s}", "format", "pt"),
                    .tensor = peft_tensor_at,
                    .row = peft_row_at,
                    .user = &l };
    bool ok = (l.module && s.metadata) || peft_no_memory(p);
    for (uint64_t i = 0; ok && i < p->n_module; i++)
        if (p->module[i].draft == draft)
            l.module[l.n_module++] = &p->module[i];
    if (ok && draft && l.n_module) {
        const char *key;
        json_t *ranks = json_object(), *v;
        put_ranks(p, true, ranks);
        json_object_foreach(ranks, key, v) put_text(s.metadata, key, v);
        json_decref(ranks);
    }
    s.n = 2 * l.n_module + l.n_gate;
    ok = ok && st_write(path, &s, room, p->err);
    json_decref(s.metadata);
    free(l.module);
    return ok;
}

/* ---- the call -------------------------------------------------------------------------------- */

static bool write_folder(struct peft *p, float *room, bool extra)
{
    struct folder_out folder;
    if (!folder_begin(&folder, p->params->out, p->err))
        return false;
    char *config = folder_path(folder.tmp, "adapter_config.json"),
         *model = folder_path(folder.tmp, "adapter_model.safetensors"),
         *rest = folder_path(folder.tmp, "hlm_extra.safetensors");
    bool ok = ((config && model && rest) || peft_no_memory(p)) && write_config(p, config) &&
              write_tensors(p, model, false, room) &&
              (!extra || write_tensors(p, rest, true, room));
    free(config);
    free(model);
    free(rest);
    if (ok)
        return folder_end(&folder, p->err);
    folder_drop(&folder);
    return false;
}

static bool write_export(struct peft *p, struct hlm_peft_sum *sum)
{
    uint64_t widest = 1;
    char name[160];
    for (const struct peft_module *m = p->module; m < p->module + p->n_module; m++) {
        widest = max_u64(widest, max_u64(m->n_in, m->rank));
        sum->n_draft += m->draft;
        sum->n_module += !m->draft;
        sum->bytes += (m->n_in + m->n_out) * m->rank * sizeof(float);
    }
    for (uint64_t i = 0; i < p->lora->n_delta; i++) {
        const struct gguf_tensor *x = p->lora->delta[i].x;
        if (!peft_gate_name(p, x, name, sizeof name))
            return false;
        widest = max_u64(widest, x->n_elem);
        sum->bytes += x->n_elem * sizeof(float);
    }
    sum->n_gate = p->lora->n_delta;
    p->total = sum->bytes;
    float *room = mem_alloc(widest, sizeof *room);
    p->row = mem_alloc(widest, sizeof *p->row);
    bool ok = ((room && p->row) || peft_no_memory(p)) && peft_progress(p, 0) &&
              write_folder(p, room, sum->n_draft || sum->n_gate);
    free(room);
    free(p->row);
    return ok;
}

static void count_name(void *user, const char *name)
{
    (void)name;
    ++*(uint64_t *)user;
}

/* Only an empty folder may exist at path. */
static bool check_folder(const char *path, struct hlm_err *err)
{
    uint64_t n = 0;
    if (folder_is(path))
        return folder_each(path, count_name, &n, err) &&
               (!n || fail(err, "%.300s: exists and is not empty, expected a new folder", path));
    struct file_in f;
    if (!file_in_open(&f, path, NULL))
        return true;
    file_in_close(&f);
    return fail(err, "%.300s: is a file, expected a new folder", path);
}

bool hlm_peft_export(const struct hlm_peft_params *params, struct hlm_peft_sum *sum,
                     struct hlm_err *err)
{
    struct peft p = { .params = params, .err = err };
    struct hlm_peft_sum own = { 0 };
    float alpha = 0;
    api_begin(&params->log, err);
    bool ok = check_folder(params->out, err) && (p.file = gguf_open(params->model, err)) &&
              lora_file_base(&p.fb, p.file, err) &&
              (p.lora = lora_file_check(gguf_open(params->adapter, err), 1, &p.fb.base, err)) &&
              gguf_f32(p.lora->g, "adapter.lora.alpha", REQUIRED, &alpha, err);
    p.alpha = (double)alpha;
    p.rslora = ok && lora_is_rslora(lora_file_gguf(p.lora));
    ok = ok && peft_map(&p) && write_export(&p, &own);
    if (sum)
        *sum = own;
    lora_file_close(p.lora);
    lora_file_base_free(&p.fb);
    free(p.module);
    gguf_close(p.file);
    return ok;
}
