/* chat_slash: the commands that begin with a slash. What they report goes to standard error. */
#pragma once
#include "chat_edit.h"
#include "chat_show.h"
#include "common_lora.h"

struct slash {
    hlm *model;
    hlm_talk *talk;
    struct show *show;
    const struct program *flags;             /* /set takes the flags that point into options */
    struct hlm_talk_options *options;        /* the talk's, as the flags set them */
    struct adapters *adapters;               /* in force */
    const struct hlm_session_params *params; /* of the talk */

    /* What a command leaves for the next one, or for the next message; freed by slash_free. */
    char *prefill;  /* stands in the next line already */
    char *attached; /* the text of files that goes with the next message */
    char *say;      /* a message that is to be said now */
    char *saved;    /* the file of the last /save or /load */
    bool editing;   /* the next message takes the place of the last one */
};

/* SLASH_LOST: the talk has lost its session */
enum slash_got { SLASH_DONE, SLASH_FAILED, SLASH_BYE, SLASH_LOST };
enum slash_got slash_run(struct slash *s, const char *line);
void slash_free(struct slash *s);
/* The message with the files that are attached. The caller frees it; NULL without memory. */
char *slash_attach(const struct slash *s, const char *text);
/* The message was answered: they go with no other one. */
void slash_detach(struct slash *s);

/* ---- for completion (chat_complete.c) -------------------------------------------------------- */

enum slash_arg {
    ARG_NONE,
    ARG_TEXT,
    ARG_PATH,     /* all that follows is one path */
    ARG_FILE,     /* a path, then text */
    ARG_ADAPTERS, /* adapters, or off */
    ARG_SETTING,  /* a name and a value */
    ARG_WORD,     /* one of the words of args, "[on|off]" */
};
struct slash_command {
    const char *name, *args, *help;
    enum slash_arg arg;
    enum slash_got (*run)(struct slash *s, const char *arg);
};
extern const struct slash_command slash_commands[]; /* the last has no name */
/* The i-th setting, its name as /set has it in `name`; NULL: there are no more. */
const struct flag *slash_setting(const struct slash *s, uint32_t i, char *name, size_t size);
/* For term_params: what the line may go on with. user: a struct slash. */
void slash_complete(void *user, const char *text, size_t at, struct choices *c);
