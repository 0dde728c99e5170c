/* crash: a small training run that saves after every step, in a process that can be killed. */
#pragma once
#include "hlm_test.h"

/* The run, in this process: goes on with folder's newest checkpoint if there is one, and ends with
 * folder.gguf. begun, where it is not NULL, is called when everything is on the device. False with
 * a reason. */
bool crash_run(const char *folder, void (*begun)(void *user), void *user, struct hlm_err *err);
/* build/tests --crash-child FOLDER NTH: that, killed at the nth call that writes a file; how many
 * there were, where it came to its end, goes to FOLDER.calls. The exit status. */
int crash_child(int argc, char **argv);
