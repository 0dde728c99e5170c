/* chat_text: UTF-8 as a terminal shows it - what a person takes for one character, and how many
 * columns that has. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* The end of the grapheme cluster that begins at `at` < n, by Unicode's rules (UAX 29): a letter
 * with its accents, an emoji of several parts. A byte that is no UTF-8 is one by itself. */
size_t text_next(const char *s, size_t n, size_t at);
/* The beginning of the cluster that ends at `at` > 0. */
size_t text_prev(const char *s, size_t at);
/* The most columns that terminals give clusters. They do not agree: some show an emoji of several
 * parts as one picture, others as its parts, side by side. */
unsigned text_columns(const char *s, size_t n);
/* Is there a letter, digit or mark at `at`? Words are made of these. */
bool text_in_word(const char *s, size_t n, size_t at);
bool text_is_blank(char c); /* space, tab, line end */
