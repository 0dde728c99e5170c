/* common_config: settings from $XDG_CONFIG_HOME/hlm/config, which the flags of a command line come
 * after.
 *
 *     # a comment
 *     model = ~/models/Qwen3.5-4B-Q4_K_M.gguf
 *     temp = 0.6
 *     system = "Answer briefly.\nSay when you do not know."
 *
 * A name is a flag's, without its dashes. A value may stand in double quotes, with \n, \" and \\
 * in it; a path may begin with ~. */
#pragma once
#include "common_flags.h"

enum { MAX_SETTING = 64 };
struct config {
    const char *path; /* NULL: there is no folder where it could be */
    char *text;       /* of the file; the settings point into it */
    struct setting {
        const struct flag *flag;
        const char *who, *value;
    } at[MAX_SETTING];
    uint32_t n;
};

/* Reads the file, which need not exist, and checks every line. Then flags_again sets what it says.
 * False with file, line and reason. */
bool config_read(const struct program *p, struct config *c, struct hlm_err *err);
/* --print-config: the settings that the file and the line make together, as such a file. */
void config_print(const struct program *p, const struct config *c, int argc, char **argv);
void config_free(struct config *c);
