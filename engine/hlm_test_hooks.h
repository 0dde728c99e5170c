/* hlm_test_hooks: what tests, and hlm-chat with --debug, break on purpose. Not installed and no
 * part of the API: the next version may have others. */
#ifndef HLM_TEST_HOOKS_H
#define HLM_TEST_HOOKS_H

#include "hlm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The n-th submission or wait from now, 1 being the next, finds the device lost; 0: none does. */
HLM_API void hlm_test_lose(uint64_t n);
/* The n-th allocation of host memory from now fails; 0: none does. Returns how far away the one
 * asked for before still was, 0 when it has happened. */
HLM_API uint64_t hlm_test_fail(uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
