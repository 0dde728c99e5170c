/* chat_models: see chat_models.h. */
#define _XOPEN_SOURCE 700
#include "chat_models.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 5, MAX_MODEL = 256, MAX_MANIFEST = 1 << 20 };

/* ---- finding --------------------------------------------------------------------------------- */

static bool is_file(const char *path, uint64_t *bytes)
{
    struct stat st;
    bool is = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    *bytes = is ? (uint64_t)st.st_size : 0;
    return is;
}

/* Which of how many files this is of a split model, by its name: "...-00001-of-00003.gguf"; 1 of 1
 * where it is none. */
static void split_of(const char *name, uint32_t *i, uint32_t *n)
{
    size_t len = strlen(name), tail = strlen("-00001-of-00003.gguf");
    *i = *n = 1;
    if (len <= tail || sscanf(name + len - tail, "-%5u-of-%5u.gguf", i, n) != 2 || !*i || !*n)
        *i = *n = 1;
}

static uint64_t split_bytes(const char *path, uint32_t n)
{
    char other[4200];
    uint64_t sum = 0, bytes;
    size_t tail = strlen("-00001-of-00003.gguf");
    for (uint32_t i = 1; i <= n && i < 1000; i++) {
        snprintf(other, sizeof other, "%.*s-%05u-of-%05u.gguf", (int)(strlen(path) - tail), path, i,
                 n);
        is_file(other, &bytes);
        sum += bytes;
    }
    return sum;
}

static void add(struct found_models *m, const char *path, const char *name, size_t n_name,
                uint64_t bytes)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (strcmp(m->v[i].path, path) == 0) /* a folder may be set twice */
            return;
    if (m->n >= MAX_MODEL)
        return;
    if (m->n == m->cap) {
        uint32_t cap = 2 * m->cap + 16;
        struct found_model *more = ui_grow(m->v, cap, sizeof *more);
        if (!more)
            return;
        m->v = more;
        m->cap = cap;
    }
    struct found_model f = { ui_copy(path, strlen(path)), ui_copy(name, n_name), bytes };
    if (f.path && f.name) {
        m->v[m->n++] = f;
        return;
    }
    free(f.path);
    free(f.name);
}

/* Projectors of images and the later files of split models are no models of their own. */
static void add_gguf(struct found_models *m, const char *path, const char *name)
{
    uint64_t bytes;
    uint32_t i, n;
    split_of(name, &i, &n);
    if (!ui_ends_with(name, ".gguf") || strncmp(name, "mmproj", 6) == 0 || i != 1 ||
        !is_file(path, &bytes) || !ui_begins_with(path, "GGUF"))
        return;
    add(m, path, name, strlen(name) - strlen(".gguf"), n > 1 ? split_bytes(path, n) : bytes);
}

typedef void found_fn(void *user, const char *path, const char *name);

/* Calls fn for every file of a folder and of those in it. */
static void walk(const char *folder, int depth, found_fn *fn, void *user)
{
    DIR *d = depth < MAX_DEPTH ? opendir(folder) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[4200];
        struct stat st;
        int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] == '.' || n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            walk(path, depth + 1, fn, user);
        else
            fn(user, path, e->d_name);
    }
    if (d)
        closedir(d);
}

static void on_gguf(void *user, const char *path, const char *name) { add_gguf(user, path, name); }

/* ---- ollama ---------------------------------------------------------------------------------- */

struct ollama {
    struct found_models *to;
    const char *folder;
};

/* The file of the layer that is the model: sha256:HASH lies in blobs/sha256-HASH. */
static void add_layer(struct ollama *o, const json_t *layer, const char *name)
{
    static const char model[] = "application/vnd.ollama.image.model";
    const char *type = json_string_value(json_object_get(layer, "mediaType"));
    const char *digest = json_string_value(json_object_get(layer, "digest"));
    char path[4200];
    uint64_t bytes;
    if (!type || !digest || strcmp(type, model) != 0 || strncmp(digest, "sha256:", 7) != 0 ||
        strchr(digest, '/'))
        return;
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", o->folder, digest + 7);
    if (is_file(path, &bytes) && ui_begins_with(path, "GGUF"))
        add(o->to, path, name, strlen(name), bytes);
}

/* A manifest: .../NAME/TAG, JSON with the layers of the model. */
static void on_manifest(void *user, const char *path, const char *tag)
{
    struct ollama *o = user;
    char name[300];
    uint64_t n;
    const json_t *layer;
    size_t i;
    const char *end = path + strlen(path) - strlen(tag) - 1, *begin = end;
    while (begin > path && begin[-1] != '/')
        begin--;
    snprintf(name, sizeof name, "%.*s:%s", (int)(end - begin), begin, tag);
    char *text = ui_read_file(path, MAX_MANIFEST, &n, NULL);
    json_t *j = text ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
    json_array_foreach(json_object_get(j, "layers"), i, layer) add_layer(o, layer, name);
    json_decref(j);
    free(text);
}

static void find_ollama(struct found_models *m, const char *folder)
{
    char manifests[4300];
    struct ollama o = { m, folder };
    snprintf(manifests, sizeof manifests, "%.4200s/manifests", folder);
    walk(manifests, 0, on_manifest, &o);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct found_model *x = a, *y = b;
    int c = strcasecmp(x->name, y->name);
    return c ? c : strcmp(x->path, y->path);
}

void models_find(struct found_models *m)
{
    char folder[4200];
    bool ollama;
    *m = (struct found_models){ 0 };
    for (uint32_t i = 0; models_folder(i, folder, sizeof folder, &ollama); i++)
        if (ollama && *folder)
            find_ollama(m, folder);
        else if (*folder)
            walk(folder, 0, on_gguf, m);
    if (m->n)
        qsort(m->v, m->n, sizeof *m->v, by_name);
}

void models_free(struct found_models *m)
{
    for (uint32_t i = 0; i < m->n; i++) {
        free(m->v[i].path);
        free(m->v[i].name);
    }
    free(m->v);
    *m = (struct found_models){ 0 };
}

const char *models_path(const struct found_models *m, const char *name)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (strcasecmp(m->v[i].name, name) == 0)
            return m->v[i].path;
    return NULL;
}

/* ---- the list -------------------------------------------------------------------------------- */

/* The architecture, and whether the shortest conversation fits: by a plan, in which nothing is
 * allocated. */
static void describe(const struct found_model *f, uint64_t memory, char *arch, char *fits,
                     size_t size)
{
    struct hlm_err err = { 0 };
    struct hlm_plan plan;
    struct hlm_session_params p = { 0 };
    hlm *m = hlm_open(
        &(struct hlm_params){
            .model = f->path, .device = ui.device, .memory = memory, .layers = true, .dry = true },
        &err);
    snprintf(arch, size, "%s", m ? hlm_get_info(m).arch : "-");
    if (m && hlm_session_plan(m, &p, &plan, &err) && plan.fits)
        snprintf(fits, size, "fits (-c %u)", plan.n_ctx);
    else if (m && !err.kind)
        snprintf(fits, size, "needs %s", num_bytes(plan.device_bytes).s);
    else if (err.kind == HLM_ERR_UNSUPPORTED)
        snprintf(fits, size, "hlm does not run it");
    else
        snprintf(fits, size, "cannot be opened");
    hlm_close(m);
}

void models_list(const struct found_models *m, uint64_t memory)
{
    unsigned widest = 4;
    for (uint32_t i = 0; i < m->n; i++)
        widest = ui_max_u32(widest, ui_min_u32((uint32_t)strlen(m->v[i].name), 30));
    for (uint32_t i = 0; i < m->n && !ui_interrupted(); i++) {
        char arch[64], fits[64];
        describe(&m->v[i], memory, arch, fits, sizeof fits);
        ui_say("  %-*s  %10s  %-14s  %s", (int)widest, m->v[i].name, num_bytes(m->v[i].bytes).s,
               arch, fits);
    }
}
