/* chat_keep: conversations as text - exported as JSON or Markdown, read back, and the last one kept
 * so that it can be gone on with. (A conversation with all that was read is hlm_talk_save's.)
 *
 * The JSON is one line, {"model", "think", "messages": [{"role", "content", "reasoning_content"}]}:
 * that is a line of training data too. */
#pragma once
#include "hlm.h"

/* All calls: false with a reason. A file is replaced as a whole or not at all. */
bool keep_write_json(hlm_talk *t, const char *model, const char *path, struct hlm_err *err);
bool keep_write_text(hlm_talk *t, const char *model, const char *path, struct hlm_err *err);
/* The form by the end of the name, .json or .md. Replaces earlier exports alone. */
bool keep_export(hlm_talk *t, const char *model, const char *path, bool *replaces,
                 struct hlm_err *err);
/* Replaces the conversation by that of a JSON file. */
bool keep_read_json(hlm_talk *t, const char *path, struct hlm_err *err);
/* Text as JSON, also where an answer was cut inside a character; jansson's. */
struct json_t *keep_json_text(const char *s);
bool keep_is_json(const char *path); /* or of the other form: hlm_talk_load's */

/* Where the last conversation is kept: $XDG_STATE_HOME/hlm/last.json. Static memory; NULL: there is
 * no such folder. */
const char *keep_path(void);
bool keep_last(hlm_talk *t, const char *model, const char *path, struct hlm_err *err);
/* What is there is the conversation that goes on. */
void keep_is_ours(const char *path);
/* Removes it, unless another program has kept its own there. False: nothing was removed. */
bool keep_forget(const char *path);
