/* tune_merge: hlm-tune merge. Prints a line for every tensor that is changed. */
#include "common.h"
#include "common_lora.h"
#include "tune.h"

#include <stdio.h>

static struct {
    const char *model, *out, *type, *gates_only;
    struct flag_list lora;
} o;

static const struct flag flags[] = {
    { FLAG_GROUP, "Merging", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0,
      "the model, a GGUF file; of a split model the first" },
    { FLAG_LIST, "--lora", "FILE[:SCALE]", &o.lora, 0, 0,
      "a LoRA adapter, a GGUF file, with a factor (1); repeat the\n"
      "flag to add several" },
    { FLAG_TEXT, "-o --out", "FILE", &o.out, 0, 0, "the model to write, in one file" },
    { FLAG_TEXT, "--merge-type", "TYPE", &o.type, 0, 0,
      "type of the matrices that adapters change: F32 F16 BF16\n"
      "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL\n"
      "IQ4_XS MXFP4 (the type that each has)" },
    { FLAG_TEXT, "--gates-only", "FILE", &o.gates_only, 0, 0,
      "write the model with only its gates changed, and to FILE the\n"
      "adapter without gates; llama.cpp loads both" },
};

static const struct program program = {
    .name = "hlm-tune",
    .usage = "merge -m MODEL.gguf --lora ADAPTER.gguf[:SCALE] -o OUT.gguf [flags];"
             " --help lists them",
    .about =
        "Merges adapters into a model's weights: W' = W + D with D = scale B A, quantised\n"
        "again to the type of W. Keys and all other tensors do not change. For each matrix it\n"
        "prints the size of the change, |D|/|W|; how much of D survived quantisation, kept =\n"
        "<W'-W, D>/<D, D>; and the error that rounding added, noise = |W'-W-D|/|D|, which\n"
        "should be below 1.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

struct merge_report {
    struct bar bar;
    uint32_t n_loud, n_matrix;
};

static bool on_progress(void *user, uint64_t done, uint64_t total)
{
    struct merge_report *t = user;
    return bar_progress(&t->bar, done, total);
}

static void on_tensor(void *user, const struct hlm_merged *m)
{
    struct merge_report *t = user;
    bar_clear();
    if (m->gate) {
        printf("%-36s gate, relative change %.3g\n", m->name, m->size);
    } else {
        bool loud = m->noise > 1, lost = m->kept < 0.5;
        t->n_matrix++;
        t->n_loud += loud || lost;
        printf("%-36s %s%s%s: |D|/|W| %.3g  kept %.4f  noise %.3g%s\n", m->name, m->from,
               m->from == m->to ? "" : " -> ", m->from == m->to ? "" : m->to, m->size, m->kept,
               m->noise,
               loud   ? "  warning: more noise than adapter"
               : lost ? "  warning: most of the adapter is lost"
                      : "");
    }
    ui_event("merged", "{s:s, s:s, s:s, s:b, s:f, s:f, s:f}", "tensor", m->name, "from", m->from,
             "to", m->to, "gate", m->gate, "size", m->size, "kept", m->kept, "noise", m->noise);
}

static bool merge(struct hlm_err *err)
{
    struct adapters a;
    struct merge_report t = { .bar = { .what = "merging", .bytes = true, .lines = true } };
    struct hlm_merge_sum sum;
    if (!adapters_read(&a, o.lora.v, o.lora.n, err))
        return false;
    struct hlm_merge_params p = { .model = o.model,
                                  .out = o.out,
                                  .lora = a.l,
                                  .n_lora = a.n,
                                  .type = o.type,
                                  .gates_only = o.gates_only,
                                  .any_base = ui.force,
                                  .log = ui_log(),
                                  .progress = on_progress,
                                  .merged = on_tensor,
                                  .user = &t };
    bool ok = o.gates_only && a.l[0].scale != 1
                  ? ui_fail(err,
                            "%s: a factor of %g is not possible with --gates-only: the adapter "
                            "that is written could not have it",
                            a.l[0].path, (double)a.l[0].scale)
                  : hlm_merge(&p, &sum, err);
    bar_clear();
    if (ok && t.n_loud)
        ui_warn(
            "rounding loses the adapter in %u of %u matrices (noise above 1, or kept below 0.5); "
            "a finer --merge-type, such as F16, keeps more",
            t.n_loud, t.n_matrix);
    if (ok)
        ui_say("%s: %llu matrices and %llu gates of %llu tensors changed, %s, verified by reading "
               "back",
               o.out, (unsigned long long)sum.n_matrix, (unsigned long long)sum.n_gate,
               (unsigned long long)sum.n_tensor, num_bytes(sum.bytes).s);
    if (ok && o.gates_only)
        ui_say("%s: the adapter without its gates", o.gates_only);
    adapters_free(&a);
    return ok;
}

int tune_merge(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    const struct tune_need need[] = {
        TUNE_NEED_MODEL(o.model),
        TUNE_NEED_LORA(o.lora.n),
        TUNE_NEED_FILE(o.out),
    };
    if (!tune_has(&program, need, ARRAY_LEN(need), &rc))
        return rc;
    if (o.gates_only && (o.lora.n != 1 || o.type))
        return usage_error(&program, "--gates-only takes one --lora and no --merge-type");
    if (!ui_may_write(o.out, FILE_MODEL) ||
        (o.gates_only && !ui_may_write(o.gates_only, FILE_ADAPTER)))
        return ui_end(RC_USAGE);
    return ui_end(merge(&err) ? RC_OK : ui_failed(&err));
}
