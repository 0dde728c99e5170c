/* process: the processes of this user that can be watched, and why others cannot.
 * process_print_list is in watch.h. */
#pragma once
#include <stdint.h>

/* Why a process that is there cannot be watched, in one line; "": all can. */
void process_refusal(char *out, uint64_t size);
