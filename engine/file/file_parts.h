/* file_parts: what file.c, which reads one file, and file_split.c, which joins several, tell each
 * other, and file_io.c and file_folder.c. Nobody else includes it but tests, which join parts that
 * lie in memory. */
#pragma once
#include "file/file.h"

/* One file as it is, whether or not it is a part of something. */
struct gguf *gguf_open_alone(const char *path, struct hlm_err *err);
/* The tensors of n more files join g's directory, behind its own. part[n], from mem_alloc, belongs
 * to g from then on, also after a failure; the tensors of its files are found in g only. */
bool gguf_adopt(struct gguf *g, struct gguf **part, uint32_t n, struct hlm_err *err);
/* A refusal in the form of all others: file, key, what was found and expected. */
bool gguf_refuse(const struct gguf *g, const char *key, struct hlm_err *err, const char *fmt, ...)
    HLM_PRINTF(4, 5);

/* Opens the parts that belong to a first one, each by its path, and joins them to it. A file that
 * is no part of anything stays as it is. Takes over g, also when it fails: NULL with a reason. */
typedef struct gguf *(*gguf_opener)(void *user, const char *path, struct hlm_err *err);
struct gguf *gguf_join(struct gguf *g, gguf_opener opener, void *user, struct hlm_err *err);

/* A call to the system that writes: is it the one that a test wants to fail? Then errno says so. */
bool file_is_faulty(void);
/* What happened to names is on disk once their folder is. Some file systems cannot sync a folder:
 * not an error. The second cuts path to its folder. */
void file_sync_folder(const char *path);
void file_sync_folder_of(char *path);
