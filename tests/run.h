/* run: runs hlm-chat and the other programs, which are beside the test program, and returns their
 * output and exit code. */
#pragma once
#include "json.h"

#include <sys/types.h>

#define DEMO "models/demo/hlm-demo-q8_0.gguf"
#define TIMEOUT_S 300 /* of one program, so that one that hangs does not stop the whole run */

struct ran {
    int rc;          /* the exit code; 128 + signal when one ended the program */
    char *out, *err; /* end with a zero */
};
void ran_free(struct ran *r);

/* Runs a command such as "hlm-chat -m x ...". Blanks separate words, so no word can contain one.
 * input: text for standard input; NULL: none. */
struct ran run(const char *input, const char *fmt, ...) HLM_PRINTF(2, 3);
/* The same in two steps, with files as its streams. */
pid_t start(const char *command, const char *in, const char *out, const char *err);
int finish(pid_t pid);
/* The path of a program beside this one. Its caches are put there too, by the environment. */
const char *program_path(const char *name);
/* A case: the command exits with rc and writes one message with these parts (CHECK_SAYS) to
 * standard error - followed by a line of usage where rc is 2 - and nothing to standard output. */
void run_refused(int rc, const char *command, const char *says);

/* A file of the scratch folder. The path stays valid. */
const char *scratch(const char *name);
char *slurp(const char *path); /* the caller frees */
void spill(const char *path, const char *text);
uint32_t n_lines(const char *s);

/* Writes an adapter of the demo model that changes its answers. Returns the path. */
const char *demo_adapter(const char *path);
