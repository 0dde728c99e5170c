/* tune: hlm-tune's training and its subcommands. Each reads its own flags (argv[0] is the program
 * or the subcommand's word) and returns the exit code. */
#pragma once
#include "common_flags.h"

int tune_train(int argc, char **argv);
int tune_info(int argc, char **argv);
int tune_merge(int argc, char **argv);
int tune_export(int argc, char **argv);
int tune_import(int argc, char **argv);
int tune_plot(int argc, char **argv);

/* ---- what the commands share ----------------------------------------------------------------- */

/* What a command cannot do without: "no adapter: give one with --lora FILE". */
struct tune_need {
    bool given;
    const char *what, *how; /* "adapter", "one with --lora FILE" */
};
#define TUNE_NEED_MODEL(path)                                                                      \
    {                                                                                              \
        (path) != NULL, "model", "one with -m FILE"                                                \
    }
#define TUNE_NEED_LORA(path)                                                                       \
    {                                                                                              \
        (path) != 0, "adapter", "one with --lora FILE"                                             \
    }
#define TUNE_NEED_FILE(path)                                                                       \
    {                                                                                              \
        (path) != NULL, "output", "a file with -o FILE"                                            \
    }
/* False: the first that is not given was named, and *rc is the exit code. */
bool tune_has(const struct program *p, const struct tune_need *need, uint32_t n, int *rc);
/* The closing line of an export or an import. */
void tune_wrote(const char *path, const struct hlm_peft_sum *sum, const char *more);
