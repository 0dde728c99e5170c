/* saved: a session in a file - what hlm_session_save writes and hlm_session_load reads.
 *
 * A file is the head, the ids, the caller's note, a table of the snapshots, the logits, the state,
 * the keys and values of every position, the state and logits of each snapshot, and a checksum of
 * all that. State, keys and values are in an order of their own, layer by layer and position by
 * position, so that the file depends neither on the length of the context nor on the size of a
 * ring. Numbers are little-endian.
 *
 * A file is untrusted. saved_open checks every size and count against the others and against what
 * the session expects, and then the checksum; nothing in the session changes before that. It needs
 * no device: the fuzzer calls it. */
#include "session/saved.h"

#include "session/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY_BYTES = 1 << 20, MAX_NOTE = 1 << 28 };

/* ---- the file -------------------------------------------------------------------------------- */

static const char saved_magic[] = "hlmstate";
static const char *const kv_name[] = { "f16", "f32", "q8_0" };

/* A text of a field of the file, which need not end with 0, for a message. */
static struct shown show_field(const char *field, size_t size)
{
    const char *end = memchr(field, 0, size);
    return show_text(field, end ? (size_t)(end - field) : size, size);
}

static bool refuse_model(const char *path, const struct saved_head *h, const struct saved_want *w,
                         struct hlm_err *err)
{
    struct shown arch = show_field(h->arch, sizeof h->arch);
    struct shown name = show_field(h->name, sizeof h->name);
    struct shown here = show_field(w->name, min_u64(strlen(w->name), sizeof h->name));
    if (strcmp(arch.s, w->arch) == 0 && strcmp(name.s, here.s) == 0)
        return fail(err, "%.200s: was saved with another file of the model %s (%s)", path, name.s,
                    arch.s);
    return fail(err, "%.200s: was saved with the model %s (%s), this one is %s (%s)", path, name.s,
                arch.s, here.s, w->arch);
}

/* Whether the file is one for this session. */
static bool head_fits(const char *path, const struct saved_head *h, const struct saved_want *w,
                      struct hlm_err *err)
{
    static const uint64_t none[2];
    if (memcmp(h->model_hash, w->model_hash, sizeof h->model_hash) != 0)
        return refuse_model(path, h, w, err);
    if (memcmp(h->lora_hash, w->lora_hash, sizeof h->lora_hash) != 0)
        return fail(err, "%.200s: was saved with %s, in use are %s", path,
                    memcmp(h->lora_hash, none, sizeof none) ? "adapters" : "no adapters",
                    !memcmp(w->lora_hash, none, sizeof none)  ? "none"
                    : memcmp(h->lora_hash, none, sizeof none) ? "others"
                                                              : "some");
    if (h->kv_type != w->kv_type)
        return fail(err, "%.200s: its keys and values are %s, this session's are %s", path,
                    h->kv_type < ARRAY_LEN(kv_name) ? kv_name[h->kv_type] : "of an unknown type",
                    kv_name[w->kv_type]);
    if (h->n_vocab != w->n_vocab || h->n_layer != w->n_layer)
        return fail(err, "%.200s: has %u layers and %u vocabulary entries, expected %u and %u",
                    path, h->n_layer, h->n_vocab, w->n_layer, w->n_vocab);
    if (h->n_past > w->n_ctx)
        return fail_size(
            err, HLM_ERR_FULL, &(struct hlm_err){ .need = h->n_past, .have = w->n_ctx },
            "%.200s: holds %u tokens, the context has room for %u", path, h->n_past, w->n_ctx);
    return true;
}

/* Checks the counts of a head against each other and the length of the file. */
static bool check_head_counts(const char *path, const struct saved_head *h, uint64_t bytes,
                              struct hlm_err *err)
{
    if (h->n_known < h->n_past || h->n_known - h->n_past > 1 || h->has_logits > 1 ||
        h->n_snap > MAX_SNAPSHOT || h->n_note > min_u64(bytes, MAX_NOTE) ||
        (h->has_logits && !h->n_past))
        return fail(err, "%.200s: is damaged: %u tokens read of %u, %u snapshots, a note of %llu",
                    path, h->n_past, h->n_known, h->n_snap, (unsigned long long)h->n_note);
    if (h->file_bytes != bytes)
        return fail(err, "%.200s: has %llu bytes, expected %llu: it was cut short or damaged", path,
                    (unsigned long long)bytes, (unsigned long long)h->file_bytes);
    return true;
}

/* Checks that the parts end where the file does, and with it all their sizes. */
static bool check_parts(const char *path, struct saved *s, const struct saved_want *w,
                        struct hlm_err *err)
{
    const struct saved_head *h = &s->head;
    uint64_t logits = 4ull * h->n_vocab, at = sizeof *h + 4ull * h->n_known + h->n_note;
    s->logits_at = at += sizeof(struct saved_snap) * h->n_snap;
    at += (h->has_logits ? logits : 0) + w->state_bytes(w->user, h->n_past) +
          w->kv_bytes(w->user, h->n_past);
    for (uint32_t i = 0; i < h->n_snap; i++)
        at += w->state_bytes(w->user, s->snap[i].n_past) + (s->snap[i].has_logits ? logits : 0);
    if (at + sizeof s->sum != h->file_bytes)
        return fail(err,
                    "%.200s: has %llu bytes, expected %llu for %u tokens of this model: "
                    "it was made by another version of hlm",
                    path, (unsigned long long)h->file_bytes,
                    (unsigned long long)(at + sizeof s->sum), h->n_past);
    return true;
}

static bool read_tables(const struct file_in *f, struct saved *s, struct hlm_err *err)
{
    const struct saved_head *h = &s->head;
    uint64_t at = sizeof *h + 4ull * h->n_known, table = at + h->n_note;
    s->id = mem_alloc(h->n_known, sizeof *s->id);
    s->note = mem_alloc(h->n_note + 1, 1);
    if (!s->id || !s->note)
        return fail_memory(err, "%.200s: no memory for its %u tokens and %llu bytes of text",
                           f->path, h->n_known, (unsigned long long)h->n_note);
    if (!file_in_read(f, sizeof *h, s->id, 4ull * h->n_known, err) ||
        !file_in_read(f, at, s->note, h->n_note, err) ||
        !file_in_read(f, table, s->snap, sizeof *s->snap * h->n_snap, err))
        return false;
    for (uint32_t i = 0; i < h->n_known; i++)
        if (s->id[i] < 0 || (uint32_t)s->id[i] >= h->n_vocab)
            return fail(err, "%.200s: is damaged: token %u is %d, expected 0 to %u", f->path, i,
                        s->id[i], h->n_vocab - 1);
    for (uint32_t i = 0, before = 0; i < h->n_snap; before = s->snap[i++].n_past)
        if (s->snap[i].n_past <= before || s->snap[i].n_past > h->n_past ||
            s->snap[i].has_logits > 1)
            return fail(err, "%.200s: is damaged: snapshot %u is of %u tokens, expected %u to %u",
                        f->path, i, s->snap[i].n_past, before + 1, h->n_past);
    return true;
}

/* Checks the checksum, which is of everything before it. */
static bool check_saved_sum(const struct file_in *f, struct saved *s, struct hlm_err *err)
{
    uint64_t end = s->head.file_bytes - sizeof s->sum, have[2];
    uint8_t *buf = mem_alloc(COPY_BYTES, 1);
    struct sum *sum = sum_begin(err);
    bool ok = buf && sum;
    if (!buf)
        fail_memory(err, "%.200s: no memory to read it", f->path);
    for (uint64_t at = 0, n; ok && at < end; at += n) {
        n = min_u64(COPY_BYTES, end - at);
        ok = file_in_read(f, at, buf, n, err);
        if (ok)
            sum_add(sum, buf, n);
    }
    if (sum)
        sum_end(sum, have);
    free(buf);
    ok = ok && file_in_read(f, end, s->sum, sizeof s->sum, err);
    return ok && (memcmp(have, s->sum, sizeof have) == 0 ||
                  fail(err, "%.200s: is damaged: its checksum does not match", f->path));
}

void saved_finish(struct saved *s)
{
    free(s->id);
    free(s->note);
    *s = (struct saved){ 0 };
}

bool saved_open(struct saved *s, const struct file_in *f, const struct saved_want *w,
                struct hlm_err *err)
{
    const struct saved_head *h = &s->head;
    *s = (struct saved){ 0 };
    if (f->bytes < sizeof *h + sizeof s->sum)
        return fail(err, "%.200s: is no saved conversation: %llu bytes, expected at least %zu",
                    f->path, (unsigned long long)f->bytes, sizeof *h + sizeof s->sum);
    if (!file_in_read(f, 0, &s->head, sizeof *h, err))
        return false;
    if (memcmp(h->magic, saved_magic, sizeof h->magic) != 0)
        return fail(err, "%.200s: is no saved conversation: it does not begin with %s", f->path,
                    saved_magic);
    if (h->version != SAVED_VERSION)
        return fail(err, "%.200s: was saved in version %u of the format, expected %d", f->path,
                    h->version, SAVED_VERSION);
    bool ok = check_head_counts(f->path, h, f->bytes, err) && head_fits(f->path, h, w, err) &&
              read_tables(f, s, err) && check_parts(f->path, s, w, err) &&
              check_saved_sum(f, s, err);
    if (!ok)
        saved_finish(s);
    return ok;
}

/* ---- state and keys in order ----------------------------------------------------------------- */

/* Called for each range of a part, in the order of the file. */
typedef bool (*range_fn)(void *user, tensor t, uint64_t offset, uint64_t bytes,
                         struct hlm_err *err);

/* The keys or values of a sequence: n_row rows of `row` bytes for each of n_head heads, from an
 * offset in t. */
struct rows_of {
    tensor t;
    uint64_t offset, row, n_row;
    uint32_t n_head;
};

/* Positions [from, to), head by head. In a ring they may be two ranges. */
static bool walk_rows(const struct rows_of *w, uint32_t from, uint32_t to, range_fn fn, void *user,
                      struct hlm_err *err)
{
    for (uint32_t h = 0; h < w->n_head; h++)
        for (uint64_t p = from, n; p < to; p += n) {
            uint64_t r = p % w->n_row;
            n = min_u64(to - p, w->n_row - r);
            if (!fn(user, w->t, w->offset + w->row * (h * w->n_row + r), w->row * n, err))
                return false;
        }
    return true;
}

/* All that a snapshot of n_past tokens holds; of a ring, only what a later token can see. snap: a
 * snapshot's slot; NULL: the session's own state. */
static bool walk_state(const hlm_session *s, const tensor *snap, uint32_t n_past, range_fn fn,
                       void *user, struct hlm_err *err)
{
    const struct model *m = s->m->model;
    struct kv_part part;
    uint64_t offset = 0;
    for (uint32_t at = 0; kv_next_part(&s->x->kv, s->seq, session_slot(s), &at, &part);) {
        struct layer_shape shape = m->arch->shape(m, part.layer);
        struct rows_of ring = { .t = snap ? *snap : part.t,
                                .offset = snap ? offset : part.offset,
                                .row = tensor_row_bytes(part.t),
                                .n_row = s->x->kv.layer[part.layer].kv.n_row,
                                .n_head = shape.n_kv_head };
        uint32_t from = n_past - min_u32(n_past, shape.window);
        if (part.ring ? !walk_rows(&ring, from, n_past, fn, user, err)
                      : !fn(user, ring.t, ring.offset, part.bytes, err))
            return false;
        offset += part.bytes;
    }
    return true;
}

static bool walk_kv(const hlm_session *s, uint32_t n_past, range_fn fn, void *user,
                    struct hlm_err *err)
{
    const struct model *m = s->m->model;
    const struct kv *kv = &s->x->kv;
    for (uint32_t i = 0; i < m->n_layer; i++) {
        struct layer_shape shape = m->arch->shape(m, i);
        const tensor both[] = { kv->layer[i].kv.k, kv->layer[i].kv.v };
        for (uint32_t k = 0; shape.n_kv_head && !shape.window && k < ARRAY_LEN(both); k++) {
            struct rows_of rows = { .t = both[k],
                                    .offset = tensor_bytes(both[k]) / kv->n_seq * s->seq,
                                    .row = tensor_row_bytes(both[k]),
                                    .n_row = kv->layer[i].kv.n_row,
                                    .n_head = shape.n_kv_head };
            if (!walk_rows(&rows, 0, n_past, fn, user, err))
                return false;
        }
    }
    return true;
}

static bool count_range(void *user, tensor t, uint64_t offset, uint64_t bytes, struct hlm_err *err)
{
    (void)t, (void)offset, (void)err;
    *(uint64_t *)user += bytes;
    return true;
}

static uint64_t state_bytes(const void *user, uint32_t n_past)
{
    const hlm_session *s = user;
    uint64_t n = 0;
    walk_state(s, NULL, n_past, count_range, &n, NULL);
    return n;
}

static uint64_t kv_bytes(const void *user, uint32_t n_past)
{
    uint64_t n = 0;
    walk_kv(user, n_past, count_range, &n, NULL);
    return n;
}

static bool describe_session(hlm_session *s, const char *path, struct saved_want *w,
                             struct hlm_err *err)
{
    hlm *m = s->m;
    struct lora_hash lora;
    if (!adapters_identity(m, path, &lora, err))
        return false;
    const uint64_t *hash = model_hash(m, err);
    if (!hash)
        return false;
    *w = (struct saved_want){
        .arch = m->model->arch->name,
        .name = m->name,
        .lora_hash = { lora.lo, lora.hi },
        .n_layer = m->model->n_layer,
        .n_vocab = m->model->n_vocab,
        .n_ctx = s->x->n_ctx,
        .kv_type = s->x->kv_type,
        .state_bytes = state_bytes,
        .kv_bytes = kv_bytes,
        .user = s,
    };
    memcpy(w->model_hash, hash, sizeof w->model_hash);
    return true;
}

/* The logits of the session's last token. */
static tensor own_logits(const hlm_session *s)
{
    return tensor_rows(s->x->logits, session_slot(s), 1);
}

/* ---- saving ---------------------------------------------------------------------------------- */

struct save {
    struct gpu *gpu;
    struct file_out *out;
    struct sum *sum;
    uint8_t *buf; /* [COPY_BYTES] */
    uint64_t done;
};

static bool put_saved(struct save *w, const void *p, uint64_t n, struct hlm_err *err)
{
    sum_add(w->sum, p, n);
    w->done += n;
    return file_out_put(w->out, p, n, err);
}

static bool put_range(void *user, tensor t, uint64_t offset, uint64_t bytes, struct hlm_err *err)
{
    struct save *w = user;
    for (uint64_t done = 0, n; done < bytes; done += n) {
        n = min_u64(COPY_BYTES, bytes - done);
        if (!gpu_read(w->gpu, t, offset + done, w->buf, n, err) || !put_saved(w, w->buf, n, err))
            return false;
    }
    return true;
}

static void name_into(char *to, size_t size, const char *from)
{
    size_t n = strlen(from) < size ? strlen(from) : size;
    memcpy(to, from, n);
}

static bool save_parts(hlm_session *s, struct save *w, struct saved_head *h, const void *note,
                       uint64_t n_note, struct hlm_err *err)
{
    const struct snapshots *k = &s->snaps;
    uint64_t logits = 4ull * h->n_vocab;
    const struct snapshot *kept[MAX_SNAPSHOT];
    h->file_bytes = sizeof *h + 4ull * h->n_known + n_note + (h->has_logits ? logits : 0) +
                    state_bytes(s, h->n_past) + kv_bytes(s, h->n_past) + 16;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->at[i].slot != NO_SLOT && k->at[i].n_past <= h->n_past) {
            kept[h->n_snap++] = &k->at[i];
            h->file_bytes += sizeof(struct saved_snap) + state_bytes(s, k->at[i].n_past) +
                             (k->at[i].has_logits ? logits : 0);
        }
    bool ok = put_saved(w, h, sizeof *h, err) && put_saved(w, s->id, 4ull * h->n_known, err) &&
              put_saved(w, note, n_note, err);
    for (uint32_t i = 0; ok && i < h->n_snap; i++) {
        struct saved_snap row = { kept[i]->n_past, kept[i]->has_logits, { 0 } };
        ok = put_saved(w, &row, sizeof row, err);
    }
    ok = ok && (!h->has_logits || put_range(w, own_logits(s), 0, logits, err)) &&
         walk_state(s, NULL, h->n_past, put_range, w, err) &&
         walk_kv(s, h->n_past, put_range, w, err);
    for (uint32_t i = 0; ok && i < h->n_snap; i++) {
        tensor at = snapshots_slot(k, kept[i]);
        ok = walk_state(s, &at, kept[i]->n_past, put_range, w, err) &&
             (!kept[i]->has_logits || put_range(w, snapshots_logits(k, kept[i]), 0, logits, err));
    }
    return ok;
}

bool hlm_session_save(hlm_session *s, const char *path, const void *note, uint64_t n_note,
                      struct hlm_err *err)
{
    struct saved_want own;
    api_begin(&s->m->log, err);
    if (n_note > MAX_NOTE)
        return fail(err, "%.200s: a note of %llu bytes, expected at most %d", path,
                    (unsigned long long)n_note, MAX_NOTE);
    if (!session_current(s, err))
        return false;
    if (s->unclear)
        return fail_as(err, HLM_ERR_STATE,
                       "%.200s: an earlier call failed part-way, no sound state is left", path);
    if (!describe_session(s, path, &own, err) || !gpu_ok(s->m->gpu, err) ||
        !gpu_wait(s->m->gpu, err))
        return false;
    struct saved_head h = {
        .version = SAVED_VERSION,
        .kv_type = s->x->kv_type,
        .n_layer = own.n_layer,
        .n_vocab = own.n_vocab,
        .n_past = s->n_past,
        .n_known = s->n_known,
        .has_logits = s->has_logits,
        .n_note = n_note,
    };
    memcpy(h.magic, saved_magic, sizeof h.magic);
    memcpy(h.model_hash, own.model_hash, sizeof h.model_hash);
    memcpy(h.lora_hash, own.lora_hash, sizeof h.lora_hash);
    name_into(h.arch, sizeof h.arch, own.arch);
    name_into(h.name, sizeof h.name, own.name);

    struct save w = { .gpu = s->m->gpu, .buf = mem_alloc(COPY_BYTES, 1), .sum = sum_begin(err) };
    uint64_t sum[2] = { 0 };
    if (!w.buf)
        fail_memory(err, "%.200s: no memory to write it", path);
    bool ok = w.buf && w.sum && (w.out = file_out_begin(path, err)) &&
              save_parts(s, &w, &h, note, n_note, err);
    if (w.sum)
        sum_end(w.sum, sum);
    HLM_ASSERT(!ok || w.done + sizeof sum == h.file_bytes);
    ok = ok && file_out_put(w.out, sum, sizeof sum, err);
    if (ok)
        ok = file_out_end(w.out, err);
    else
        file_out_drop(w.out);
    free(w.buf);
    return ok;
}

/* ---- loading --------------------------------------------------------------------------------- */

struct load {
    struct gpu *gpu;
    const struct file_in *in;
    struct sum *sum;
    uint8_t *buf; /* [COPY_BYTES] */
    uint64_t at;
};

static bool take_range(void *user, tensor t, uint64_t offset, uint64_t bytes, struct hlm_err *err)
{
    struct load *r = user;
    for (uint64_t done = 0, n; done < bytes; done += n) {
        n = min_u64(COPY_BYTES, bytes - done);
        if (!file_in_read(r->in, r->at, r->buf, n, err))
            return false;
        sum_add(r->sum, r->buf, n);
        r->at += n;
        if (t.arena && !gpu_write(r->gpu, t, offset + done, r->buf, n, err))
            return false;
    }
    return true;
}

/* Reads the whole file into the session. Snapshots that it has no slot for are read and dropped. */
static bool load_parts(hlm_session *s, struct load *r, const struct saved *f, struct hlm_err *err)
{
    const struct saved_head *h = &f->head;
    uint64_t logits = 4ull * h->n_vocab;
    struct snapshots *k = &s->snaps;
    uint32_t place[MAX_SNAPSHOT];
    for (uint32_t i = 0; i < h->n_snap; i++)
        place[i] = f->snap[i].n_past;
    snapshots_aim(k, 0, h->n_past, place, h->n_snap);
    bool ok = take_range(r, (tensor){ 0 }, 0, f->logits_at, err) &&
              (!h->has_logits || take_range(r, own_logits(s), 0, logits, err)) &&
              walk_state(s, NULL, h->n_past, take_range, r, err) &&
              walk_kv(s, h->n_past, take_range, r, err);
    for (uint32_t i = 0; ok && i < h->n_snap; i++) {
        const struct saved_snap *from = &f->snap[i];
        bool keeps = snapshots_wanted(k, from->n_past, false);
        struct snapshot *to = keeps ? snapshots_add(k, from->n_past) : NULL;
        if (to) {
            to->has_logits = from->has_logits;
            tensor at = snapshots_slot(k, to);
            ok = walk_state(s, &at, from->n_past, take_range, r, err) &&
                 (!to->has_logits || take_range(r, snapshots_logits(k, to), 0, logits, err));
        } else {
            ok = take_range(r, (tensor){ 0 }, 0,
                            state_bytes(s, from->n_past) + (from->has_logits ? logits : 0), err);
        }
    }
    return ok;
}

static bool load_session(hlm_session *s, const struct file_in *in, const struct saved *f,
                         struct hlm_err *err)
{
    const struct saved_head *h = &f->head;
    struct load r = { .gpu = s->m->gpu, .in = in, .buf = mem_alloc(COPY_BYTES, 1) };
    uint64_t sum[2] = { 0 };
    if (!r.buf || !(r.sum = sum_begin(err))) {
        free(r.buf);
        return fail_memory(err, "%.200s: no memory to read it", in->path);
    }
    hlm_session_reset(s);
    bool ok = load_parts(s, &r, f, err) &&
              (!h->n_known ||
               gpu_write(r.gpu, s->x->ids, 4 * session_id_at(s, 0), f->id, 4ull * h->n_known, err));
    sum_end(r.sum, sum);
    free(r.buf);
    if (ok && memcmp(sum, f->sum, sizeof sum) != 0)
        ok = fail_system(err, "%.200s: has changed while it was read", in->path);
    if (ok) {
        memcpy(s->id, f->id, h->n_known * sizeof *s->id);
        s->n_past = s->n_row = h->n_past;
        s->n_known = h->n_known;
        s->has_logits = h->has_logits;
        s->found = (struct hlm_found){ 0 };
        s->unclear = false;
    }
    if (!ok)
        hlm_session_reset(s);
    return ok;
}

static bool open_saved(hlm_session *s, const char *path, bool load, void **note, uint64_t *n_note,
                       struct hlm_err *err)
{
    struct file_in in;
    struct saved f = { 0 };
    struct saved_want own;
    if (!describe_session(s, path, &own, err) || !file_in_open(&in, path, err))
        return false;
    bool ok = saved_open(&f, &in, &own, err) && (!load || load_session(s, &in, &f, err));
    file_in_close(&in);
    if (ok && note) {
        *note = f.note;
        f.note = NULL;
    }
    if (ok && n_note)
        *n_note = f.head.n_note;
    saved_finish(&f);
    return ok;
}

bool hlm_session_load(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                      struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    return open_saved(s, path, true, note, n_note, err);
}

bool hlm_session_peek(hlm_session *s, const char *path, void **note, uint64_t *n_note,
                      struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    return open_saved(s, path, false, note, n_note, err);
}
