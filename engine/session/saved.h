/* saved: a session in a file - its layout, and the checks that need no device. */
#pragma once
#include "file/file.h"
#include "hlm.h"
#include "session/snapshot.h"

#include <assert.h>

enum { SAVED_VERSION = 2 };

/* The first bytes of the file. Texts are cut to fit and need not be terminated. */
struct saved_head {
    char magic[8];
    uint32_t version, kv_type;
    uint64_t file_bytes;
    uint64_t model_hash[2], lora_hash[2];
    uint32_t n_layer, n_vocab, n_past, n_known, has_logits, n_snap, spare[2];
    uint64_t n_note;
    char arch[32], name[64];
};
static_assert(sizeof(struct saved_head) == 192, "as in the files that there are");

struct saved_snap {
    uint32_t n_past, has_logits, spare[2];
};

/* What a file must be to fit a session. */
struct saved_want {
    const char *arch, *name;
    uint64_t model_hash[2], lora_hash[2];
    uint32_t n_layer, n_vocab, n_ctx;
    enum hlm_kv kv_type;
    /* bytes of the state, and of the keys and values, after n_past tokens */
    uint64_t (*state_bytes)(const void *user, uint32_t n_past);
    uint64_t (*kv_bytes)(const void *user, uint32_t n_past);
    const void *user;
};

/* A file that has been checked: its small parts, and where the first large part begins. */
struct saved {
    struct saved_head head;
    struct saved_snap snap[MAX_SNAPSHOT];
    int32_t *id; /* [n_known] */
    char *note;  /* [n_note], terminated */
    uint64_t logits_at;
    uint64_t sum[2];
};
/* False: the file was refused, and s holds nothing. Needs no device. */
bool saved_open(struct saved *s, const struct file_in *f, const struct saved_want *w,
                struct hlm_err *err);
void saved_finish(struct saved *s); /* takes a zeroed one */
