/* test_peft_import: adapters of PEFT as GGUF files: small folders written here, their scales as
 * PEFT computes them, and everything that hlm cannot do refused by its name. test_peft.c has the
 * way there and back of every family. */
#include "file/file.h"
#include "hlm_test.h"
#include "json.h"

#include <math.h>
#include <stdlib.h>

#define MODEL "train/qwen35/model.gguf"
#define LAYERS "model.language_model.layers."

/* The first matrix of this name in the model. */
static const struct gguf_tensor *find(const struct gguf *g, const char *tail)
{
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        if (test_has_tail(gguf_tensor_at(g, i)->name, tail))
            return gguf_tensor_at(g, i);
    return NULL;
}

struct folder {
    char path[300], module[120], out[300];
    const struct gguf_tensor *x;
    uint32_t rank;
};

static uint64_t bytes_of(const char *dtype) { return strcmp(dtype, "F32") ? 2 : 4; }

/* Ones and twos are the same numbers in all types. */
static void put_number(uint8_t *to, const char *dtype, uint64_t i)
{
    float v = i % 3 ? 1 : 2;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    uint16_t half = !strcmp(dtype, "F16") ? f32_to_f16(v) : (uint16_t)(bits >> 16);
    memcpy(to, bytes_of(dtype) == 4 ? (void *)&v : (void *)&half, bytes_of(dtype));
}

static void write_in(const struct folder *f, const char *name, const void *bytes, uint64_t n)
{
    char path[400];
    struct hlm_err err = { 0 };
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    CHECK_OK(file_write_atomic(path, bytes, n, &err), err);
}

/* adapter_model.safetensors with A and B of one module, and one more tensor if it has a name. */
static void write_tensors(const struct folder *f, const char *dtype, const char *more)
{
    uint64_t n_a = f->rank * f->x->dim[0] * bytes_of(dtype),
             n_b = f->rank * f->x->dim[1] * bytes_of(dtype), n = 0;
    uint8_t *bytes = test_room(n_a + n_b + 2048, 1);
    char *head = (char *)bytes + 8, also[300] = "";
    if (more)
        snprintf(also, sizeof also,
                 ",\"%s\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[0,4]}", more);
    n = (uint64_t)sprintf(
        head,
        "{\"base_model.model.%s.lora_A.weight\":{\"dtype\":\"%s\",\"shape\":[%u,%llu],"
        "\"data_offsets\":[0,%llu]},\"base_model.model.%s.lora_B.weight\":{\"dtype\":\"%s\","
        "\"shape\":[%llu,%u],\"data_offsets\":[%llu,%llu]}%s}",
        f->module, dtype, f->rank, (unsigned long long)f->x->dim[0], (unsigned long long)n_a,
        f->module, dtype, (unsigned long long)f->x->dim[1], f->rank, (unsigned long long)n_a,
        (unsigned long long)(n_a + n_b), also);
    memcpy(bytes, &n, 8);
    for (uint64_t i = 0; i < (n_a + n_b) / bytes_of(dtype); i++)
        put_number(bytes + 8 + n + i * bytes_of(dtype), dtype, i);
    write_in(f, "adapter_model.safetensors", bytes, 8 + n + n_a + n_b);
    free(bytes);
}

/* "r" and the type, and more keys before them. */
static void write_config(const struct folder *f, const char *more)
{
    char text[700];
    int n = snprintf(text, sizeof text, "{%s\"peft_type\":\"LORA\",\"bias\":\"none\"}", more);
    write_in(f, "adapter_config.json", text, (uint64_t)n);
}

static bool import(const struct folder *f, struct hlm_err *err)
{
    struct hlm_peft_import_params p = { .model = fixture(MODEL), .folder = f->path, .out = f->out };
    return hlm_peft_import(&p, NULL, err);
}

/* ---- scales ---------------------------------------------------------------------------------- */

/* What the adapter does to one number of the matrix, as llama.cpp computes it. */
static double scale_of(const struct folder *f, const struct gguf *g)
{
    char name[100];
    float alpha = 0;
    snprintf(name, sizeof name, "%s.lora_b", f->x->name);
    const struct gguf_tensor *b = gguf_tensor(g, name);
    snprintf(name, sizeof name, "%s.lora_a", f->x->name);
    const struct gguf_tensor *a = gguf_tensor(g, name);
    if (!CHECK(a && b && a->type == F32 &&
               gguf_f32(g, "adapter.lora.alpha", REQUIRED, &alpha, NULL)))
        return 0;
    CHECK(a->dim[0] == f->x->dim[0] && a->dim[1] == f->rank && b->dim[1] == f->x->dim[1]);
    float *va = test_floats(a), *vb = test_floats(b);
    double sum = 0, want = 0;
    uint64_t n_a = f->rank * f->x->dim[0];
    for (uint32_t j = 0; j < f->rank; j++) {
        sum += (double)vb[j] * (double)va[j * f->x->dim[0]];
        want += ((n_a + j) % 3 ? 1 : 2) * ((j * f->x->dim[0]) % 3 ? 1 : 2);
    }
    free(va);
    free(vb);
    return (double)alpha / f->rank * sum / want;
}

static void test_scales(struct folder *f)
{
    static const struct {
        const char *what, *config, *dtype;
        double scale;
        bool rslora;
    } row[] = {
        { "alpha and rank", "\"r\":4,\"lora_alpha\":8,", "F32", 2, false },
        { "F16", "\"r\":4,\"lora_alpha\":8,", "F16", 2, false },
        { "BF16", "\"r\":4,\"lora_alpha\":6.0,", "BF16", 1.5, false },
        { "rsLoRA", "\"r\":4,\"lora_alpha\":8,\"use_rslora\":true,", "F32", 4, true },
        { "rank_pattern", "\"r\":9,\"lora_alpha\":8,\"rank_pattern\":{\"q_proj\":4},", "F32", 2,
          false },
        { "alpha_pattern, a name",
          "\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"k_proj\":1,"
          "\"self_attn.q_proj\":16,\"q_proj\":2},",
          "F32", 4, false },
        { "alpha_pattern, part of a name",
          "\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"proj\":1},", "F32", 2, false },
        { "alpha_pattern, an expression",
          "\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"layers\\\\.\\\\d+\\\\..*q_pr.j\":2},",
          "F32", 0.5, false },
        { "both patterns and rsLoRA",
          "\"r\":9,\"lora_alpha\":1,\"rank_pattern\":{\"q_proj\":4},\"alpha_pattern\":{\"q_proj\":"
          "6},"
          "\"use_rslora\":true,",
          "F32", 3, true },
        { "settings without effect",
          "\"r\":4,\"lora_alpha\":8,\"use_dora\":false,\"modules_to_save\":null,"
          "\"layers_to_transform\":[3],\"init_lora_weights\":\"gaussian\",\"lora_dropout\":0.1,",
          "F32", 2, false },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_err err = { 0 };
        test_case("imported: %s", row[i].what);
        write_config(f, row[i].config);
        write_tensors(f, row[i].dtype, NULL);
        struct gguf *g = import(f, &err) ? gguf_open(f->out, &err) : NULL;
        if (!CHECK_OK(g, err))
            continue;
        double got = scale_of(f, g);
        CHECK_MSG(fabs(got - row[i].scale) <= 1e-6 * row[i].scale, "%g, expected %g", got,
                  row[i].scale);
        struct hlm_str s = { 0 };
        gguf_str(g, "hlm.lora.scaling", OPTIONAL, &s, NULL);
        CHECK((s.n == 6 && !memcmp(s.p, "rslora", 6)) == row[i].rslora);
        CHECK_EQ(gguf_n_tensor(g), 2);
        gguf_close(g);
    }
}

/* rsLoRA comes back as such, with the alpha that was given. */
static void test_back(struct folder *f)
{
    struct hlm_err err = { 0 };
    char path[400];
    uint64_t n = 0;
    test_case("rsLoRA imported and exported again");
    f->rank = 3; /* whose root is no whole number */
    write_config(f, "\"r\":3,\"lora_alpha\":8,\"use_rslora\":true,");
    write_tensors(f, "F32", NULL);
    snprintf(path, sizeof path, "%s.again", f->path);
    folder_remove(path);
    struct hlm_peft_params p = { .model = fixture(MODEL), .adapter = f->out, .out = path };
    CHECK_OK(import(f, &err) && hlm_peft_export(&p, NULL, &err), err);
    snprintf(path, sizeof path, "%s.again/adapter_config.json", f->path);
    char *text = file_read(path, 1 << 20, &n, &err);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    CHECK(json_is_true(json_object_get(j, "use_rslora")));
    CHECK_EQ(json_integer_value(json_object_get(j, "lora_alpha")), 8);
    CHECK_EQ(json_integer_value(json_object_get(j, "r")), 3);
    CHECK(json_is_false(json_object_get(j, "use_dora")));
    json_decref(j);
    free(text);
    path[strlen(path) - strlen("/adapter_config.json")] = 0;
    folder_remove(path);
    f->rank = 4;
}

/* ---- refused --------------------------------------------------------------------------------- */

static void test_refused(struct folder *f)
{
#define R4 "\"r\":4,\"lora_alpha\":8,"
    static const struct {
        const char *config, *more, *says;
    } row[] = {
        { R4 "\"use_dora\":true,", NULL, "adapter_config.json|use_dora|DoRA" },
        { R4, "base_model.model.x.q_proj.lora_magnitude_vector",
          "adapter_model.safetensors|lora_magnitude_vector|DoRA" },
        { R4 "\"fan_in_fan_out\":true,", NULL, "fan_in_fan_out|transposed" },
        { R4 "\"lora_bias\":true,", NULL, "lora_bias|biases" },
        { R4, "base_model.model.x.q_proj.lora_B.bias", "lora_B.bias|lora_bias" },
        { R4 "\"modules_to_save\":[\"lm_head\"],", NULL, "modules_to_save|replaced" },
        { R4, "base_model.model.lm_head.weight", "lm_head.weight|expected|lora_A.weight" },
        { R4, "base_model.model.x.lora_embedding_A", "lora_embedding_A|embeddings" },
        { R4 "\"target_parameters\":[\"gate_up_proj\"],", NULL, "target_parameters" },
        { R4 "\"trainable_token_indices\":[1],", NULL, "trainable_token_indices" },
        { R4 "\"layer_replication\":[[0,1]],", NULL, "layer_replication" },
        { R4 "\"init_lora_weights\":\"pissa_niter_4\",", NULL, "init_lora_weights|pissa_niter_4" },
        { "\"lora_alpha\":8,", NULL, "adapter_config.json|r is missing|1 to 4096" },
        { "\"r\":4,", NULL, "lora_alpha is missing" },
        { "\"r\":4,\"lora_alpha\":0,", NULL, "lora_alpha is 0|above 0" },
        { "\"r\":5,\"lora_alpha\":8,", NULL, "rank of|q_proj is 5|have 4" },
        { R4 "\"rank_pattern\":{\"q_proj\":\"x\"},", NULL, "rank_pattern|numbers above 0" },
        { R4 "\"alpha_pattern\":{\"(q\":1},", NULL, "alpha_pattern|(q|expression" },
        { R4, "base_model.model.x.q_proj.lora_A.weight", "x.q_proj has no lora_B" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_err err = { 0 };
        test_case("refused: %s", row[i].says);
        write_config(f, row[i].config);
        write_tensors(f, "F32", row[i].more);
        CHECK_REFUSED(import(f, &err), err, row[i].says);
    }
    struct hlm_err err = { 0 };
    char was[120];
    test_case("refused: a module that the model does not have, a shape that it does not have");
    write_config(f, R4);
    memcpy(was, f->module, sizeof was);
    snprintf(f->module, sizeof f->module, LAYERS "77.self_attn.q_proj");
    write_tensors(f, "F32", NULL);
    CHECK_REFUSED(import(f, &err), err, "layers.77.self_attn.q_proj|no such matrix");
    memcpy(f->module, was, sizeof was);
    f->module[strlen(f->module) - 6] = 'k';
    err = (struct hlm_err){ 0 };
    write_tensors(f, "F32", NULL);
    CHECK_REFUSED(import(f, &err), err, "k_proj|in the model it is");
    memcpy(f->module, was, sizeof was);
#undef R4
}

/* Every byte of the header changed, and the file cut at every byte of it: an error that names the
 * file, or an adapter. */
static void test_hostile(struct folder *f)
{
    struct hlm_err err = { 0 };
    char path[400];
    uint64_t n = 0;
    test_case("a damaged safetensors file");
    write_config(f, "\"r\":4,\"lora_alpha\":8,");
    write_tensors(f, "F32", NULL);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", f->path);
    uint8_t *bytes = (uint8_t *)file_read(path, 1 << 26, &n, &err);
    if (!CHECK_OK(bytes, err))
        return;
    struct rng r = { 5 };
    uint32_t n_refused = 0;
    for (uint32_t i = 0; i < 60; i++) {
        uint64_t at = rng_u64(&r) % 300, cut = i % 2 ? n : at;
        uint8_t was = bytes[at];
        bytes[at] ^= (uint8_t)(1 << rng_u64(&r) % 8);
        write_in(f, "adapter_model.safetensors", bytes, cut);
        bytes[at] = was;
        err = (struct hlm_err){ 0 };
        if (!import(f, &err)) {
            n_refused++;
            CHECK_MSG(test_has(err.msg, "adapter_model.safetensors"), "%s", err.msg);
        }
    }
    CHECK(n_refused >= 30);
    test_case("a folder with a pickle, an empty folder");
    write_in(f, "adapter_model.bin", "x", 1);
    remove(path);
    err = (struct hlm_err){ 0 };
    CHECK_REFUSED(import(f, &err), err, "adapter_model.bin|pickle|safetensors");
    snprintf(path, sizeof path, "%s/adapter_config.json", f->path);
    remove(path);
    err = (struct hlm_err){ 0 };
    CHECK_REFUSED(import(f, &err), err, "adapter_config.json|No such file");
    free(bytes);
}

void test_peft_import(void)
{
    struct hlm_err err = { 0 };
    struct folder f = { .rank = 4 };
    unsigned layer = 0;
    test_case("a model");
    struct gguf *g = gguf_open(fixture(MODEL), &err);
    f.x = g ? find(g, ".attn_q.weight") : NULL;
    if (CHECK_OK(f.x && sscanf(f.x->name, "blk.%u", &layer) == 1, err)) {
        snprintf(f.path, sizeof f.path, "%s", test_scratch("peft_in"));
        snprintf(f.out, sizeof f.out, "%s", test_scratch("peft_in.gguf"));
        snprintf(f.module, sizeof f.module, LAYERS "%u.self_attn.q_proj", layer);
        folder_make(f.path, &err);
        test_scales(&f);
        test_back(&f);
        test_refused(&f);
        test_hostile(&f);
        folder_remove(f.path);
    }
    gguf_close(g);
}
