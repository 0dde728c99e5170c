/* str: slices of text, with the string methods that chat templates use.
 *
 * White space is what Python's str.strip() removes. */
#pragma once
#include "base/base.h"

enum side { LEFT = 1, RIGHT = 2, BOTH = 3 };

struct hlm_str str_of(const char *s);
bool str_begins(struct hlm_str s, const char *with);
bool str_ends(struct hlm_str s, const char *with);
bool str_has(struct hlm_str s, const char *mark);
/* The text before the first `mark` and after the last one. Without a mark both are s, and the
 * result is false. */
bool str_around(struct hlm_str s, const char *mark, struct hlm_str *before, struct hlm_str *after);
struct hlm_str str_strip(struct hlm_str s, enum side side); /* without white space at the ends */
struct hlm_str str_strip_newlines(struct hlm_str s, enum side side);
