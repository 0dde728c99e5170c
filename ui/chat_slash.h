/* chat_slash: the commands that begin with a slash. What they say goes to standard error. */
#pragma once
#include "chat_show.h"
#include "common_lora.h"

struct slash {
    struct talk *talk;
    struct show *show;
    const struct program *flags; /* /set takes those of them that lie inside the talk */
    struct adapters *adapters;   /* in force */
    hlm_session **session;       /* made anew by /lora, as params say */
    const struct hlm_session_params *params;
};

/* SLASH_LOST: there is no session any more */
enum slash_got { SLASH_DONE, SLASH_FAILED, SLASH_BYE, SLASH_LOST };
enum slash_got slash_run(struct slash *s, const char *line);
const char *const *slash_words(void); /* for completion; ends with NULL */
