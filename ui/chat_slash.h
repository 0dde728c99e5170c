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
};

/* SLASH_LOST: the talk has lost its session */
enum slash_got { SLASH_DONE, SLASH_FAILED, SLASH_BYE, SLASH_LOST };
enum slash_got slash_run(struct slash *s, const char *line);
/* For term_params: what the line may go on with. user: a struct slash. */
void slash_complete(void *user, const char *text, size_t at, struct choices *c);
