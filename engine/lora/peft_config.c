/* peft_config: reads the settings of a PEFT adapter, adapter_config.json. Each is obeyed, or has no
 * effect on what is computed, or is refused by its name. See peft.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "lora/peft_parts.h"

#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_CONFIG = 64 << 20, MAX_MATCH = 100000 };

static bool is_off(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_integer(v) && !json_integer_value(v)) ||
           (json_is_string(v) && !json_string_length(v)) ||
           (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

static bool is_among(const char *key, const char *const *list, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && strcmp(list[i], key))
        i++;
    return i < n;
}

/* Settings with which an adapter computes something else than W + scale B A. */
static bool refuse_settings(const struct peft_config *c, struct hlm_err *err)
{
    static const struct {
        const char *key, *what;
    } row[] = {
        { "use_dora", "DoRA scales the columns of the model's matrices" },
        { "use_qalora", "QA-LoRA averages groups of inputs" },
        { "use_bdlora", "its matrices are in blocks" },
        { "fan_in_fan_out", "its matrices are transposed" },
        { "lora_bias", "its matrices have biases" },
        { "modules_to_save", "whole matrices are replaced" },
        { "trainable_token_indices", "embeddings of tokens are replaced" },
        { "target_parameters", "its adapters are not those of modules" },
        { "layer_replication", "layers are repeated" },
        { "alora_invocation_tokens", "it begins at certain tokens" },
        { "arrow_config", "it is a mixture of adapters" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        if (!is_off(json_object_get(c->root, row[i].key)))
            return fail_as(err, HLM_ERR_UNSUPPORTED, "%.300s: %s is set: %s, which hlm cannot do",
                           c->path, row[i].key, row[i].what);
    const char *type = json_string_value(json_object_get(c->root, "peft_type")),
               *bias = json_string_value(json_object_get(c->root, "bias")),
               *init = json_string_value(json_object_get(c->root, "init_lora_weights"));
    static const char *const moves[] = { "olora", "corda", "loftq" };
    if (!type || strcmp(type, "LORA"))
        return fail_as(err, HLM_ERR_UNSUPPORTED, "%.300s: peft_type is %s, expected LORA", c->path,
                       type ? show_text(type, strlen(type), 40).s : "missing");
    if (bias && strcmp(bias, "none"))
        return fail_as(err, HLM_ERR_UNSUPPORTED, "%.300s: bias is \"%s\", expected \"none\"",
                       c->path, show_text(bias, strlen(bias), 40).s);
    if (init && (!strncmp(init, "pissa", 5) || is_among(init, moves, ARRAY_LEN(moves))))
        return fail_as(err, HLM_ERR_UNSUPPORTED,
                       "%.300s: init_lora_weights is \"%s\": the adapter belongs to other weights "
                       "than the model's; convert it with PEFT first",
                       c->path, show_text(init, strlen(init), 40).s);
    return true;
}

/* Warns of settings that came after this was written. */
static void warn_of_unknown(const struct peft_config *c)
{
    static const char *const known[] = {
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "fan_in_fan_out",
        "lora_bias",
        "modules_to_save",
        "r",
        "lora_alpha",
        "trainable_token_indices",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "peft_type",
        "bias",
        "init_lora_weights",
        "task_type",
        "inference_mode",
        "base_model_name_or_path",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "auto_mapping",
        "revision",
        "lora_dropout",
        "peft_version",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "megatron_core",
        "megatron_config",
        "runtime_config",
        "arrow_config",
        "qalora_group_size",
        "ensure_weight_tying",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
    };
    char list[300] = "";
    size_t n = 0;
    const char *key;
    json_t *v;
    json_object_foreach(c->root, key, v)
    {
        if (!is_off(v) && !is_among(key, known, ARRAY_LEN(known)) && n + 60 < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "",
                                  show_text(key, strlen(key), 40).s);
    }
    if (n)
        log_msg(HLM_LOG_WARN, "%.300s: hlm does not know these settings: %s", c->path, list);
}

static bool bad_setting(const struct peft_config *c, const char *key, const char *want,
                        struct hlm_err *err)
{
    char *found = json_dumps(json_object_get(c->root, key), JSON_ENCODE_ANY | JSON_COMPACT);
    fail(err, "%.300s: %s is %s, expected %s", c->path, key,
         found ? show_text(found, strlen(found), 60).s : "missing", want);
    free(found);
    return false;
}

static bool is_pattern(const json_t *v)
{
    const char *key;
    json_t *x;
    if (!is_off(v) && !json_is_object(v))
        return false;
    json_object_foreach((json_t *)v, key, x)
    {
        if (!json_is_number(x) || !(json_number_value(x) > 0))
            return false;
    }
    return true;
}

bool peft_config_read(struct peft_config *c, const char *path, struct hlm_err *err)
{
    json_error_t e;
    uint64_t n = 0;
    *c = (struct peft_config){ .path = path };
    char *text = file_read(path, MAX_CONFIG, &n, err);
    c->root = text ? json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &e) : NULL;
    bool read = text != NULL;
    free(text);
    if (!read)
        return false;
    if (!json_is_object(c->root))
        return c->root ? fail(err, "%.300s: expected a JSON object", path)
                       : fail(err, "%.300s: line %d: %s", path, e.line, e.text);
    if (!refuse_settings(c, err))
        return false;
    const json_t *r = json_object_get(c->root, "r"),
                 *alpha = json_object_get(c->root, "lora_alpha");
    if (!json_is_integer(r) || json_integer_value(r) < 1 || json_integer_value(r) > MAX_RANK)
        return bad_setting(c, "r", "a whole number from 1 to 4096", err);
    if (!json_is_number(alpha) ||
        !(json_number_value(alpha) > 0)) /* 0 means a scale of 1 in GGUF */
        return bad_setting(c, "lora_alpha", "a number above 0", err);
    static const char *const patterns[] = { "rank_pattern", "alpha_pattern" };
    for (uint32_t i = 0; i < 2; i++)
        if (!is_pattern(json_object_get(c->root, patterns[i])))
            return bad_setting(c, patterns[i], "an object of numbers above 0", err);
    c->rslora = json_is_true(json_object_get(c->root, "use_rslora"));
    warn_of_unknown(c);
    return true;
}

void peft_config_free(struct peft_config *c)
{
    json_decref(c->root);
    *c = (struct peft_config){ 0 };
}

/* ---- patterns -------------------------------------------------------------------------------- */

/* Most keys are names, which need no expression. */
static bool is_plain(const char *key)
{
    for (; *key; key++)
        if (!strchr("_.", *key) && !(*key >= '0' && *key <= '9') &&
            !((*key | 0x20) >= 'a' && (*key | 0x20) <= 'z'))
            return false;
    return true;
}

/* PEFT's rule: re.match("(.*\.)?(KEY)$", module). 1: it matches; 0: it does not; below 0: it is no
 * expression, or one that takes too long. */
static int key_matches(const char *key, const char *module)
{
    size_t n = strlen(key), m = strlen(module);
    if (is_plain(key))
        return m >= n && !strcmp(module + m - n, key) && (m == n || module[m - n - 1] == '.');
    size_t room = n + 24;
    char *all = mem_alloc(room, 1);
    int error, is = -1;
    PCRE2_SIZE at;
    if (!all)
        return -1;
    snprintf(all, room, "^(?:.*\\.)?(?:%s)$", key);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)all, PCRE2_ZERO_TERMINATED, 0, &error, &at, NULL);
    pcre2_match_data *match = code ? pcre2_match_data_create(1, NULL) : NULL;
    pcre2_match_context *limits = match ? pcre2_match_context_create(NULL) : NULL;
    if (limits) {
        pcre2_set_match_limit(limits, MAX_MATCH);
        int rc = pcre2_match(code, (PCRE2_SPTR)module, m, 0, 0, match, limits);
        is = rc >= 0 ? 1 : rc == PCRE2_ERROR_NOMATCH ? 0 : -1;
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    free(all);
    return is;
}

/* The value of the first key of a pattern that matches, as PEFT finds it; *v stays without one. */
static bool look_up(const struct peft_config *c, const char *pattern, const char *module, double *v,
                    struct hlm_err *err)
{
    const char *key;
    json_t *x;
    json_object_foreach(json_object_get(c->root, pattern), key, x)
    {
        int is = key_matches(key, module);
        if (is < 0)
            return fail(err, "%.300s: %s: \"%s\" is no expression that can be searched for",
                        c->path, pattern, show_text(key, strlen(key), 60).s);
        if (is) {
            *v = json_number_value(x);
            return true;
        }
    }
    return true;
}

bool peft_config_scale(const struct peft_config *c, const char *module, uint64_t rank,
                       double *scale, struct hlm_err *err)
{
    double r = (double)json_integer_value(json_object_get(c->root, "r")),
           alpha = json_number_value(json_object_get(c->root, "lora_alpha"));
    if (!look_up(c, "rank_pattern", module, &r, err) ||
        !look_up(c, "alpha_pattern", module, &alpha, err))
        return false;
    if (r < (double)rank || r > (double)rank)
        return fail(err, "%.300s: the rank of %s is %g, but its factors have %llu", c->path, module,
                    r, (unsigned long long)rank);
    *scale = alpha / (c->rslora ? sqrt(r) : r);
    return true;
}
