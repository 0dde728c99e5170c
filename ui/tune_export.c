/* tune_export: hlm-tune export. */
#include "common.h"
#include "tune.h"

static struct {
    const char *model, *lora, *out;
} o;

static const struct flag flags[] = {
    { FLAG_GROUP, "Exporting", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0,
      "the model that the adapter was trained on, a GGUF file;\n"
      "of a split model the first" },
    { FLAG_TEXT, "--lora", "FILE", &o.lora, 0, 0, "the adapter, a GGUF file" },
    { FLAG_TEXT, "-o --out", "FOLDER", &o.out, 0, 0, "the folder to create" },
};

static const struct program program = {
    .name = "hlm-tune",
    .usage = "export -m MODEL.gguf --lora ADAPTER.gguf -o FOLDER [flags]; --help lists them",
    .about = "Exports an adapter for Hugging Face's PEFT: adapter_config.json and\n"
             "adapter_model.safetensors, with names and heads as in the model's checkpoint.\n"
             "Trained gates and draft blocks, which PEFT does not support, are written to\n"
             "hlm_extra.safetensors.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

static bool export(struct hlm_err *err)
{
    struct bar bar = { .what = "exporting", .bytes = true, .lines = true };
    struct hlm_peft_params p = { .model = o.model,
                                 .adapter = o.lora,
                                 .out = o.out,
                                 .log = ui_log(),
                                 .progress = bar_progress,
                                 .user = &bar };
    struct hlm_peft_sum sum;
    bool ok = hlm_peft_export(&p, &sum, err);
    bar_clear();
    if (!ok)
        return false;
    tune_wrote(o.out, &sum, ", verified by reading back");
    if (sum.n_gate || sum.n_draft)
        ui_say(
            "hlm-tune: hlm_extra.safetensors has what PEFT does not load: the new values of %llu "
            "gates, and adapters of %llu modules of draft blocks",
            (unsigned long long)sum.n_gate, (unsigned long long)sum.n_draft);
    ui_event("exported", "{s:s, s:I, s:I, s:I, s:I}", "path", o.out, "modules",
             (long long)sum.n_module, "draft_modules", (long long)sum.n_draft, "gates",
             (long long)sum.n_gate, "bytes", (long long)sum.bytes);
    return true;
}

int tune_export(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    const struct tune_need need[] = {
        TUNE_NEED_MODEL(o.model),
        TUNE_NEED_LORA(o.lora),
        { o.out != NULL, "output", "a folder with -o FOLDER" },
    };
    if (!tune_has(&program, need, ARRAY_LEN(need), &rc))
        return rc;
    if (!ui_may_write(o.out, FILE_EXPORT))
        return ui_end(RC_USAGE);
    return ui_end(export(&err) ? RC_OK : ui_failed(&err));
}
