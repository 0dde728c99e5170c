/* chat_line: the message that is being typed - its text, the cursor, and what keys do to them. It
 * knows no terminal. */
#pragma once
#include "chat_text.h"

#include "common_base.h"

/* The text is valid UTF-8, terminated; the cursor stands between two grapheme clusters. Zero it
 * before use. */
struct line {
    char *s;
    size_t n, cap, at;
    char *killed; /* what Ctrl-K and its kin cut last */
    bool killing; /* the last change was such a cut: the next one adds to it */
};

void line_free(struct line *l);
void line_move(struct line *l, size_t at);
/* Puts this text in place of the old, cleaned (ui_clean), the cursor at its end. All that put
 * text in do nothing, and return false, without memory. */
bool line_set(struct line *l, const char *s, size_t n);
bool line_insert(struct line *l, const char *s, size_t n); /* at the cursor; cleaned */
bool line_type(struct line *l, uint32_t ch);
void line_delete(struct line *l, size_t from, size_t to);
/* Deletes and remembers. Cuts one after the other are remembered together. */
void line_kill(struct line *l, size_t from, size_t to);
void line_yank(struct line *l);
void line_transpose(struct line *l); /* the two clusters around the cursor */

/* Places around the cursor. Lines are those between line ends; a word is letters, digits and
 * marks, a big word all that is not blank. */
size_t line_begin(const struct line *l);
size_t line_end(const struct line *l);
size_t line_left(const struct line *l); /* one cluster; the cursor at the beginning */
size_t line_right(const struct line *l);
size_t line_word_left(const struct line *l);
size_t line_word_right(const struct line *l);
size_t line_big_word_left(const struct line *l);
/* The place a line above or below, about as far from its beginning. False: there is none. */
bool line_above(const struct line *l, size_t *at);
bool line_below(const struct line *l, size_t *at);
