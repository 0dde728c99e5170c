/* tune_info: hlm-tune info: what an adapter file says about itself, and its tensors by kind. A kind
 * is a name without the number of the layer. */
#include "common.h"
#include "common_flags.h"
#include "tune.h"

#include <stdio.h>
#include <string.h>

static const struct program program = {
    .name = "hlm-tune",
    .usage = "info ADAPTER.gguf [flags]; --help lists them",
    .about =
        "Describes a LoRA adapter: its keys, its matrices by kind with shapes and counts, its\n"
        "gate deltas, its size.",
};

/* Prints a line if the file has the text. */
static void print_text(const char *label, const char *text)
{
    if (text[0])
        printf("%-12s %s\n", label, text);
}

static void print_shape(const uint64_t dim[4], const char *type)
{
    for (uint32_t i = 0; i < 4 && dim[i]; i++)
        printf("%s%llu", i ? " x " : "", (unsigned long long)dim[i]);
    printf(" %s", type);
}

static void print_kind(const struct hlm_adapter_kind *k)
{
    printf("  %4u  %-36s %s", k->n, k->name, k->b[0] ? "A " : "");
    print_shape(k->a, k->type_a);
    if (k->b[0]) {
        printf(", B ");
        print_shape(k->b, k->type_b);
    }
    printf("  %s\n", num_bytes(k->bytes).s);
}

static void print_past(const struct hlm_adapter_past *p)
{
    static const struct {
        const char *key, *label;
    } labels[] = {
        { "base.hash", "base file" },
        { "lora.scaling", "scaled as" },
        { "train.data", "trained on" },
        { "train.valid", "validation" },
        { "train.data_hash", "data" },
        { "train.init", "from" },
        { "train.steps", "steps" },
        { "train.loss", "loss" },
        { "train.best_validation", "best" },
        { "train.last_validation", "last" },
        { "version", "by hlm" },
        { "train.note", "with" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(labels); i++)
        if (!strcmp(p->key, labels[i].key))
            print_text(labels[i].label, p->text);
}

static void print_all(const struct hlm_adapter_info *d)
{
    print_text("name", d->name);
    print_text("architecture", d->arch);
    print_text("base model", d->base_name);
    print_text("base repo", d->base_repo);
    printf("%-12s %g", "alpha", (double)d->alpha);
    if (d->n_matrix && d->rank_min == d->rank_max)
        printf(", rank %llu, factor %g", (unsigned long long)d->rank_min,
               d->alpha != 0 ? (double)d->alpha / (double)d->rank_min : 1.0);
    else if (d->n_matrix)
        printf(", ranks %llu to %llu", (unsigned long long)d->rank_min,
               (unsigned long long)d->rank_max);
    printf("\n%-12s %llu matrices, %llu gates", "tensors", (unsigned long long)d->n_matrix,
           (unsigned long long)d->n_gate);
    if (d->n_norm)
        printf(", %llu norm vectors (hlm ignores them)", (unsigned long long)d->n_norm);
    printf("\n%-12s %llu numbers, %s; the file %s\n", "size", (unsigned long long)d->n_param,
           num_bytes(d->bytes).s, num_bytes(d->file_bytes).s);
    for (uint32_t i = 0; i < d->n_past; i++)
        print_past(&d->past[i]);
    for (uint32_t i = 0; i < d->n_kind; i++)
        print_kind(&d->kind[i]);
    if (d->n_gate)
        puts("Only hlm has gate deltas: llama.cpp refuses the file. hlm-tune merge --gates-only "
             "makes\na model and an adapter that llama.cpp loads.");
}

static bool info(const char *path, struct hlm_err *err)
{
    struct hlm_adapter_info d;
    if (!hlm_adapter_read(path, &d, err))
        return false;
    print_all(&d);
    ui_event("adapter", "{s:s, s:f, s:i, s:i, s:I}", "path", path, "alpha", (double)d.alpha,
             "n_matrix", (int)d.n_matrix, "n_gate", (int)d.n_gate, "bytes", (long long)d.bytes);
    hlm_adapter_info_free(&d);
    return true;
}

int tune_info(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    const char *path = NULL;
    int rc;
    if (argc > 1 && argv[1][0] != '-') {
        path = argv[1];
        argc--;
        argv++;
    }
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!path)
        return ui_end(usage_error(&program, "no adapter: give the path of one, ADAPTER.gguf"));
    return ui_end(info(path, &err) ? RC_OK : ui_failed(&err));
}
