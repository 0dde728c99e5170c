/* file_parts: shared by file_io.c and file_folder.c. Nothing else includes it. */
#pragma once
#include "file/file.h"

/* To be called before each system call that writes. True if a test wants that call to fail; errno
 * is then set. */
bool file_is_faulty(void);
/* Sync a folder, which brings renames and new names in it to disk. A file system that cannot sync
 * folders is not an error. The second call cuts path to its folder. */
void file_sync_folder(const char *path);
void file_sync_folder_of(char *path);
