/* tune_import: hlm-tune import. */
#include "common.h"
#include "tune.h"

static struct {
    const char *model, *peft, *out;
} o;

static const struct flag flags[] = {
    { FLAG_GROUP, "Importing", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0,
      "the model that the adapter is for, a GGUF file; of a split model\n"
      "the first" },
    { FLAG_TEXT, "--peft", "FOLDER", &o.peft, 0, 0,
      "the folder with adapter_config.json and\n"
      "adapter_model.safetensors" },
    { FLAG_TEXT, "-o --out", "FILE", &o.out, 0, 0, "the adapter to write, a GGUF file" },
};

static const struct program program = {
    .name = "hlm-tune",
    .usage = "import -m MODEL.gguf --peft FOLDER -o ADAPTER.gguf [flags]; --help lists them",
    .about =
        "Writes an adapter of Hugging Face's PEFT as a GGUF file, with the names and heads of\n"
        "the model. Ranks, scales, rsLoRA and patterns of both are as PEFT has them. What\n"
        "hlm cannot do, such as DoRA, is refused by its name.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

static bool import(struct hlm_err *err)
{
    struct bar bar = { .what = "importing", .bytes = true, .lines = true };
    struct hlm_peft_import_params p = { .model = o.model,
                                        .folder = o.peft,
                                        .out = o.out,
                                        .log = ui_log(),
                                        .progress = bar_progress,
                                        .user = &bar };
    struct hlm_peft_sum sum;
    bool ok = hlm_peft_import(&p, &sum, err);
    bar_clear();
    if (!ok)
        return false;
    tune_wrote(o.out, &sum, "");
    ui_event("imported", "{s:s, s:I, s:I}", "path", o.out, "modules", (long long)sum.n_module,
             "bytes", (long long)sum.bytes);
    return true;
}

int tune_import(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    const struct tune_need need[] = {
        TUNE_NEED_MODEL(o.model),
        { o.peft != NULL, "adapter", "its folder with --peft FOLDER" },
        TUNE_NEED_FILE(o.out),
    };
    if (!tune_has(&program, need, ARRAY_LEN(need), &rc))
        return rc;
    if (!ui_may_write(o.out, FILE_ADAPTER))
        return ui_end(RC_USAGE);
    return ui_end(import(&err) ? RC_OK : ui_failed(&err));
}
