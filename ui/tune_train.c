/* tune_train: hlm-tune without a subcommand: its flags and how they combine. See tune_loop.c. */
#define _POSIX_C_SOURCE 200809L
#include "tune.h"
#include "tune_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tune o;

#define INTS(names, arg, to, least, help)                                                          \
    {                                                                                              \
        FLAG_INT, names, arg, to, least, INT32_MAX, help                                           \
    }

static const struct flag flags[] = {
    { FLAG_GROUP, "Files", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0,
      "the model, a GGUF file; it is not changed" },
    { FLAG_LIST, "-d --data", "FILE|DIR", &o.data, 0, 0,
      "training data: lines of JSON, a JSON list, or a table (CSV),\n"
      "with messages, with prompt and completion, or with text; may be\n"
      "repeated; in a folder train.jsonl, and valid.jsonl and\n"
      "test.jsonl if they exist; .json, .csv and .tsv too" },
    { FLAG_LIST, "--valid-data", "FILE", &o.valid_data, 0, 0,
      "validation data, instead of a share of the training data; may\n"
      "be repeated" },
    { FLAG_TEXT, "-o --out", "FILE", &o.out, 0, 0, "the adapter to write, a GGUF file" },
    { FLAG_TEXT, "--init-lora", "FILE", &o.p.init_lora, 0, 0,
      "begin a new run with this adapter, and train what it has" },
    { FLAG_TEXT, "--more", "FILE", &o.more, FLAG_ONE_CALL, 0,
      "train an adapter of hlm's further, as it was trained: its flags\n"
      "are taken over, but those that are given win; only data and -o\n"
      "have to be" },
    { FLAG_TEXT, "--resume", "DIR", &o.p.resume, FLAG_ONE_CALL, 0,
      "continue a run from a checkpoint, or from the newest in a\n"
      "folder of them; its flags are kept, but --steps, --epochs and\n"
      "paths may be given again" },
    { FLAG_TEXT, "--ids-json", "FILE", &o.p.ids_json, 0, 0,
      "instead of -d: rows of ids with masks, and options that apply\n"
      "unless a flag changes them" },

    { FLAG_GROUP, "Reading the data", 0, 0, 0, 0, 0 },
    INTS("--max-seq", "N", &o.p.read.max_seq, 2,
         "most tokens of a document and of a row; longer documents are\ncut (2048)"),
    { FLAG_CHOICE, "--loss-on", "answers|all", &o.loss_on, 0, 0,
      "tokens whose loss counts: of answers, or all but the first of a\n"
      "document (answers; in plain text all)" },
    { FLAG_CHOICE, "--turns", "all|each", &o.turns, 0, 0,
      "all: a conversation is one document; each: every answer makes\none, with the turns before "
      "it "
      "(all)" },
    { FLAG_SWITCH, "--raw-completion", NULL, &o.p.read.raw_completion, 0, 0,
      "treat prompt and completion as plain texts, not as a chat" },
    { FLAG_SWITCH, "--no-eos", NULL, &o.p.read.no_eos, 0, 0,
      "no end-of-text token after plain texts" },
    { FLAG_SWITCH, "--skip-bad", NULL, &o.p.read.skip_bad, 0, 0,
      "skip malformed lines and report their number" },
    { FLAG_SWITCH, "--no-pack", NULL, &o.p.no_pack, 0, 0,
      "one document per row; otherwise documents share rows of up to\n--max-seq tokens, without "
      "seeing each other" },
    { FLAG_SWITCH, "--no-shuffle", NULL, &o.no_shuffle, 0, 0,
      "keep the documents in the file's order" },
    { FLAG_REAL, "--valid --val-split -val-split", "X", &o.p.read.valid, 0, 0.99,
      "share of the data kept for validation (0.05; 0 if it has fewer\nthan 100 lines)" },
    { FLAG_TEXT, "--chat-format", "NAME", &o.p.read.format, 0, 0,
      HLM_CHAT_FORMATS "\n(the format of the model's template)" },
    { FLAG_TEXT, "--dump-rows", "FILE", &o.dump_rows, FLAG_ONE_CALL, 0,
      "write the training rows, in the file's order, as JSON for\n"
      "--ids-json, and exit; needs no device" },

    { FLAG_GROUP, "The adapter", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "--target --targets", "LIST", &o.p.targets, 0, 0,
      "matrices to train, with commas between: the groups attn,\n"
      "linear, ffn, shared, experts, router and mtp; names such as\n"
      "ffn_down; patterns such as blk.1?.attn_*\n"
      "(attn,linear,ffn,shared, those that the model has)" },
    INTS("-r --rank", "N", &o.p.train.rank, 1, "rank of the adapter (16)"),
    { FLAG_REAL, "--alpha", "X", &o.p.train.alpha, 1e-9, 1e9,
      "scale of the adapter: alpha / rank (32)" },
    { FLAG_SWITCH, "--rslora", NULL, &o.p.train.rslora, 0, 0,
      "use the scale alpha / sqrt(rank) instead" },
    { FLAG_REAL, "--dropout", "X", &o.p.train.lora_dropout, 0, 0.99,
      "dropout of the adapter's inputs (0)" },
    { FLAG_SWITCH, "--train-gates", NULL, &o.p.train.train_gates, 0, 0,
      "also train the gates A_log, dt_bias and D, as F32 deltas in the\nadapter" },
    { FLAG_SWITCH, "--no-lora", NULL, &o.no_lora, 0, 0,
      "with --train-gates: train no matrices; those of --init-lora do\nnot change" },
    { FLAG_REAL, "--mtp-loss", "X", &o.mtp, 0, 100,
      "add X times the loss of the draft (MTP) blocks (0)" },
    { FLAG_SWITCH, "--train-mtp", NULL, &o.train_mtp, 0, 0,
      "train the draft blocks: --mtp-loss 0.1, and the group mtp" },

    { FLAG_GROUP, "Training", 0, 0, 0, 0, 0 },
    { FLAG_REAL, "--epochs -epochs", "X", &o.p.epochs, 1e-6, 1e6,
      "passes over the data (chosen by its size, 3 to 30)" },
    INTS("--steps --iters", "N", &o.p.train.steps, 0,
         "steps in total; 0: as many as --epochs needs (0)"),
    INTS("-b --batch-rows", "N", &o.p.train.batch_rows, 1,
         "rows per step (chosen by the data's size, 1 to 8)"),
    INTS("--accumulation", "N", &o.p.train.accumulation, 1,
         "multiplies the rows per step, one after another (1)"),
    { FLAG_REAL, "--lr --learning-rate -lr", "X", &o.p.train.lr, 0, 100,
      "learning rate (chosen by the model's width, at most 5e-4)" },
    { FLAG_REAL, "--lr-min --learning-rate-min -lr-min", "X", &o.lr_min, 0, 100,
      "learning rate at the end (--lr / 10)" },
    { FLAG_CHOICE, "--schedule", "constant|cosine|linear", &o.p.train.schedule, 0, 0,
      "how the rate falls (cosine)" },
    { FLAG_REAL, "--warmup", "X", &o.p.warmup, 0, 1,
      "share of the steps in which the rate rises (0.03)" },
    { FLAG_REAL, "--weight-decay --wd -wd", "X", &o.p.train.weight_decay, 0, 100,
      "weight decay of matrices (0)" },
    { FLAG_REAL, "--weight-decay-gates", "X", &o.p.train.weight_decay_gates, 0, 100,
      "weight decay of gates (0)" },
    { FLAG_REAL, "--beta1", "X", &o.p.train.beta1, 0, 0.999999, "AdamW's beta1 (0.9)" },
    { FLAG_REAL, "--beta2", "X", &o.p.train.beta2, 0, 0.999999999, "AdamW's beta2 (0.999)" },
    { FLAG_REAL, "--eps", "X", &o.p.train.eps, 1e-30, 1, "AdamW's epsilon (1e-8)" },
    { FLAG_REAL, "--clip", "X", &o.p.train.clip_norm, 0, 1e30,
      "largest norm of a step's gradient; 0: no limit (1)" },
    { FLAG_SEED, "-s --seed", "N", &o.p.seed, 0, 0,
      "seed of the new adapter, of the order and of dropout (0)" },
    { FLAG_CHOICE, "--precision", "auto|f32|f16", &o.precision, 0, 0,
      "type of the operands in products with the model's matrices;\n"
      "sums and trained numbers are f32. auto: f16 on matrix units,\n"
      "but f32 with --ids-json (auto)" },

    { FLAG_GROUP, "The run", 0, 0, 0, 0, 0 },
    INTS("--valid-every", "N", &o.valid_every, 0,
         "steps between validations; 0: ten validations per run (0)"),
    INTS("--patience", "N", &o.patience, 0,
         "end after this many validations without a better one; 0: never\n(0)"),
    { FLAG_LIST, "--sample", "TEXT", &o.samples, 0, 0,
      "print an answer to this at each validation; may be repeated" },
    INTS("--sample-tokens", "N", &o.n_sample, 1, "most tokens of such an answer (64)"),
    INTS("--save-every", "N", &o.save_every, 0,
         "steps between checkpoints; 0: at each validation, or ten per run\n"
         "without validation, but none with --ids-json (0)"),
    INTS("--keep", "N", &o.keep, 1, "checkpoints to keep besides the best (2)"),
    { FLAG_TEXT, "--checkpoints", "DIR", &o.checkpoints, 0, 0,
      "folder of the checkpoints (the adapter's path with .ckpt)" },
    { FLAG_SWITCH, "--dry-run", NULL, &o.dry_run, FLAG_ONE_CALL, 0,
      "report the data, the plan and the time of one row, and exit" },
    { FLAG_SWITCH, "--plan", NULL, &o.plan, FLAG_ONE_CALL, 0,
      "print the device memory that the run needs, to the byte, and\nexit; allocates nothing" },
    { FLAG_BYTES, "--memory", "BYTES", &o.memory, 0, 0x1p60,
      "limit on device memory, such as 12G (K, M, G); 0: 95 % of what\nis free (0)" },

    { FLAG_GROUP, "For developers", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "--dump-grads", "FILE", &o.dump_grads, FLAG_ONE_CALL, 0,
      "write the gradients of the first step, before clipping" },
    { FLAG_TEXT, "--debug", "LIST", &o.debug, FLAG_ONE_CALL, 0,
      "prof: time per kernel; check: validation layer" },
};

static const struct program program = {
    .name = "hlm-tune",
    .usage = "-m MODEL.gguf -d FILE|DIR -o OUT.gguf [flags]; or info, merge, export, import,"
             " plot; each has --help",
    .about = "Trains a LoRA adapter of a model, directly on its quantised weights.\n\n"
             "  hlm-tune -m M -d DATA -o OUT   trains; OUT is the adapter\n"
             "  hlm-tune info ADAPTER          describes an adapter file\n"
             "  hlm-tune merge -m M ...        writes a model with adapters merged into it\n"
             "  hlm-tune export -m M ...       writes an adapter for Hugging Face's PEFT\n"
             "  hlm-tune import -m M ...       reads an adapter of PEFT\n"
             "  hlm-tune plot LOG -o PNG       draws the losses of a run\n\n"
             "Ctrl-C finishes the step, saves and exits; a second one exits at once.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
    .commands = "info merge export import plot",
};

/* ---- how the flags combine ------------------------------------------------------------------- */

/* Takes the options of the file of rows; flags of the command line win. */
static bool take_file_options(int argc, char **argv, struct hlm_err *err)
{
    struct hlm_train_options *p = &o.p.train;
    if (!hlm_tune_options(o.p.ids_json, p, err))
        return false;
    double lr = p->lr, final = p->final;
    if (!flags_again(&program, argc, argv, err))
        return false;
    if (p->lr < lr || p->lr > lr)
        p->peak = p->lr;
    p->final = o.lr_min >= 0 ? o.lr_min : final;
    return true;
}

static bool has_word(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; *p; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n == len && !memcmp(p, word, n))
            return true;
        p += n;
    }
    return false;
}

static bool settle(int argc, char **argv, struct hlm_err *err)
{
    struct hlm_train_options *p = &o.p.train;
    if (o.p.ids_json && !take_file_options(argc, argv, err))
        return false;
    if (!o.p.ids_json || !p->total_steps) {
        p->peak = p->lr;
        p->final = o.lr_min;
    }
    if (o.mtp >= 0)
        p->mtp_factor = o.mtp;
    else if (o.train_mtp && !(p->mtp_factor > 0))
        p->mtp_factor = 0.1;
    if (o.p.targets && !(p->mtp_factor > 0) && has_word(o.p.targets, "mtp"))
        return ui_fail(err, "--target mtp has no effect without --mtp-loss; --train-mtp sets both");
    if (o.no_shuffle)
        p->shuffle = false;
    if (o.no_lora)
        p->train_lora = false;
    o.p.read.loss_all = o.loss_on == 1;
    o.p.read.turns_each = o.turns == 1;
    o.p.target_mtp = o.train_mtp;
    static const enum hlm_precision precision[] = { HLM_PRECISION_AUTO, HLM_PRECISION_F32,
                                                    HLM_PRECISION_F16 };
    o.p.precision = precision[o.precision];
    return true;
}

/* The files of data are lists of the program's and parameters of the run. */
static void take_files(void)
{
    o.p.data = o.data.n ? o.data.v[0] : NULL;
    o.p.data_more = o.data.v + 1;
    o.p.n_data_more = o.data.n ? o.data.n - 1 : 0;
    o.p.data_valid = o.valid_data.v;
    o.p.n_data_valid = o.valid_data.n;
}

/* Why the flags cannot be combined; NULL: they can. */
static const char *misfit(void)
{
    static char why[160];
    if (!o.model)
        return "no model: give one with -m FILE";
    if (!o.p.data && !o.p.ids_json)
        return "no training data: give a file or a folder with -d";
    if ((o.p.data || o.valid_data.n) && o.p.ids_json)
        return o.p.data ? "-d and --ids-json cannot be combined"
                        : "--valid-data and --ids-json cannot be combined";
    if (o.valid_data.n && o.p.read.valid > 0)
        return "--valid-data and --valid cannot be combined";
    if (o.dump_rows && !o.p.data)
        return "--dump-rows needs -d";
    if (!o.out && !o.dump_rows && !o.dry_run && !o.plan)
        return "no output: give a file with -o FILE";
    if (o.no_lora && !o.p.train.train_gates)
        return "--no-lora needs --train-gates: otherwise nothing is trained";
    if (o.no_lora && o.train_mtp)
        return "--no-lora and --train-mtp cannot be combined";
    if (o.p.init_lora && (o.train_mtp || o.p.targets))
        return "--target and --train-mtp cannot be combined with --init-lora, whose matrices are "
               "trained";
    if (o.p.read.format && !hlm_is_chat_format(o.p.read.format)) {
        snprintf(why, sizeof why, "--chat-format: '%.32s', expected one of " HLM_CHAT_FORMATS,
                 o.p.read.format);
        return why;
    }
    for (const char *p = o.debug ? o.debug : ""; *p; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n == 4 && !memcmp(p, "prof", 4))
            o.profile = true;
        else if (n == 5 && !memcmp(p, "check", 5))
            o.validate = true;
        else
            return "--debug: unknown word, expected prof or check";
        p += n;
    }
    return NULL;
}

/* Checks that the adapter can be written, so that a run of hours does not fail at its end: makes a
 * file beside the path and removes it again. */
static bool may_write(const char *path, struct hlm_err *err)
{
    size_t n = path ? strlen(path) + 8 : 0;
    char *beside = path ? ui_alloc(n, 1) : NULL;
    if (!path)
        return true;
    if (!beside)
        return ui_fail_memory(err, "%.300s: no memory to write it", path);
    snprintf(beside, n, "%s.XXXXXX", path);
    int fd = -1;
    bool ok = (fd = mkstemp(beside)) >= 0;
    if (!ok)
        ok = ui_fail_system(err, "%.300s: cannot write: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        unlink(beside);
    }
    free(beside);
    return ok;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return !strcmp(a, b) ||
           (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static bool is_input(const char *out, const char *const *in, uint32_t n, struct hlm_err *err)
{
    for (uint32_t i = 0; out && i < n; i++)
        if (in[i] && same_file(out, in[i]))
            return !ui_fail(err, "%.300s: is also an input, expected another file", out);
    return false;
}

/* No output may replace an input. */
static bool check_outputs(struct hlm_err *err)
{
    const char *in[] = { o.model, o.p.ids_json, o.p.init_lora };
    char *best = o.out ? best_path(o.out) : NULL;
    const char *out[] = { o.out, best, o.dump_rows, o.dump_grads };
    bool ok = !o.out || best || ui_fail_memory(err, "out of memory for the name of a file");
    for (uint32_t i = 0; ok && i < ARRAY_LEN(out); i++)
        ok = !is_input(out[i], in, ARRAY_LEN(in), err) &&
             !is_input(out[i], o.data.v, o.data.n, err) &&
             !is_input(out[i], o.valid_data.v, o.valid_data.n, err);
    free(best);
    return ok;
}

/* May the outputs of this call replace what is there? */
static bool may_replace(void)
{
    bool trains = !o.plan && !o.dry_run && !o.dump_rows;
    char *best = trains && o.out ? best_path(o.out) : NULL;
    bool ok = !trains || !o.out || ui_may_write(o.out, FILE_ADAPTER);
    ok = ok && (!best || ui_may_write(best, FILE_ADAPTER));
    ok = ok && (!trains || !o.dump_grads || ui_may_write(o.dump_grads, FILE_ADAPTER));
    ok = ok && (!o.dump_rows || ui_may_write(o.dump_rows, FILE_ROWS));
    free(best);
    return ok;
}

/* Finds the folder of checkpoints, which must not have those of another run. */
static bool find_folder(struct hlm_err *err)
{
    size_t n = o.out ? strlen(o.out) + 6 : 0;
    o.saves = o.p.data || o.save_every || o.checkpoints;
    if (!o.out)
        return true;
    if (!(o.folder = ui_alloc(o.checkpoints ? strlen(o.checkpoints) + 1 : n, 1)))
        return ui_fail_memory(err, "out of memory for the name of a folder");
    if (o.checkpoints)
        strcpy(o.folder, o.checkpoints);
    else
        snprintf(o.folder, n, "%s.ckpt", o.out);
    if (!o.saves || o.plan || o.dry_run || o.p.resume || !hlm_tune_has_saved(o.folder))
        return true;
    struct again old;
    bool ok = again_read(o.folder, &program, 1, (char *[]){ "", NULL }, &old, err);
    o.clears = ok && old.finished;
    again_free(&old);
    if (ok && !o.clears)
        return ui_fail(err,
                       "%.200s: has checkpoints of another run: continue it (--resume %.200s), "
                       "remove them, or choose another folder (--checkpoints)",
                       o.folder, o.folder);
    return ok;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* Adds to a refusal the flags that change what was refused. */
static void explain(struct hlm_err *err)
{
    size_t n = strlen(err->msg), room = sizeof err->msg - n;
    struct hlm_info i = hlm_get_info(o.m);
    if (err->kind == HLM_ERR_WONT_FIT && err->fits)
        snprintf(err->msg + n, room, ": --max-seq %llu would fit", (unsigned long long)err->fits);
    else if (err->kind == HLM_ERR_WONT_FIT)
        snprintf(err->msg + n, room, " (--max-seq, --rank, --target)");
    else if (err->kind == HLM_ERR_INPUT && o.p.train.mtp_factor > 0 && !i.has_mtp)
        snprintf(err->msg + n, room, " (--mtp-loss, --train-mtp)");
}

/* Reports everything that is known before the model's weights are loaded. */
static bool look(struct hlm_err *err)
{
    FILE *to = o.dry_run || o.plan ? stdout : stderr;
    bool known = true;
    if (!(o.t = hlm_tune_open(o.m, &o.p, err))) {
        explain(err);
        return false;
    }
    if (o.vocab && o.p.data && !o.p.read.format)
        hlm_chat_format(o.vocab, &known);
    if (!known)
        ui_warn("--chat-format sets another chat format");
    doctor_targets(&o, stdout);
    if (!o.plan)
        doctor_data(&o, to);
    doctor_plan(&o, to);
    fflush(stdout);
    return true;
}

static bool measure(struct hlm_err *err)
{
    double row_s;
    if (!hlm_tune_begin(o.t, NULL, err) || !hlm_tune_measure(o.t, &row_s, err))
        return false;
    doctor_time(&o, row_s, stdout);
    return true;
}

static int dump_rows(struct hlm_err *err)
{
    struct hlm_log log = ui_log();
    struct hlm_dump_sum sum;
    if (!hlm_tune_dump_rows(o.model, &o.p, o.dump_rows, &log, &sum, err))
        return RC_FAILED;
    ui_note("%s: %llu row%s, %llu document%s, %llu token%s count%s", o.dump_rows,
            (unsigned long long)sum.n_row, ui_s(sum.n_row), (unsigned long long)sum.n_doc,
            ui_s(sum.n_doc), (unsigned long long)sum.n_counted, ui_s(sum.n_counted),
            sum.n_counted == 1 ? "s" : "");
    if (sum.n_unsaid)
        ui_warn("%llu of %llu answers do not count: the template shows earlier answers otherwise "
                "than the model says them; with --turns each every answer counts",
                (unsigned long long)sum.n_unsaid, (unsigned long long)sum.n_answer);
    return RC_OK;
}

static int train(struct hlm_err *err)
{
    int rc = RC_FAILED;
    if (!(o.m = ui_open_model((struct hlm_params){ .model = o.model,
                                                   .validate = o.validate,
                                                   .profile = o.profile,
                                                   .memory = o.memory,
                                                   .f32_only = true,
                                                   .layers = ui.log_json != NULL,
                                                   .dry = true,
                                                   .draft_blocks = o.p.train.mtp_factor > 0 },
                              &rc)))
        return rc;
    if (!(o.vocab = hlm_get_vocab(o.m, err)) && o.samples.n)
        return RC_FAILED;
    *err = (struct hlm_err){ 0 };
    if (o.samples.n) {
        o.session_params = (struct hlm_session_params){ .n_ctx = 512 + (uint32_t)o.n_sample,
                                                        .n_batch = 128,
                                                        .kv = HLM_KV_F32,
                                                        .snapshot_budget = HLM_SNAPSHOT_NONE };
        o.p.sample = &o.session_params;
    }
    bool ok = look(err);
    if (ok && o.plan)
        return RC_OK;
    if (!ok || !ui_load_model(o.m, &rc))
        return ok ? rc : RC_FAILED;
    return !o.dry_run ? tune_loop(&o, err) : measure(err) ? RC_OK : RC_FAILED;
}

static void set_defaults(void)
{
    o = (struct tune){
        .p = hlm_tune_defaults(), .n_sample = 64, .keep = 2, .lr_min = -1, .mtp = -1
    };
}

/* With --resume or --more, reads the flags of that run, then those of this call, which win. */
static bool take_known_flags(int argc, char **argv, struct again *a, struct hlm_err *err)
{
    if (o.more && (o.p.resume || o.p.init_lora))
        return ui_fail(err, "--more cannot be combined with --resume or --init-lora");
    if (!(o.more ? again_more(o.more, &program, argc, argv, a, err)
                 : again_read(o.p.resume, &program, argc, argv, a, err)))
        return false;
    if (!a->known)
        return true;
    set_defaults();
    return flags_again(&program, a->argc, a->argv, err);
}

int tune_train(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    set_defaults();
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    struct again again = { 0 };
    bool known = take_known_flags(argc, argv, &again, &err);
    o.again = again;
    o.program = &program;
    if (!known) {
        again_free(&again);
        return ui_end(ui_failed(&err));
    }
    static char note[1024];
    again_note(&again, &program, note, sizeof note);
    o.p.note = note;
    argc = again.argc;
    argv = again.argv;
    take_files();
    const char *why = misfit();
    if (why)
        return ui_end(usage_error(&program, "%s", why));
    if (!check_outputs(&err) || !settle(argc, argv, &err))
        rc = RC_FAILED;
    else if (!may_replace())
        rc = RC_USAGE;
    else if (!may_write(o.out, &err) || !find_folder(&err))
        rc = RC_FAILED;
    else
        rc = o.dump_rows ? dump_rows(&err) : train(&err);
    if (err.kind)
        rc = ui_failed(&err);
    hlm_session_destroy(o.session);
    hlm_tune_close(o.t);
    hlm_close(o.m);
    free(o.folder);
    again_free(&o.again);
    return ui_end(rc);
}
