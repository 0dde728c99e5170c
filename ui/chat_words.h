/* chat_words: the words after a command - quotes, blanks, ~ - and completing paths. */
#pragma once
#include "chat_edit.h"

/* The next word, which the caller frees; NULL: there is none. Blanks end it outside of '...' and
 * "..." and where no backslash is before them; a ~ at its beginning is the home folder. */
char *word_next(const char **at, const char *home);
/* All that is left as one word: blanks are part of a path, unless it begins with a quote. */
char *word_rest(const char *at, const char *home);
/* Does a word begin at `at`, or after it, that a blank has not ended yet? Returns where the last
 * word of text[from .. at) begins. */
size_t word_begin(const char *text, size_t from, size_t at);

/* Adds the paths that text[from .. at) may become, written as word_next reads them. end: only files
 * whose names end so, and folders; NULL: all. */
void complete_path(const char *text, size_t from, size_t at, const char *home, const char *end,
                   struct choices *c);

/* A name for the file of a conversation that begins with this text: "chat-DATE-its-first-words", in
 * letters that every file system takes. */
void word_file_name(const char *text, const char *date, char *out, size_t size);
