/* common_lora: the adapters a person asks for, FILE[:SCALE] each, and making them active. */
#pragma once
#include "hlm.h"
#include "common_flags.h"

/* Adapters with the memory of their names; n 0: none. */
struct adapters {
    struct hlm_lora l[MAX_FLAG_LIST];
    uint32_t n;
};

/* Reads the words. What follows a word's last colon is a factor where it is a number and the file
 * is there without it, or is not there with it either. False with err: nothing is kept. */
bool adapters_read(struct adapters *a, const char *const *word, uint32_t n, struct hlm_err *err);
void adapters_free(struct adapters *a);      /* takes a zeroed one */
void adapters_log(const struct adapters *a); /* an event for each, or one that says there is none */
/* hlm_set_lora, and then the events. False: the adapters before stay. */
bool adapters_use(hlm *m, const struct adapters *a, struct hlm_err *err);
/* Both for the values of --lora, on a model just opened. */
bool adapters_open(hlm *m, const struct flag_list *list, struct hlm_err *err);
