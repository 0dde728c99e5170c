/* common_flags: a program's command line from one table, which --help and /set print too. */
#pragma once
#include "common_base.h"

enum flag_type {
    FLAG_GROUP,  /* no flag: a heading of --help; its title is in names */
    FLAG_SWITCH, /* bool: set to true */
    FLAG_TEXT,   /* const char *: points into argv */
    FLAG_INT,    /* int32_t, min..max */
    FLAG_FLOAT,  /* float, min..max */
    FLAG_REAL,   /* double, min..max */
    FLAG_BYTES,  /* uint64_t; K, M and G after the number are powers of 1024 */
    FLAG_SEED,   /* uint64_t; -1 draws one */
    FLAG_LIST,   /* struct flag_list: every value of a flag that may come again */
    FLAG_CHOICE, /* int: index of the word in arg, "f16|f32" */
};

/* A flag that says what one call of the program is to do, and is none of the run's. */
enum { FLAG_ONE_CALL = 1 };
enum { MAX_FLAG_LIST = 32 };
struct flag_list {
    const char *v[MAX_FLAG_LIST];
    uint32_t n;
}; /* points into argv */

struct flag {
    enum flag_type type;
    const char *names; /* separated by spaces, all with their dashes: "-n --predict" */
    const char *arg;   /* how --help calls the value */
    void *to;
    double min, max;  /* of texts and switches min may be FLAG_ONE_CALL */
    const char *help; /* lines flow; ends with the default in round brackets, if there is one */
};

struct program {
    const char *name;
    const char *usage; /* what follows the name in the usage line */
    const char *about; /* a few lines for --help */
    const struct flag *flag;
    uint32_t n_flag;
    const struct config *config; /* settings that come before the line's; may be NULL */
    const char *commands; /* words that may stand in the place of flags, for "perhaps you mean" */
    struct flag_list *words; /* takes the words without a flag; NULL: one may be the model */
    bool no_engine;          /* it has none: no flags of devices, statistics and --log-json */
};

/* Reads the command line, the flags that all programs share included, and calls ui_start. A word
 * without a flag is the model, where it is a model file. False when the program is to leave with
 * *rc: --help, --version and --list-devices are done, a bad flag is reported. */
bool flags_read(const struct program *p, int argc, char **argv, int *rc);
/* Reads a line of flags once more, for values that replace defaults known only by now, or another
 * line, which can fail. */
bool flags_again(const struct program *p, int argc, char **argv, struct hlm_err *err);
/* Calls fn for every flag of a line in its order; who is its name as it was written, value NULL for
 * a switch. fn ends the walk by false. */
typedef bool flag_fn(void *user, const struct flag *f, const char *who, const char *value,
                     struct hlm_err *err);
bool flags_each(const struct program *p, int argc, char **argv, flag_fn *fn, void *user,
                struct hlm_err *err);

/* Fails with "WHAT 'name'" and the flag that may have been meant; `skip` bytes of their names are
 * not shown. */
bool flag_unknown(const struct program *p, const char *what, const char *name, size_t skip,
                  struct hlm_err *err);
bool flag_has_name(const struct flag *f, const char *name); /* with its dashes */
const char *flag_long_name(const struct flag *f);           /* without; more names may follow */
/* The flag called `--name`, an underscore counting as a dash; NULL if there is none. */
const struct flag *flag_named(const struct program *p, const char *name);
/* Reads one value; who is the flag's name in the message. What `to` points at stays as it was on
 * failure. */
bool flag_value(const struct flag *f, const char *who, const char *value, struct hlm_err *err);
void flag_print(const struct flag *f, char *out, uint64_t size); /* its present value */

/* "hlm-chat: what is wrong" and the usage line on standard error. Returns RC_USAGE. */
int usage_error(const struct program *p, const char *fmt, ...) UI_PRINTF(2, 3);
