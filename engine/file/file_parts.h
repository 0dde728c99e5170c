/* file_parts: what file_io.c and file_folder.c share. Nothing else includes it. */
#pragma once
#include "file/file.h"

/* True for the system call that a test wants to fail; errno is then set. Ask once before each call
 * that writes. */
bool file_is_faulty(void);
/* Renames and new names are on disk once their folder is synced. Some file systems cannot sync a
 * folder, which is not an error. The second call cuts path to its folder. */
void file_sync_folder(const char *path);
void file_sync_folder_of(char *path);
