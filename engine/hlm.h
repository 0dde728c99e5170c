/* hlm: the public API - a loaded model, and timelines over it. The only engine header that
 * programs include; it brings base.h (errors, log), tok.h (text and ids), chat.h (messages to
 * prompts), merge.h and peft.h (adapters into files) and hlm_train.h (training) with it.
 *
 * One thread per hlm. Nothing here prints, exits or reads the environment. Every call that can fail
 * takes a struct hlm_err, returns false or NULL, and leaves the object usable or safe to destroy.
 */
#pragma once
#include "base/base.h"
#include "text/chat.h"
#include "hlm_counters.h"
#include "hlm_train.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "text/tok.h"

typedef struct hlm hlm;                 /* a model on a device: immutable once open, but for
                                           its adapters */
typedef struct hlm_session hlm_session; /* one conversation: KV cache, convolution window,
                                           recurrent state */

/* Told how far long work is; returning false stops it: the call then returns false
 * with err unset. */
typedef bool (*hlm_progress)(void *user, uint64_t done, uint64_t total);
/* Called on the API thread at every change of state and, during work, up to four times a second
 * (between submissions). c is valid during the call; of m only hlm_expert_loads may be called. */
typedef void (*hlm_watch)(void *user, const hlm *m, const struct hlm_counters *c);

/* ---- devices --------------------------------------------------------------------------------- */

struct hlm_device {
    char name[256], driver[256];
    const char *kind; /* "discrete" "integrated" "cpu" "other" */
    uint64_t heap_bytes, free_bytes;
    char features[256]; /* "subgroup 32, f16, int8 dot, coopmat" */
};
/* The numbers of --device are the indices. Returns how many there are (at most max filled), -1
 * on failure. */
int hlm_devices(struct hlm_device *out, int max, struct hlm_err *err);

/* ---- model ----------------------------------------------------------------------------------- */

struct hlm_params {
    const char *model;      /* path of a GGUF */
    const char *device;     /* NULL: best; a number; part of a name */
    const char *cache_dir;  /* pipeline cache folder; NULL: none kept */
    bool exact;             /* only paths whose operands are f32; else f16 where that is faster,
                               for many tokens at once on matrix units */
    bool f16;               /* f16 there in any case, for comparison */
    bool validate, profile; /* validation layer; time stamps per kernel */
    uint64_t memory;        /* bytes of device memory that may be used; 0: what is free, less a
                               twentieth */
    bool draft;             /* with the file's draft blocks; only training has a use for them */
    bool dry;               /* reads keys and shapes and leaves the device empty until hlm_load:
                               for plans */
    hlm_progress progress;  /* bytes of weights brought to the device */
    void *user;
    hlm_watch watch; /* NULL: nobody watches */
    void *watch_user;
    bool layers; /* the counters tell of layers too. Looked at as often as watch is
                    called, which waits for what runs */
};
hlm *hlm_open(const struct hlm_params *params, struct hlm_err *err);
/* Brings the weights of a dry model up, and its adapters: from here on it is as if it had never
 * been dry. After a failure it can only be closed. */
bool hlm_load(hlm *m, hlm_progress progress, void *user, struct hlm_err *err);
void hlm_close(hlm *m); /* takes NULL; sessions must be gone */

struct hlm_info {
    const char *path, *arch, *name; /* general.name or the file's own */
    const char *device, *driver;
    uint32_t n_layer, n_embd, n_vocab, n_ctx_train;
    uint64_t n_param, file_bytes, weight_bytes; /* weight_bytes: on the device */
    uint64_t memory;                            /* bytes of device memory that may be used */
    bool has_mtp;          /* draft tensors are in the file; hlm leaves them unused */
    uint32_t n_validation; /* validation messages so far */
};
struct hlm_info hlm_get_info(const hlm *m);
bool hlm_ok(const hlm *m); /* false once the device is lost: nothing will work any more */
/* For tests: the n-th submission or wait from now finds the device lost; 0: none. */
void hlm_test_lose(uint64_t n);
const struct gguf *hlm_file(const hlm *m);
/* NULL with a reason kept in hlm_tok_err when the file has no usable one */
struct tok *hlm_tok(hlm *m);
const char *hlm_tok_err(const hlm *m);

struct hlm_lora {
    const char *path;
    float scale;
};
/* Makes these adapters the active ones, all together and unmerged, in place of those before; n 0:
 * none. scale is a factor on the adapter's own. No session may be alive. On failure those before
 * stay - unless the device is lost. */
bool hlm_set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
/* Would the files be taken? Reads and checks them, and may be called at any time. */
bool hlm_check_lora(const hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);

struct hlm_kernel {
    const char *name;
    uint64_t n, bytes;
    double us, flop;
};
/* Time per kernel since the last reset; needs params.profile. Returns how many of max
 * were filled. */
uint32_t hlm_kernels(hlm *m, struct hlm_kernel *out, uint32_t max);
void hlm_kernels_reset(hlm *m);

/* The counters as they stand; with params.profile or params.layers waits for what runs. */
void hlm_get_counters(hlm *m, struct hlm_counters *out);
/* How often each of layer i_layer's *n experts was chosen, as the counters said it last; NULL: it
 * has none, or nobody asked. Good until the counters change. */
const uint64_t *hlm_expert_loads(const hlm *m, uint32_t i_layer, uint32_t *n);
/* An answer or a result is done and no other is under way: until the next call the counters say
 * idle. */
void hlm_idle(hlm *m);

/* ---- sampling -------------------------------------------------------------------------------- */

/* In llama.cpp's order: penalties, top-k, top-p, min-p, temperature. */
struct hlm_sampling {
    float temp;                                                /* <= 0: greedy */
    int32_t top_k;                                             /* <= 0: off */
    float top_p, min_p;                                        /* >= 1, <= 0: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    int32_t repeat_last_n; /* tokens the penalties look back on; -1: all, 0: off */
    uint64_t seed;         /* same seed, same history, same device: same token */
    bool allow_unused;     /* unused vocabulary entries may be chosen too (tests) */
};
/* llama.cpp's defaults, then the file's general.sampling.* keys. */
struct hlm_sampling hlm_sampling_default(const hlm *m);

/* ---- session --------------------------------------------------------------------------------- */

enum hlm_kv { HLM_KV_F16, HLM_KV_F32, HLM_KV_Q8_0 };

struct hlm_session_params {
    uint32_t n_ctx;   /* positions; 0: the most that fit, up to hlm_default_ctx */
    uint32_t n_batch; /* tokens of one prefill piece at most; 0: chosen for the device */
    enum hlm_kv kv;
    bool keep_logits, keep_hidden; /* hlm_session_eval may be asked for logits, for hidden
                                      states */
    bool keep_nll;                 /* hlm_session_nll may be called */
    uint64_t snapshot_budget;      /* bytes for snapshots, allocated with the session; what is
                                      less than one takes is nothing. 0: none */
};
/* For snapshot_budget: 512 MiB - where snapshots lie in the device's memory at most a sixteenth of
 * it - or what two snapshots take where that is more. */
#define HLM_SNAPSHOT_DEFAULT UINT64_MAX
/* All that it takes is allocated here, or nothing: what does not fit is refused with the numbers,
 * and with the context that would. */
hlm_session *hlm_session_create(hlm *m, const struct hlm_session_params *params,
                                struct hlm_err *err);
void hlm_session_destroy(hlm_session *s); /* takes NULL */

/* What a session costs before there is one, the model included. The engine's own dry run: the
 * session is laid out and recorded as always, and nothing is allocated. */
struct hlm_memory {
    char purpose[32]; /* "weights" "kv" "state" "scratch" ... */
    bool on_host;     /* mapped memory of a card's host: not of the device's budget */
    uint64_t bytes;   /* as the driver rounds them */
};
struct hlm_plan {
    uint32_t n_ctx, n_batch;
    struct hlm_memory row[16];
    uint32_t n_row;
    uint64_t device_bytes, host_bytes, memory; /* sums; what the device may give */
    bool fits;
};
/* With n_ctx 0 the plan has the context that hlm_session_create would take, or one token where
 * nothing fits. False: something else than memory is in the way. */
bool hlm_session_plan(hlm *m, const struct hlm_session_params *params, struct hlm_plan *plan,
                      struct hlm_err *err);
/* What n_ctx 0 takes where memory is plenty: the trained length, 262144 at most, 8192 on CPU
 * devices. */
uint32_t hlm_default_ctx(const hlm *m);
/* The longest context that fits, up to params->n_ctx (0: up to what n_ctx 0 allows); 0 when not
 * even one token does. False as above. */
bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                     struct hlm_err *err);
/* Bytes that the driver has given for all that is alive: with one session, its plan's sums. */
uint64_t hlm_allocated(const hlm *m);

uint32_t hlm_session_n_ctx(const hlm_session *s);
/* Tokens that the caches hold, and their ids. A token that hlm_session_next has returned is held
 * only after the next call that needs it. */
uint32_t hlm_session_n_past(const hlm_session *s);
const int32_t *hlm_session_ids(const hlm_session *s);

/* Makes the caches hold exactly id[0 .. n), n >= 1, with the logits of the last one at hand. What
 * is held already is not read again: reading goes on behind the longest prefix of id whose state is
 * there, be it where the timeline stands or in a snapshot.
 *
 * A snapshot is a copy of all state that the past is lost in (convolution windows, recurrent
 * states, rings of sliding windows), of the position, and of the logits where they are at hand. It
 * is void once the ids below it are others. snap[0 .. n_snap), ascending: tokens behind which one
 * is to be kept on the way, as good places to come back to; those that are held already are not
 * taken again. Each costs a submission of its own in the middle of a prompt, none at the end. When
 * the budget is full, the one goes whose loss costs least to read again - the fewest tokens from
 * the one before it - but never the newest, and none goes for one that spares fewer than 8
 * tokens. Going back to a prefix of what is held keeps the state that is left too, where there is
 * room.
 *
 * Stopped by progress or failed: the caches hold what was read so far. */
bool hlm_session_sync(hlm_session *s, const int32_t *id, uint32_t n, const uint32_t *snap,
                      uint32_t n_snap, hlm_progress progress, void *user, struct hlm_err *err);

/* What the last sync found; counts of tokens. Those from n_from to n_same were held as keys and
 * values, but their state was not: they were read again. */
struct hlm_found {
    uint32_t n_held;    /* of which there were keys and values */
    uint32_t n_same;    /* first ones of those that are the ids asked for */
    uint32_t n_from;    /* where reading began */
    uint32_t n_evicted; /* where, between n_from and n_same, a snapshot had stood that the
                           budget had no room for; 0: nowhere */
};
struct hlm_found hlm_session_found(const hlm_session *s);

/* Reads n more tokens behind those held; a token that hlm_session_next has returned and nobody
 * has read is replaced. logits: [n][n_vocab] f32 or NULL; hidden: [n_layer + 2][n][n_embd] f32 or
 * NULL - embeddings, the output of every layer, final norm. */
bool hlm_session_eval(hlm_session *s, const int32_t *id, uint32_t n, float *logits, float *hidden,
                      struct hlm_err *err);

/* Reads id[0 .. n - 1) behind what is held and tells how well each next token was foreseen: nll[i],
 * of n - 1, is the natural negative log likelihood of id[i + 1]. n >= 2; the last id is not read.
 * Computed on the device: four numbers a token come back. No logits are at hand afterwards. */
bool hlm_session_nll(hlm_session *s, const int32_t *id, uint32_t n, double *nll,
                     struct hlm_err *err);

/* The next token. It is sampled on the device from the logits at hand; the token returned before,
 * if it is still unread, is read first, in the same submission. Fails when the context has no
 * room for that. */
bool hlm_session_next(hlm_session *s, const struct hlm_sampling *sampling, int32_t *id,
                      struct hlm_err *err);

/* Writes all of the session to a file: ids, keys and values, state, logits, the snapshots, and the
 * caller's note (any bytes; NULL where there are none). The file is whole or what it was before.
 * While a training is alive sessions are neither saved nor loaded: the numbers that they read with
 * change with every step. */
bool hlm_session_save(hlm_session *s, const char *path, const void *note, uint64_t n_note,
                      struct hlm_err *err);
/* Makes the session what was saved: the next logits are the same bits. The session may have another
 * context, if the tokens fit, and another budget for snapshots; model, adapters and type of the KV
 * cache must be those of the file. *note is the caller's, terminated by a NUL that n_note does not
 * count; NULL: not wanted. A file that is damaged or does not fit is refused before anything
 * changes; should reading fail after that (a lost device, a file that changes meanwhile), the
 * session holds nothing. */
bool hlm_session_load(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                      struct hlm_err *err);

/* All the checks of hlm_session_load and the note; the session stays as it is. */
bool hlm_session_peek(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                      struct hlm_err *err);

void hlm_session_reset(hlm_session *s); /* holds nothing; no snapshots either */

struct hlm_stats {
    uint64_t n_read;   /* tokens read for the first time, by sync and eval */
    uint64_t n_reused; /* tokens that a sync found in the caches */
    uint64_t n_reread; /* tokens that had been read before and were read again */
    uint64_t n_gen;    /* tokens returned by hlm_session_next */
    double read_s, gen_s;
    uint64_t n_submit, n_record, n_pipeline; /* of the device, since it was opened */
    uint64_t n_snapshot, snapshot_max;       /* held now; room for */
    uint64_t weight_bytes, adapter_bytes;
    uint64_t kv_bytes, state_bytes, scratch_bytes, snapshot_bytes, other_bytes;
};
struct hlm_stats hlm_session_stats(const hlm_session *s);
