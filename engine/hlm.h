/* hlm.h: the public API of libhlm - models, text, sessions, conversations, adapters.
 *
 * hlm runs and finetunes hybrid language models from GGUF files with Vulkan. hlm_train.h has
 * training, hlm_counters.h the figures of an engine at work. The three headers need nothing but the
 * standard library's, compile as C and as C++, and take no name that does not begin with hlm or
 * HLM.
 *
 * Objects. An hlm is a model on a device. An hlm_session holds one sequence of tokens: caches and
 * state. An hlm_context holds the caches of several sessions, which can be decoded together. An
 * hlm_talk is a conversation over a session of its own. An hlm_vocab is a file's tokenizer and chat
 * format, and needs no device. Whoever opens or creates an object closes or destroys it; both take
 * NULL. Strings and structs passed in are copied unless a comment says otherwise.
 *
 * Parameters. Zero is the default of every member of a struct hlm_*_params, so that
 * `(struct hlm_params){ .model = path }` is complete. There are three exceptions: hlm_tune_params,
 * with what it contains, begins as hlm_tune_defaults() returns it; hlm_sampling as
 * hlm_sampling_default() does; the options of a conversation as hlm_talk_open() makes them.
 *
 * Versions. Any struct, also one inside another, may get more members when the minor number of the
 * version changes. The soname of the library changes then too, so programs are compiled again; name
 * members in initialisers, and old code still means the same. Versions that differ in the patch
 * number alone have the same structs.
 *
 * Errors. A call that can fail returns false, NULL or -1, and describes the failure in *err, which
 * may be NULL; every such call clears *err when it begins. After a failure an object is unchanged
 * unless its comment says otherwise, and can always be closed.
 *
 * Threads. Calls on one hlm, and on what was made from it, must not overlap; which thread makes
 * them does not matter. Different hlm, and vocabularies opened from files, are independent.
 * Callbacks run during a call, on its thread, and may call only what their comment names. A log
 * sink may also be called from helper threads while a call is running.
 *
 * The library prints nothing, never exits, and does not read the environment. */
#ifndef HLM_H
#define HLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define HLM_API __attribute__((visibility("default")))
#else
#define HLM_API
#endif

/* A zeroed struct, in C and in C++: `struct hlm_params p = HLM_ZERO;`. */
/* clang-format off */
#ifdef __cplusplus
#define HLM_ZERO {}
extern "C" {
#else
#define HLM_ZERO { 0 }
#endif
/* clang-format on */

/* ---- version --------------------------------------------------------------------------------- */

#define HLM_VERSION_MAJOR 0
#define HLM_VERSION_MINOR 3
#define HLM_VERSION_PATCH 0
#define HLM_VERSION "0.3.0"

HLM_API const char *hlm_version(void); /* of the library that is linked: "0.3.0" */

/* ---- errors ---------------------------------------------------------------------------------- */

enum hlm_error {
    HLM_OK,
    HLM_ERR_INPUT,       /* a file, a text or a parameter is not as it must be */
    HLM_ERR_STOPPED,     /* a callback asked to stop */
    HLM_ERR_MEMORY,      /* the host or the device had no memory left */
    HLM_ERR_WONT_FIT,    /* the plan is larger than what may be used; see need, have and fits */
    HLM_ERR_FULL,        /* the context has no room for more tokens; see need and have */
    HLM_ERR_SYSTEM,      /* a file could not be read or written */
    HLM_ERR_UNSUPPORTED, /* no device, a driver without what hlm needs, an architecture or a tensor
                            type that hlm does not know */
    HLM_ERR_DEVICE_LOST, /* the device is gone: only closing is left to do */
    HLM_ERR_STATE, /* not possible now: an earlier call failed, or something is still in use */
};

struct hlm_err {
    enum hlm_error kind;
    /* WONT_FIT: bytes that are needed, and bytes that may be used or that one buffer or binding of
     * the device may have; 0: not known. FULL: tokens that are needed and tokens that there is room
     * for. Other kinds: 0. */
    uint64_t need, have;
    /* WONT_FIT of a session: the largest n_ctx that fits. Of a training run: the longest row that
     * fits, in tokens. 0: no value fits, or another limit than memory is in the way. */
    uint64_t fits;
    char msg[512]; /* one sentence; names the file and the tensor, what was found and expected */
};

/* "input"; "unknown" for a number that is no kind. A constant, never freed. */
HLM_API const char *hlm_error_name(enum hlm_error kind);

/* ---- log ------------------------------------------------------------------------------------- */

enum hlm_log_level { HLM_LOG_ERROR, HLM_LOG_WARN, HLM_LOG_INFO, HLM_LOG_DEBUG };
/* A message: one line, without a line end, valid during the call. A sink (fn and user) gets one at
 * a time, whatever the threads; different sinks do not wait for each other. It may use other
 * models, but nothing of the one whose message it is. */
typedef void (*hlm_log_fn)(void *user, enum hlm_log_level level, const char *msg);

/* Where the messages of an object go. fn NULL: nowhere. */
struct hlm_log {
    hlm_log_fn fn;
    void *user;
};

/* Reports how far long work is. It is called with done 0 before the work begins and then after each
 * piece of it, the last time with done == total. When there is nothing to do, it is not called. The
 * comment beside each callback says what it counts. There may be thousands of calls a second. When
 * one of them returns false, the work stops and fails with HLM_ERR_STOPPED. The callback must not
 * call anything of the model at work or of what was made from it; other models are free. */
typedef bool (*hlm_progress)(void *user, uint64_t done, uint64_t total);

/* ---- devices --------------------------------------------------------------------------------- */

struct hlm_device {
    char name[256], driver[256];
    const char *kind; /* "discrete" "integrated" "cpu" "other" */
    uint64_t heap_bytes, free_bytes;
    char features[256]; /* "subgroup 32, f16, int8 dot, coopmat" */
};

/* Fills at most max of out and returns how many devices there are, -1 on failure. The index of a
 * device is its number in hlm_params.device. */
HLM_API int hlm_devices(struct hlm_device *out, int max, struct hlm_err *err);

/* ---- model ----------------------------------------------------------------------------------- */

typedef struct hlm hlm;
typedef struct hlm_context hlm_context;
typedef struct hlm_session hlm_session;
typedef struct hlm_talk hlm_talk;
typedef struct hlm_vocab hlm_vocab;
struct hlm_counters; /* hlm_counters.h */

/* Called at every change of state and, during work, up to four times a second between submissions.
 * It runs on the thread of the call that works, also inside hlm_open, before that has returned m,
 * and inside hlm_session_destroy. c is valid during the call; of m only hlm_expert_loads and
 * hlm_set_watched may be called. */
typedef void (*hlm_watch)(void *user, const hlm *m, const struct hlm_counters *c);

struct hlm_params {
    const char *model;     /* path of a GGUF file, or of the first file of a split model */
    const char *device;    /* NULL: the best one; a number; a part of a name */
    const char *cache_dir; /* folder of the pipeline cache; NULL: none is kept */
    bool f32_only;         /* only kernels whose operands are f32. Else many tokens at once are
                              multiplied with f16 operands where the device has matrix units */
    bool f16;              /* f16 operands even without matrix units, for comparison */
    bool validate;         /* Vulkan's validation layer; its messages are logged as errors */
    bool profile;          /* time stamps per kernel */
    uint64_t memory;       /* bytes of device memory that may be used; 0: 95 % of what is free */
    bool draft_blocks;     /* load the file's draft (MTP) blocks too; training uses them */
    bool dry;              /* read keys and shapes only, so that plans can be made; hlm_load brings
                              the weights to the device later */
    bool layers;           /* the counters include layers. They are read as often as watch is
                              called, which waits for the device */
    struct hlm_log log;
    hlm_progress progress; /* bytes of weights brought to the device */
    void *progress_user;
    hlm_watch watch;
    void *watch_user;
    /* Counts kernels as the driver compiles them, which may take seconds. Only those that are not
     * in cache_dir are compiled: all of them in the first run, or after the driver was changed. */
    hlm_progress preparing;
    void *preparing_user;
    bool any_base; /* no warning of adapters that were trained on another file */
};

HLM_API hlm *hlm_open(const struct hlm_params *params, struct hlm_err *err);
/* Brings the weights of a dry model, and its adapters, to the device. Does nothing when they are
 * there. After a failure the model can only be closed; another call fails with HLM_ERR_STATE. */
HLM_API bool hlm_load(hlm *m, struct hlm_err *err);
/* Its sessions, conversations and training run must be gone. While one is alive, this closes
 * nothing and logs an error: destroy what is left and close again. The vocabulary that
 * hlm_get_vocab returned goes with the model. */
HLM_API void hlm_close(hlm *m);

struct hlm_info {
    const char *path, *arch;
    const char *name; /* general.name of the file, or the file's own name */
    const char *type; /* the tensor type that most bytes of the file are of: "Q4_K" */
    const char *device, *driver;
    uint32_t n_layer, n_embd, n_vocab, n_ctx_train;
    uint64_t n_param, file_bytes;
    uint64_t tensor_bytes; /* of the file */
    uint64_t weight_bytes; /* on the device */
    uint64_t memory;       /* bytes of device memory that may be used */
    bool has_mtp;          /* the file has draft (MTP) tensors */
    bool f16;              /* prompts are read with f16 operands */
    uint32_t n_validation; /* validation messages so far */
};
HLM_API struct hlm_info hlm_get_info(const hlm *m); /* strings are valid while m is open */
HLM_API bool hlm_ok(const hlm *m);                  /* false once the device is lost */

struct hlm_kernel {
    const char *name;
    uint64_t n, bytes; /* dispatches; bytes that they may touch */
    double us, flop;
};
/* Time per kernel since the last reset, while it was taken: params.profile, hlm_set_watched.
 * Returns how many were filled. */
HLM_API uint32_t hlm_kernels(hlm *m, struct hlm_kernel *out, uint32_t max);
HLM_API void hlm_kernels_reset(hlm *m);

/* The counters as they stand. While kernels or layers are watched it waits for the device. */
HLM_API void hlm_get_counters(hlm *m, struct hlm_counters *out);
/* Switches on and off, while a model is open, what params.profile and params.layers switch on when
 * it is opened; what was on then stays on. Any thread may call it at any time between hlm_open and
 * hlm_close, whatever calls are running, and so may watch. Work takes it up between two
 * submissions: at the next batch of a prompt, token or training row. Of the work a twenty-fifth is
 * timed, since stamps may cost as much as what they time. Without room for statistics of layers
 * work goes on without them, with a warning. Off costs nothing, and neither changes a bit of any
 * result. The counters keep the last kernels and layers when they are off again. */
HLM_API void hlm_set_watched(const hlm *m, bool kernels, bool layers);
/* How often each of layer i_layer's *n experts was chosen, as of the last counters; NULL: the layer
 * has no experts, or layers were never watched. Valid until the counters change. */
HLM_API const uint64_t *hlm_expert_loads(const hlm *m, uint32_t i_layer, uint32_t *n);
/* Says that no work is under way: until the next call the counters' state is HLM_IDLE. */
HLM_API void hlm_idle(hlm *m);
/* Bytes that the driver gave for everything that is alive, as it rounds them: memory of the device,
 * and memory of the host that the device uses. A plan has both (hlm_plan). */
HLM_API uint64_t hlm_allocated(const hlm *m);

/* ---- adapters -------------------------------------------------------------------------------- */

struct hlm_lora {
    const char *path; /* a GGUF file */
    float scale;      /* a factor on the adapter's own */
};
/* Makes these adapters active, all together and unmerged, in place of those before; n 0: none. No
 * session may be alive. On failure those before stay; only if the device fails while gates are put
 * back is the model left without adapters. */
HLM_API bool hlm_set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
/* Reads and checks the files as hlm_set_lora would, and changes nothing. */
HLM_API bool hlm_check_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);

/* Matrices or gates of an adapter that differ only in their layer. */
struct hlm_adapter_kind {
    char name[64]; /* "blk.N.attn_q.weight" */
    uint32_t n;    /* how many there are */
    /* Of lora_a and lora_b: dimensions, the fastest first, 0 when not used; types, "F32". A gate
     * delta has only the first. */
    uint64_t a[4], b[4];
    char type_a[16], type_b[16];
    uint64_t bytes;
};
struct hlm_adapter_info {
    char name[200], arch[64], base_name[200], base_repo[200]; /* empty: the file does not say */
    float alpha;
    uint64_t n_matrix, n_gate, n_norm; /* norm vectors are left out when the adapter is used */
    uint64_t n_param, bytes, file_bytes;
    uint64_t rank_min, rank_max;
    uint32_t n_kind;
    struct hlm_adapter_kind *kind; /* freed by hlm_adapter_info_free */
    /* What hlm wrote of the run that made it: keys without "hlm.", and their texts. */
    uint32_t n_past;
    struct hlm_adapter_past {
        char key[32], text[2048];
    } past[16];
};
/* What an adapter file holds. Checks what can be checked without its model. */
HLM_API bool hlm_adapter_read(const char *path, struct hlm_adapter_info *out, struct hlm_err *err);
HLM_API void hlm_adapter_info_free(struct hlm_adapter_info *info);

/* What became of one tensor of a merge; valid during the callback. */
struct hlm_merged {
    const char *name, *from, *to; /* types before and after */
    bool gate;                    /* a gate: kept and noise have no meaning */
    /* With D what the adapters add, W the tensor before and W' after, both dequantised: */
    double size;  /* |D| / |W| */
    double kept;  /* <W' - W, D> / <D, D>: how much of D survived quantisation */
    double noise; /* |W' - W - D| / |D|: the error that rounding added */
};
struct hlm_merge_params {
    const char *model, *out;     /* GGUF files; `out` is one file also where the model is split */
    const struct hlm_lora *lora; /* what they add is summed; 1 to 32 of them */
    uint32_t n_lora;
    const char *type; /* of the matrices that adapters reach: "Q8_0"; NULL: the type they had */
    /* NULL, or a second file to write, for a single adapter: `out` is then the model with nothing
     * but its gates changed, and this file is the adapter without its gates. */
    const char *gates_only;
    bool any_base; /* no warning of adapters that were trained on another file */
    struct hlm_log log;
    hlm_progress progress; /* bytes */
    void (*merged)(void *user, const struct hlm_merged *t);
    void *user; /* of both */
};
struct hlm_merge_sum {
    uint64_t n_matrix, n_gate, n_tensor, bytes;
};
/* W' = W + scale B A into a model file, without a device. The file is written under another name in
 * the same folder, read back, and only then renamed: on failure the old file is still there. Of two
 * files, both are written and read back before the first is renamed, the adapter. sum may be NULL.
 */
HLM_API bool hlm_merge(const struct hlm_merge_params *p, struct hlm_merge_sum *sum,
                       struct hlm_err *err);

struct hlm_peft_params {
    const char *model, *adapter; /* GGUF files */
    const char *out;             /* a folder that is empty or does not exist yet */
    struct hlm_log log;
    hlm_progress progress; /* bytes */
    void *user;
};
struct hlm_peft_sum {
    uint64_t n_module, n_draft, n_gate, bytes; /* modules, those of draft blocks, gates */
};
/* An adapter as a folder that Hugging Face's PEFT reads, without a device. It is written under
 * another name, read back, and only then renamed. sum may be NULL. */
HLM_API bool hlm_peft_export(const struct hlm_peft_params *p, struct hlm_peft_sum *sum,
                             struct hlm_err *err);

/* Removes the files that calls are writing under temporary names. For a handler of signals that
 * ends the process afterwards, in which it is safe. */
HLM_API void hlm_drop_unfinished(void);

struct hlm_peft_import_params {
    const char *model;  /* a GGUF file */
    const char *folder; /* adapter_config.json and adapter_model.safetensors */
    const char *out;    /* the adapter to write, a GGUF file */
    struct hlm_log log;
    hlm_progress progress; /* bytes */
    void *user;
};
/* The way back: such a folder as an adapter of this model. Settings with which PEFT computes
 * something that hlm cannot, such as DoRA, are refused by name. Of sum, which may be NULL, n_module
 * and bytes are set. */
HLM_API bool hlm_peft_import(const struct hlm_peft_import_params *p, struct hlm_peft_sum *sum,
                             struct hlm_err *err);

/* ---- text ------------------------------------------------------------------------------------ */

/* Reads the tokenizer and the chat template of a GGUF file, of any architecture, with or without
 * tensors. A file without a tokenizer that hlm can use opens too: it has a chat format and no
 * tokens, and the calls that need tokens fail and say why. */
HLM_API hlm_vocab *hlm_vocab_open(const char *path, const struct hlm_log *log, struct hlm_err *err);
HLM_API void hlm_vocab_close(hlm_vocab *v);
/* The vocabulary of an open model, which owns it. NULL when its file has no usable tokenizer. */
HLM_API hlm_vocab *hlm_get_vocab(hlm *m, struct hlm_err *err);

struct hlm_str {
    const char *p; /* not terminated */
    uint64_t n;
};

/* A growing list of token ids. Zero it before use, free it with hlm_ids_free. */
struct hlm_ids {
    int32_t *id;
    uint32_t n, cap;
};
HLM_API void hlm_ids_free(struct hlm_ids *ids);

/* Appends the ids of a text. special: control tokens are recognised in it. No bos or eos is added.
 * Any bytes are accepted, and the ids give back the same bytes, except where the model applies NFC.
 */
HLM_API bool hlm_tokenize(hlm_vocab *v, const char *text, uint64_t n, bool special,
                          struct hlm_ids *out, struct hlm_err *err);
/* Appends the token that a text begins with (bos), if the file asks for one: call it before
 * hlm_tokenize. */
HLM_API bool hlm_add_bos(hlm_vocab *v, struct hlm_ids *out, struct hlm_err *err);
/* The bytes of a token, of a control token its literal text. May be part of a UTF-8 character.
 * Empty when there is no such token. Valid while v is. */
HLM_API struct hlm_str hlm_token_text(const hlm_vocab *v, int32_t id);
HLM_API uint32_t hlm_n_vocab(const hlm_vocab *v);
HLM_API int32_t hlm_find_token(const hlm_vocab *v, const char *text); /* -1: there is none */
HLM_API bool hlm_is_end(const hlm_vocab *v, int32_t id);              /* ends an answer */
HLM_API bool hlm_is_control(const hlm_vocab *v, int32_t id);          /* not shown to a person */

/* Holds back the bytes of a UTF-8 character that is not whole yet. Zero it before use. */
struct hlm_utf8 {
    char hold[8];
    uint32_t n;
};
/* Writes what s completes to out, which has room for 3 * s.n + 12 bytes, and returns how many bytes
 * that were. Bytes that can never become a character come out as U+FFFD. flush: also what it has
 * held back.
 */
HLM_API uint64_t hlm_utf8_write(struct hlm_utf8 *u, struct hlm_str s, bool flush, char *out);

/* The chat formats that hlm knows, with commas between. */
#define HLM_CHAT_FORMATS "chatml, qwen3, qwen35, nemotron, step"
HLM_API bool hlm_is_chat_format(const char *name);
/* The format that the file's template is of. *known (may be NULL): false when hlm does not know the
 * template and took the nearest format. */
HLM_API const char *hlm_chat_format(const hlm_vocab *v, bool *known);

struct hlm_render_params {
    const char *json; /* a list of messages, or an object with `messages` and `tools` */
    uint64_t n;
    const char *name;   /* of the text, for errors */
    const char *format; /* NULL: the file's own */
    bool no_think;      /* a generation prompt that asks for no reasoning */
    bool no_prompt;     /* no generation prompt */
};
/* Messages as the text of a prompt, terminated, freed with hlm_free. A message has `role`,
 * `content` and, of an assistant, `reasoning_content` and `tool_calls`. */
HLM_API char *hlm_render(hlm_vocab *v, const struct hlm_render_params *p, uint64_t *n,
                         struct hlm_err *err);
/* The same prompt as ids, appended to *out: with a bos where the file asks for one and the template
 * prints none. The text of a message is never read as a control token. Tokenising what hlm_render
 * returns gives no such guarantee. */
HLM_API bool hlm_render_ids(hlm_vocab *v, const struct hlm_render_params *p, struct hlm_ids *out,
                            struct hlm_err *err);
HLM_API void hlm_free(void *p); /* what a comment says is freed with it; takes NULL */

/* ---- sampling -------------------------------------------------------------------------------- */

/* In llama.cpp's order: penalties, top-k, top-p, min-p, temperature. */
/* What is added to the logit of a token before everything else; -infinity: it is never chosen. */
enum { HLM_MAX_BIAS = 64 };
struct hlm_bias {
    int32_t id;
    float by;
};

struct hlm_sampling {
    float temp;              /* <= 0: greedy */
    int32_t top_k;           /* <= 0: off */
    float top_p;             /* >= 1: off */
    float min_p;             /* <= 0: off */
    float repeat_penalty;    /* 1: off */
    float presence_penalty;  /* 0: off */
    float frequency_penalty; /* 0: off */
    int32_t repeat_last_n;   /* tokens that the penalties look back on; -1: all, 0: off */
    uint64_t seed;           /* same seed, same history, same device: same token */
    bool allow_unused;       /* unused vocabulary entries may be chosen too (tests) */
    struct hlm_bias bias[HLM_MAX_BIAS];
    uint32_t n_bias;
};
/* llama.cpp's defaults, and over them the file's general.sampling.* keys. */
HLM_API struct hlm_sampling hlm_sampling_default(const hlm *m);

/* ---- sessions -------------------------------------------------------------------------------- */

enum hlm_kv { HLM_KV_F16, HLM_KV_F32, HLM_KV_Q8_0 };

/* For snapshot_budget: none. */
#define HLM_SNAPSHOT_NONE UINT64_MAX

struct hlm_session_params {
    uint32_t n_ctx;   /* positions; 0: the most that fit, up to hlm_default_ctx */
    uint32_t n_batch; /* tokens that are read at once at most; 0: chosen for the device, up to 512.
                         More than 4096 counts as 4096, more than n_ctx as n_ctx */
    enum hlm_kv kv;   /* type of the key and value caches */
    bool keep_logits, keep_hidden; /* hlm_session_eval may be asked for these */
    bool keep_nll;                 /* hlm_session_nll may be called */
    /* Bytes for snapshots. 0: the default of 512 MiB, or the size of two snapshots where that is
     * more. Where snapshots lie in the device's memory (hlm_memory.on_host is false), the default
     * is at most a sixteenth of what may be used (hlm_info.memory). HLM_SNAPSHOT_NONE, or less than
     * one snapshot takes: none. There are 128 at most. */
    uint64_t snapshot_budget;
    uint32_t n_seq; /* of a context: sequences, 16 at most; 0: 1. n_ctx is then that of each, and
                       each has an equal part of the budget for snapshots */
};
/* Everything that the session takes is allocated here, or nothing. What does not fit is refused
 * with HLM_ERR_WONT_FIT. On a model that is still dry the same is checked and nothing is allocated;
 * such a session can only be destroyed. */
HLM_API hlm_session *hlm_session_create(hlm *m, const struct hlm_session_params *params,
                                        struct hlm_err *err);
HLM_API void hlm_session_destroy(hlm_session *s);

/* A context: the caches of params->n_seq sequences, and one scratch memory for all of them. Each
 * open session of it is one sequence, and does all that a session does; hlm_session_create makes a
 * context of one. What a session computes has the same bits, alone or beside others.
 *
 * Everything that the sequences take is allocated here, as hlm_session_create says. Plans are
 * those of hlm_session_plan and hlm_session_fit. */
HLM_API hlm_context *hlm_context_create(hlm *m, const struct hlm_session_params *params,
                                        struct hlm_err *err);
/* Ends its sessions too. */
HLM_API void hlm_context_destroy(hlm_context *x);
/* A sequence without tokens. HLM_ERR_FULL: all are open. Its session is ended with
 * hlm_session_destroy, which makes room for another one. */
HLM_API hlm_session *hlm_context_open(hlm_context *x, struct hlm_err *err);
/* Another sequence of the same context that holds what s holds: tokens, state and logits, but no
 * snapshots. Both go on independently. Keys, values and state are copied on the device. */
HLM_API hlm_session *hlm_session_fork(hlm_session *s, struct hlm_err *err);

/* What an object would take of memory, by purpose. It comes from the engine's own dry run, in which
 * the session is laid out and recorded as always and nothing is allocated. */
struct hlm_memory {
    /* Of a model: "weights", "adapters", "staging" (where uploads need it). Of a session: "kv"
     * (keys and values), "state" (of recurrent layers), "scratch", "snapshots", "io" (ids, logits,
     * sampling), "host" (the chosen token). Of a training run: "gradients", "optimizer", "layer
     * inputs", "rows" (ids and positions), "scratch". */
    char purpose[32];
    bool on_host;   /* mapped memory of a card's host, which does not count as the device's */
    uint64_t bytes; /* as the driver rounds them */
};
struct hlm_plan {
    uint32_t n_ctx, n_batch;
    struct hlm_memory row[16];
    uint32_t n_row;
    uint64_t device_bytes, host_bytes; /* sums */
    uint64_t memory;                   /* what the device may give */
    bool fits;
};
/* The plan of a session, the model included, before there is one. With n_ctx 0 it has the context
 * that hlm_session_create would take, or one token where nothing fits. A plan that does not fit is
 * no failure. */
HLM_API bool hlm_session_plan(hlm *m, const struct hlm_session_params *params,
                              struct hlm_plan *plan, struct hlm_err *err);
/* The context that n_ctx 0 takes where memory is plenty: the trained length, 262144 at most, 8192
 * on CPU devices. */
HLM_API uint32_t hlm_default_ctx(const hlm *m);
/* The longest context that fits, up to params->n_ctx (0: up to hlm_default_ctx); *n_ctx is 0 when
 * not even one token does. */
HLM_API bool hlm_session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                             struct hlm_err *err);

HLM_API uint32_t hlm_session_n_ctx(const hlm_session *s);
/* The tokens that the caches hold, and their ids. A token that hlm_session_next has returned is in
 * the caches only after the next call that needs it. */
HLM_API uint32_t hlm_session_n_past(const hlm_session *s);
HLM_API const int32_t *hlm_session_ids(const hlm_session *s);

/* Makes the caches hold exactly id[0 .. n), n >= 1, with the logits of the last token. Reading goes
 * on after the longest prefix of id whose state is there: at the end of the sequence or in a
 * snapshot.
 *
 * A snapshot is a copy of all state that cannot be rewound (convolution windows, recurrent states,
 * rings of sliding windows), of the position, and of the logits when they are valid. It is
 * void once the ids before it change. snap[0 .. n_snap), ascending, are the numbers of tokens after
 * which a snapshot is to be kept on the way; those that exist are not taken again. Each is one
 * copy on the device; in the middle of a prompt it also splits a batch in two. When the budget is
 * full, the snapshot that is cheapest to recompute is evicted: the one with the fewest tokens since
 * the snapshot before it. The newest is never evicted, and a new snapshot that would save fewer
 * than 8 tokens evicts none. Going back to a prefix keeps the state that is left, where there is
 * room.
 *
 * When it is stopped, the caches hold what was read so far. When the device or memory fails in the
 * midst of it, or of another call that reads, it may not be known what the caches hold. Then
 * hlm_session_eval, _nll and _next fail with HLM_ERR_STATE until a sync succeeds, which reads again
 * what it must.
 *
 * A session may live while a training does. What it read before a step of it, or before its end,
 * is void then: sync reads everything again, and until it has, the calls that would go on fail with
 * HLM_ERR_STATE. */
HLM_API bool hlm_session_sync(hlm_session *s, const int32_t *id, uint32_t n, const uint32_t *snap,
                              uint32_t n_snap, hlm_progress progress, void *user,
                              struct hlm_err *err);

/* What the last sync found, in tokens. The tokens from n_from to n_same were cached as keys and
 * values, but their state was not, so they were read again. */
struct hlm_found {
    uint32_t n_cached;  /* tokens whose keys and values were cached */
    uint32_t n_same;    /* how many of them, from the first, are the ids asked for */
    uint32_t n_from;    /* where reading began */
    uint32_t n_evicted; /* where, between n_from and n_same, a snapshot stood that was evicted; 0:
                           nowhere */
};
HLM_API struct hlm_found hlm_session_found(const hlm_session *s);

/* Reads n more tokens. A token that hlm_session_next returned and that was not read is replaced.
 * logits: [n][n_vocab] f32 or NULL; hidden: [n_layer + 2][n][n_embd] f32 or NULL - embeddings, the
 * output of every layer, the final norm. */
HLM_API bool hlm_session_eval(hlm_session *s, const int32_t *id, uint32_t n, float *logits,
                              float *hidden, struct hlm_err *err);

/* Reads id[0 .. n - 1) and reports how well each next token was predicted: nll[i], of n - 1, is the
 * natural negative log likelihood of id[i + 1]. n >= 2; the last id is not read. Computed on the
 * device: four numbers a token come back. Afterwards there are no logits to sample from. */
HLM_API bool hlm_session_nll(hlm_session *s, const int32_t *id, uint32_t n, double *nll,
                             struct hlm_err *err);

/* Samples the next token on the device. The token returned before, if it is unread, is read first,
 * in the same submission. Logits that are not finite fail the call, and the message names the first
 * block whose output is not. Fails with HLM_ERR_FULL when the context has no room for that. */
HLM_API bool hlm_session_next(hlm_session *s, const struct hlm_sampling *sampling, int32_t *id,
                              struct hlm_err *err);

/* The same for several sessions of one context, in one batch, which costs little more than one of
 * them. Each token is the one that hlm_session_next would give. n: 1 to 16 sessions, none twice. */
struct hlm_next {
    hlm_session *session;
    const struct hlm_sampling *sampling;
    int32_t id; /* the token; -1: none was made */
};
/* On failure the sessions without a token are where they were, and those that have one go on.
 * Logits that are not finite fail only their session: it counts as unread. */
HLM_API bool hlm_decode(struct hlm_next *row, uint32_t n, struct hlm_err *err);

/* Pieces of several prompts, of one context, one after another: each session reads n tokens after
 * those that it holds. Snapshots are taken by hlm_session_sync alone. more: further pieces of this
 * prompt follow, so that no logits are made. On failure sessions hold what they have read. */
struct hlm_piece {
    hlm_session *session;
    const int32_t *id;
    uint32_t n;
    bool more;
};
HLM_API bool hlm_read(const struct hlm_piece *piece, uint32_t n, struct hlm_err *err);

/* Writes the whole session to a file: ids, keys and values, state, logits, snapshots, and a note of
 * the caller's (any bytes, may be NULL). The file is replaced atomically. While a training is alive
 * sessions are neither saved nor loaded: the numbers that they read with change with every step. */
HLM_API bool hlm_session_save(hlm_session *s, const char *path, const void *note, uint64_t n_note,
                              struct hlm_err *err);
/* Makes the session what was saved: the next logits are the same bits. The context may be longer or
 * shorter, if the tokens fit, and so may the snapshot budget; model, adapters and cache type must
 * be those of the file. *note is the caller's, terminated by a NUL that n_note does not count,
 * freed with hlm_free; note may be NULL. A damaged or unfit file is refused before anything
 * changes; should reading fail after that, the session is empty. */
HLM_API bool hlm_session_load(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                              struct hlm_err *err);
/* All the checks of hlm_session_load, and the note. The session stays as it is. */
HLM_API bool hlm_session_peek(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                              struct hlm_err *err);
HLM_API void hlm_session_reset(hlm_session *s); /* empties it, snapshots included */

struct hlm_stats {
    uint64_t n_read;   /* tokens read for the first time */
    uint64_t n_reused; /* tokens that a sync found in the caches */
    uint64_t n_reread; /* tokens that were read again */
    uint64_t n_gen;    /* tokens returned by hlm_session_next */
    double read_s, gen_s;
    uint64_t n_submit, n_record, n_pipeline; /* of the device, since it was opened */
    uint64_t n_snapshot, snapshot_max;       /* kept now; how many there is room for */
    uint64_t weight_bytes, adapter_bytes;
    uint64_t kv_bytes, state_bytes, scratch_bytes, snapshot_bytes, other_bytes;
    uint64_t n_evicted; /* snapshots that others took the room of */
};
HLM_API struct hlm_stats hlm_session_stats(const hlm_session *s);

/* ---- conversations --------------------------------------------------------------------------- */

/* A conversation: messages, the prompt that they make, the session that has read it. A turn never
 * reads again what an earlier one read: snapshots stand where messages begin and where the template
 * will drop reasoning. */

enum hlm_part { HLM_PART_REASONING, HLM_PART_ANSWER };

/* May be changed between turns. */
struct hlm_talk_options {
    struct hlm_sampling sampling;
    int32_t n_predict; /* most tokens of an answer; < 0: as many as there is room for */
    bool stop_on_full; /* a full context is refused; else the oldest turns are dropped until half of
                          it is free */
    /* Callbacks, all on the calling thread. They may call nothing of this talk or its model. */
    void (*text)(void *user, enum hlm_part part, const char *s, uint64_t n); /* whole characters of
                          the answer as they come, not terminated; may be NULL */
    hlm_progress reading;        /* tokens of the prompt; may be NULL */
    bool (*stopped)(void *user); /* asked before each token; true ends the answer; may be NULL */
    void *user;
    /* Texts that end the answer where the first of them begins, across the borders of tokens. They
     * are not looked for in reasoning, and must be there as long as they stand here. An empty one
     * ends nothing. */
    const char *const *stop;
    uint32_t n_stop;
};

struct hlm_talk_params {
    struct hlm_session_params session;
    const char *format; /* a name of HLM_CHAT_FORMATS; NULL: by the file's template */
};
/* A talk with hlm_sampling_default, no length limit and no message. Creates its session. */
HLM_API hlm_talk *hlm_talk_open(hlm *m, const struct hlm_talk_params *params, struct hlm_err *err);
HLM_API void hlm_talk_close(hlm_talk *t);
/* The options in force, to be changed in place between turns. */
HLM_API struct hlm_talk_options *hlm_talk_options(hlm_talk *t);
/* For figures. Only calls that change nothing may be made on it. NULL after a failed
 * hlm_talk_set_lora. */
HLM_API const hlm_session *hlm_talk_session(const hlm_talk *t);

enum hlm_talk_end {
    HLM_TALK_DONE,    /* the model ended its answer */
    HLM_TALK_LIMIT,   /* n_predict tokens were made */
    HLM_TALK_FULL,    /* the context has no room left */
    HLM_TALK_STOPPED, /* the callback said so; what there is belongs to the history */
    HLM_TALK_STOP,    /* the answer came to a stop text, which is no part of it */
};
struct hlm_talk_turn { /* what one turn did, in tokens and seconds */
    enum hlm_talk_end end;
    uint32_t n_prompt; /* of the whole conversation, this message included */
    uint64_t n_read, n_reused, n_reread;
    struct hlm_found found;
    uint32_t i_msg; /* the message in which the prompt differs from what was cached */
    uint64_t n_gen, n_reasoning;
    uint32_t n_dropped_turns, n_dropped; /* to make room */
    uint32_t n_used, n_ctx;              /* of the context, at the end */
    uint64_t seed;
    double read_s, gen_s, first_s; /* first_s: until the first token */
};

/* Adds a message of the user and answers it. When it fails, or is stopped before the answer begins
 * (HLM_ERR_STOPPED), the message is not in the history. turn may be NULL; after a failure it
 * says how far the turn came. */
HLM_API bool hlm_talk_say(hlm_talk *t, const char *text, struct hlm_talk_turn *turn,
                          struct hlm_err *err);
/* Answers the last message once more, with another seed. When it fails the old answer stays. */
HLM_API bool hlm_talk_regenerate(hlm_talk *t, struct hlm_talk_turn *turn, struct hlm_err *err);
/* Puts another text in the place of the i-th message of the user (0 is the first), forgets what
 * came after it, and answers. HLM_ERR_INPUT when there is no such message. When it fails the
 * history stays. */
HLM_API bool hlm_talk_edit(hlm_talk *t, uint32_t i, const char *text, struct hlm_talk_turn *turn,
                           struct hlm_err *err);
HLM_API bool hlm_talk_undo(hlm_talk *t);  /* forgets the last turn; false: there is none */
HLM_API void hlm_talk_clear(hlm_talk *t); /* forgets all but the system message */
/* Sets the system message; NULL or "": none. */
HLM_API bool hlm_talk_set_system(hlm_talk *t, const char *text, struct hlm_err *err);
HLM_API const char *hlm_talk_system(const hlm_talk *t); /* NULL: none */
/* Fails when the format has no choice. */
HLM_API bool hlm_talk_set_think(hlm_talk *t, bool on, struct hlm_err *err);
HLM_API bool hlm_talk_thinks(const hlm_talk *t);
HLM_API const char *hlm_talk_format(const hlm_talk *t);
/* Adapters for the turns to come; the conversation is read anew. When it fails those before stay,
 * with a fresh session. Should that fail too, the talk can only be closed (hlm_talk_session). */
HLM_API bool hlm_talk_set_lora(hlm_talk *t, const struct hlm_lora *l, uint32_t n,
                               struct hlm_err *err);

struct hlm_message {
    const char *role, *content;
    const char *reasoning; /* NULL: none */
};
HLM_API uint32_t hlm_talk_n_message(const hlm_talk *t);
HLM_API struct hlm_message hlm_talk_message(const hlm_talk *t,
                                            uint32_t i); /* valid until a change */
HLM_API uint32_t hlm_talk_n_turn(const hlm_talk *t);     /* in the history */
/* Replaces the conversation by these messages: perhaps a system message, then pairs of user and
 * assistant. The next turn reads them. On failure the conversation stays. */
HLM_API bool hlm_talk_set_messages(hlm_talk *t, const struct hlm_message *msg, uint32_t n,
                                   struct hlm_err *err);
/* How many tokens the history has in the next prompt, whether they have been read or not. */
HLM_API bool hlm_talk_count(hlm_talk *t, uint32_t *n, struct hlm_err *err);
/* Of all turns ever. n_turn are those that were answered. The sums, and last, include turns that
 * failed, as what they read and generated cost the same. */
struct hlm_talk_total {
    uint64_t n_turn, n_read, n_reused, n_reread, n_gen, n_reasoning, n_dropped, n_dropped_turns;
    double read_s, gen_s;
    struct hlm_talk_turn last;
};
HLM_API struct hlm_talk_total hlm_talk_get_total(const hlm_talk *t);
/* Why a turn read more than its message, in a few words; "" when it did not. Terminated. */
HLM_API void hlm_talk_why(const struct hlm_talk_turn *turn, char *out, uint64_t size);

/* The conversation with the state of its session, to a file and back. Loading replaces the
 * conversation; a file that is refused leaves everything as it was. */
HLM_API bool hlm_talk_save(hlm_talk *t, const char *path, struct hlm_err *err);
HLM_API bool hlm_talk_load(hlm_talk *t, const char *path, struct hlm_err *err);

#ifdef __cplusplus
}
#endif
#endif
