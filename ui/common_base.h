/* common_base: what the programs have in place of the engine's own base - error text, checked
 * allocation, a clock, clean text, reading and replacing files, misspelt words, which files may be
 * replaced. */
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

/* Bytes that grow, with a NUL after them. Zero it before use. False, and unchanged, without
 * memory. */
struct ui_bytes {
    char *s;
    size_t n, cap;
};
bool ui_reserve(struct ui_bytes *b, size_t n); /* room for n more */
bool ui_add(struct ui_bytes *b, const char *s, size_t n);
void ui_drop(struct ui_bytes *b, size_t n); /* the first n */
void ui_bytes_free(struct ui_bytes *b);

/* Copies n bytes to `to`, which has room for 3 n, and returns how many came out: valid UTF-8 whose
 * only control characters are line ends (LF for any of CR LF, CR, LF) and tabs. */
size_t ui_clean(const char *s, size_t n, char *to);
bool ui_is_clean(const char *s); /* would ui_clean leave it as it is? */
/* a, an empty line, b, in new memory; either may be NULL or empty. */
char *ui_joined(const char *a, const char *b);
bool ui_ends_with(const char *s, const char *end);

static inline const char *ui_s(uint64_t n) { return n == 1 ? "" : "s"; } /* of a plural */

/* The word of a list, which ends with NULL, that is most likely meant by a misspelt one; NULL: none
 * is near. Capitals, and _ for -, are no difference. */
const char *ui_nearest(const char *word, const char *const *list);

double ui_now_s(void); /* monotonic seconds */

/* All of a file, at most max bytes, terminated by a NUL that *n does not count; freed with free.
 * NULL with a reason. */
char *ui_read_file(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err);
/* The last max bytes of it, where it is longer. */
char *ui_read_tail(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err);
/* Checks text of n bytes that was read from `from`, takes the line ends from its end, and returns
 * it. NULL, and it is freed, with a reason: it is NULL, is empty, or holds a NUL byte. */
char *ui_as_text(char *text, uint64_t *n, const char *from, struct hlm_err *err);
/* Puts a file of these bytes in the place of what is at the path: all of it or, after a failure and
 * after a crash of the machine, nothing. mode: who may read it, where it is new. A symbolic link
 * stays one. */
bool ui_replace_file(const char *path, unsigned mode, const void *bytes, uint64_t n,
                     struct hlm_err *err);

bool ui_exists(const char *path);
bool ui_begins_with(const char *path, const char *what); /* a file, with at most 64 bytes */

/* What a file that a program writes is to be. An earlier one of the same kind may be replaced,
 * anything else that stands at the path may not: it is some other work of the person's. */
enum file_kind {
    FILE_TALK,      /* a saved conversation (hlm_talk_save) */
    FILE_TALK_JSON, /* an exported one: an object with "messages" */
    FILE_TALK_TEXT, /* an exported one: Markdown that begins with UI_TALK_MARK */
    FILE_MODEL,     /* a GGUF file, but no adapter */
    FILE_ADAPTER,   /* a GGUF file with an adapter */
    FILE_EXPORT,    /* hlm-tune export: a folder, which must be empty */
    FILE_EVENTS,    /* --log-json; also a device or a pipe */
    FILE_ROWS,      /* hlm-tune --dump-rows */
    FILE_PLOT,      /* a picture of hlm-tune plot */
    FILE_FIGURES,   /* figures of hlm-tune plot */
};
#define UI_PLOT_MARK "tEXtSoftware\0hlm-tune plot" /* in such a picture, after its header */
#define UI_FIGURES_MARK "log,step"                 /* its first columns */
#define UI_TALK_MARK "<!-- a conversation exported by hlm-chat -->\n"
/* May a file of this kind be written to the path? Nothing is there, or an ordinary file of the same
 * kind: then *replaces is true (replaces may be NULL). False with what is there and what was
 * expected. */
bool ui_may_replace(const char *path, enum file_kind kind, bool *replaces, struct hlm_err *err);
const char *ui_kind_name(enum file_kind kind); /* "an earlier adapter" */
bool ui_is_file(const char *path);             /* is an ordinary file there? */

/* Notes a file that is written under a temporary name, or (is false) no longer; the path must live
 * as long. ui_drop_unfinished removes them all, for a handler of signals that ends the process. */
void ui_unfinished(const char *path, bool is);
void ui_drop_unfinished(void);

static inline uint32_t ui_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t ui_max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t ui_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t ui_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }
