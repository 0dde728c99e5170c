/* crash: a small training run that saves after every step, in a process that can be killed. */
#pragma once
#include "hlm_test.h"

/* Runs it in this process. It resumes from the folder's newest checkpoint if there is one, and
 * writes folder.gguf at the end. begun, unless NULL, is called when everything is on the device.
 * False with a reason. */
bool crash_run(const char *folder, void (*begun)(void *user), void *user, struct hlm_err *err);
/* build/tests --crash-child FOLDER NTH: the same, killed at the nth call that writes a file. If it
 * reaches its end, it writes the number of such calls to FOLDER.calls. Returns the exit status. */
int crash_child(int argc, char **argv);
