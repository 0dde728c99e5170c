/* common_base: what the programs have in place of the engine's own base - error text, checked
 * allocation, a clock, reading a file whole, misspelt words, which files may be replaced. */
#pragma once
#include "hlm.h"

#if defined(__GNUC__)
#define UI_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define UI_PRINTF(fmt, args)
#endif

#ifndef ARRAY_LEN
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#endif

/* Describes a failure in err, which may be NULL: the first message stays. Always false, so that a
 * function can `return ui_fail(err, ...)`. For input that is not as it must be; the others are for
 * want of memory and for what the system says. */
bool ui_fail(struct hlm_err *err, const char *fmt, ...) UI_PRINTF(2, 3);
bool ui_fail_memory(struct hlm_err *err, const char *fmt, ...) UI_PRINTF(2, 3);
bool ui_fail_system(struct hlm_err *err, const char *fmt, ...) UI_PRINTF(2, 3);
/* A callback of the program asked to stop. */
bool ui_fail_stopped(struct hlm_err *err);

/* n * size is checked. NULL without memory. */
void *ui_alloc(uint64_t n, uint64_t size);           /* zeroed */
void *ui_grow(void *old, uint64_t n, uint64_t size); /* realloc; new bytes are not zeroed */
char *ui_copy(const char *s, uint64_t n);            /* n bytes and a NUL */

/* The word of a list, which ends with NULL, that is most likely meant by a misspelt one; NULL: none
 * is near. Capitals, and _ for -, are no difference. */
const char *ui_nearest(const char *word, const char *const *list);

double ui_now_s(void); /* monotonic seconds */

/* All of a file, at most max bytes, terminated by a NUL that *n does not count; freed with free.
 * NULL with a reason. */
char *ui_read_file(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err);

/* What a file that a program writes is to be. An earlier one of the same kind may be replaced,
 * anything else that stands at the path may not: it is some other work of the person's. */
enum file_kind {
    FILE_TALK,      /* a saved conversation (hlm_talk_save) */
    FILE_TALK_JSON, /* an exported one: an object with "messages" */
    FILE_TALK_TEXT, /* an exported one: Markdown that begins with UI_TALK_MARK */
    FILE_MODEL,     /* a GGUF file, but no adapter */
    FILE_ADAPTER,   /* a GGUF file with an adapter */
};
#define UI_TALK_MARK "<!-- a conversation exported by hlm-chat -->\n"
/* May a file of this kind be written to the path? Nothing is there, or an ordinary file of the same
 * kind: then *replaces is true (replaces may be NULL). False with what is there and what was
 * expected. */
bool ui_may_replace(const char *path, enum file_kind kind, bool *replaces, struct hlm_err *err);

static inline uint32_t ui_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t ui_max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t ui_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t ui_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }
