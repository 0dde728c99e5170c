/* test_layers: the statistics of layers - experts chosen, gates, recurrent states - equal those of
 * the reference for the same tokens, in sessions and in training. They change no bit of any result
 * and leave out padding. */
#define _POSIX_C_SOURCE 200809L
#include "hlm_test.h"
#include "ref/ref.h"
#include "train_run.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

/* Relative error of gates and states, after some layers in single precision. Measured figures were
 * not recorded. */
static const struct bound near = { .most = 2e-5 };

static const char *const models[] = {
    "qwen35/base/model-f32.gguf",         "qwen35moe/base/model-f32.gguf",
    "qwen3next/base/model-f32.gguf",      "nemotron_h/base/model-f32.gguf",
    "nemotron_h_moe/base/model-f32.gguf", "step35/base/model-f32.gguf",
};

static bool is_near(double got, double want) { return fabs(got - want) <= near.most * fabs(want); }

/* ---- the reference --------------------------------------------------------------------------- */

struct ref_run {
    struct ref_model *m;
    struct ref_state *s;
    struct ref_stats *stats;
    uint32_t n_layer, n_expert;
};

static bool ref_run_open(struct ref_run *r, const char *path)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(path, &err);
    *r = (struct ref_run){ .m = g ? ref_model_open(g, &err) : NULL };
    gguf_close(g);
    if (!CHECK_MSG(r->m, "%s", err.msg))
        return false;
    const struct ref_config *c = ref_model_config(r->m);
    r->n_layer = c->n_layer;
    r->n_expert = c->n_expert;
    r->stats = test_room(r->n_layer, sizeof *r->stats);
    for (uint32_t i = 0; i < r->n_layer; i++)
        r->stats[i].load = test_room(c->n_expert, sizeof(uint64_t));
    return true;
}

static void ref_run_close(struct ref_run *r)
{
    for (uint32_t i = 0; i < r->n_layer; i++)
        free(r->stats[i].load);
    free(r->stats);
    ref_state_destroy(r->s);
    ref_model_close(r->m);
}

static void ref_begin(struct ref_run *r)
{
    ref_state_destroy(r->s);
    r->s = ref_state_create(r->m);
    ref_state_watch(r->s, r->stats);
}

/* Clears gates and states, or states alone; the counts of experts go on. */
static void forget(struct ref_run *r, bool gates)
{
    for (uint32_t i = 0; i < r->n_layer; i++) {
        struct ref_stats *t = &r->stats[i];
        t->n_state = t->squares = t->peak = 0;
        if (gates)
            t->n = t->decays = t->writes = t->least = t->most = 0;
    }
}

static void read_ref(struct ref_run *r, const int32_t *ids, uint32_t n)
{
    CHECK(ref_forward(r->m, r->s, ids, n, NULL, NULL));
}

/* ---- sessions -------------------------------------------------------------------------------- */

static struct {
    struct hlm_counters c;
    uint32_t n_call;
} seen;

static void look(void *user, const hlm *m, const struct hlm_counters *c)
{
    uint32_t n;
    (void)user;
    CHECK(!hlm_expert_loads(m, 1u << 20, &n) && n == 0);
    seen.c = *c;
    seen.n_call++;
}

static void check_experts(const hlm *m, const struct hlm_counters *c, uint32_t i,
                          const struct ref_stats *want)
{
    const struct hlm_layer_count *l = &c->layer[i];
    uint64_t sum = 0, most = 0;
    uint32_t n, unused = 0;
    const uint64_t *load = hlm_expert_loads(m, i, &n);
    CHECK_EQ(n, l->n_expert);
    for (uint32_t e = 0; load && e < n; e++) {
        CHECK_MSG(load[e] == want->load[e], "layer %u, expert %u: chosen %llu times, expected %llu",
                  i, e, (unsigned long long)load[e], (unsigned long long)want->load[e]);
        sum += load[e];
        most = max_u64(most, load[e]);
        unused += !load[e];
    }
    CHECK_EQ(l->n_chosen, sum);
    for (uint32_t e = 0; load && e < n; e++)
        CHECK_EQ(c->bar[l->bar_at + e], ceil(255.0 * (double)load[e] / (double)most));
    if (!n)
        return;
    CHECK(is_near((double)l->load_max, (double)most / (double)sum));
    CHECK(is_near((double)l->load_unused, (double)unused / n));
    CHECK(l->load_even > 0 && l->load_even <= 1);
}

/* Compares everything with the reference's figures. n_tok: of the newest batch. */
static void check_layers(hlm *m, const struct ref_run *r, uint32_t n_tok)
{
    static struct hlm_counters c;
    hlm_get_counters(m, &c);
    CHECK_EQ(c.n_layer, r->n_layer);
    for (uint32_t i = 0; i < r->n_layer; i++) {
        const struct hlm_layer_count *l = &c.layer[i];
        const struct ref_stats *t = &r->stats[i];
        check_experts(m, &c, i, t);
        if (!CHECK_EQ(l->n_head > 0, t->n > 0) || !l->n_head)
            continue;
        CHECK_EQ(l->n_tok, n_tok);
        CHECK_MSG(is_near((double)l->decay, t->decays / t->n) &&
                      is_near((double)l->decay_min, t->least) &&
                      is_near((double)l->decay_max, t->most) &&
                      is_near((double)l->write, t->writes / t->n),
                  "layer %u: decay %.7g in %.7g to %.7g, write %.7g; expected %.7g, %.7g, %.7g, "
                  "%.7g",
                  i, (double)l->decay, (double)l->decay_min, (double)l->decay_max, (double)l->write,
                  t->decays / t->n, t->least, t->most, t->writes / t->n);
        double rms = sqrt(t->squares / t->n_state);
        CHECK_MSG(is_near((double)l->state_rms, rms) && is_near((double)l->state_max, t->peak),
                  "layer %u: state %.7g, up to %.7g; expected %.7g, %.7g", i, (double)l->state_rms,
                  (double)l->state_max, rms, t->peak);
    }
}

/* Reads 40 tokens in pieces of 16, then one token with its logits. False after a failure. */
enum { N_ID = 41, PIECE = 16 };
static bool read_all(hlm_session *s, const int32_t *ids, float *logits, bool last)
{
    struct hlm_err err = { 0 };
    return last ? CHECK_OK(hlm_session_eval(s, ids + N_ID - 1, 1, logits, NULL, &err), err)
                : CHECK_OK(hlm_session_sync(s, ids, N_ID - 1, NULL, 0, NULL, NULL, &err), err);
}

static void decode(hlm *m, hlm_session *s, struct ref_run *r)
{
    const struct hlm_sampling greedy = { .repeat_penalty = 1 };
    struct hlm_err err = { 0 };
    int32_t id = -1, got;
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 3) /* a look is due: the batch reports statistics */
            nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
        if (!CHECK_OK(hlm_session_next(s, &greedy, &got, &err), err))
            return;
        forget(r, true);
        if (id >= 0)
            read_ref(r, &id, 1);
        id = got;
    }
    check_layers(m, r, 1);
    CHECK_EQ(seen.c.n_layer, r->n_layer);
}

/* What was asked for while the model was open is let go with the next token, memory included. */
static void let_go(hlm *m, hlm_session *s)
{
    const struct hlm_sampling greedy = { .repeat_penalty = 1 };
    struct hlm_err err = { 0 };
    int32_t got;
    uint64_t more = hlm_allocated(m);
    double all = 0, in_layers = 0;
    CHECK(seen.c.n_kernel > 0);
    for (uint32_t i = 0; i < seen.c.n_kernel; i++)
        all += seen.c.kernel[i].us;
    for (uint32_t i = 0; i < seen.c.n_layer; i++) {
        CHECK_MSG(seen.c.layer[i].us > 0, "no time in layer %u", i);
        in_layers += (double)seen.c.layer[i].us;
    }
    CHECK_MSG(in_layers < all * 1.0001 && in_layers > all / 4, "%g of %g us in layers", in_layers,
              all); /* the rest: embedding, head, sampling, statistics */
    hlm_set_watched(m, false, false);
    CHECK_OK(hlm_session_next(s, &greedy, &got, &err), err);
    CHECK(hlm_allocated(m) < more);
}

struct now_and_then {
    hlm *m;
    struct rng rng;
    bool on; /* somebody comes and goes */
    uint32_t n_toggle;
};

static void toggle(struct now_and_then *w)
{
    uint64_t r = rng_u64(&w->rng);
    if (!w->on || r % 2)
        return;
    hlm_set_watched(w->m, r & 8, r & 16);
    w->n_toggle++;
}

static bool toggle_reading(void *user, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    toggle(user);
    return true;
}

/* Turns whose prompts go on from the answers. Returns how many ids it has put into
 * out. */
static uint32_t converse(struct now_and_then *w, hlm_session *s, uint32_t n_vocab, int32_t *out)
{
    enum { TURNS = 2, ASKED = 12, ANSWERED = 9 };
    const struct hlm_sampling sampling = { .temp = 1, .seed = 5, .repeat_penalty = 1 };
    struct hlm_err err = { 0 };
    struct rng ask = { 31 };
    uint32_t n = 0;
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        for (uint32_t i = 0; i < ASKED; i++)
            out[n++] = (int32_t)(rng_u64(&ask) % n_vocab);
        if (!CHECK_OK(hlm_session_sync(s, out, n, NULL, 0, toggle_reading, w, &err), err))
            return n;
        for (uint32_t i = 0; i < ANSWERED; i++) {
            toggle(w);
            if (turn == 1 && i == 5) /* a look is due: the token reports statistics */
                nanosleep(&(struct timespec){ .tv_nsec = 260000000 }, NULL);
            if (!CHECK_OK(hlm_session_next(s, &sampling, &out[n++], &err), err))
                return n;
        }
        n -= turn == 0 ? 4 : 0; /* back into the answer, as after an edit */
    }
    return n;
}

/* The same ids, whoever looks, and when. */
static void now_and_then(hlm *m, hlm_session *s, uint32_t n_vocab)
{
    int32_t ids[2][64] = { { 0 } };
    struct now_and_then w = { .m = m, .rng = { 77 } };
    for (uint32_t k = 0; k < ARRAY_LEN(ids); k++) {
        w.on = k;
        hlm_session_reset(s);
        uint32_t n = converse(&w, s, n_vocab, ids[k]);
        for (uint32_t i = 0; k && i < n; i++)
            if (!CHECK_MSG(ids[1][i] == ids[0][i], "id %u is %d, unwatched %d", i, ids[1][i],
                           ids[0][i]))
                break;
    }
    CHECK_MSG(w.n_toggle > 8, "%u changes", w.n_toggle);
    hlm_set_watched(m, false, false);
    read_all(s, ids[0], NULL, false);
}

/* All tokens of the prompt but the last, piece by piece: the layers are those of the reference. */
static void check_prompt(hlm *m, struct ref_run *r, const int32_t *ids)
{
    ref_begin(r);
    for (uint32_t at = 0; at < N_ID - 1; at += PIECE) {
        forget(r, true);
        read_ref(r, ids + at, min_u32(PIECE, N_ID - 1 - at));
    }
    check_layers(m, r, (N_ID - 1) % PIECE);
}

/* The last token of the prompt, and what is decoded after it. */
static void check_answer(hlm *m, hlm_session *s, struct ref_run *r, int32_t last)
{
    forget(r, true);
    read_ref(r, &last, 1);
    check_layers(m, r, 1);
    decode(m, s, r);
}

/* later: layers, and kernels, are asked for while the model is open, not when it is opened. */
static void test_session_of(const char *path, bool later)
{
    struct hlm_session_params params = {
        .n_ctx = 64,
        .n_batch = PIECE,
        .kv = HLM_KV_F32,
        .keep_logits = true,
        .snapshot_budget = HLM_SNAPSHOT_NONE,
    };
    struct hlm_err err = { 0 };
    struct hlm_plan plan = { 0 };
    struct ref_run r;
    struct rng rng = { 11 };
    int32_t ids[N_ID];
    float *logits[2];
    test_case("%s: a session's layers%s", path, later ? ", asked for later" : "");
    if (!ref_run_open(&r, fixture("%s", path))) {
        ref_run_close(&r);
        return;
    }
    uint32_t n_vocab = ref_model_config(r.m)->n_vocab;
    for (uint32_t i = 0; i < N_ID; i++)
        ids[i] = (int32_t)(rng_u64(&rng) % n_vocab);
    for (uint32_t k = 0; k < 2; k++) {
        hlm *m = hlm_test_try_as((struct hlm_params){ .model = fixture("%s", path),
                                                      .layers = k && !later,
                                                      .watch = k ? look : NULL },
                                 &err);
        hlm_session *s = CHECK_MSG(m, "%s", err.msg) ? hlm_test_session(m, params) : NULL;
        logits[k] = test_room(n_vocab, sizeof(float));
        if (m && k && later)
            hlm_set_watched(m, true, true);
        bool ok = s && read_all(s, ids, NULL, false);
        if (ok && k)
            check_prompt(m, &r, ids);
        ok = ok && read_all(s, ids, logits[k], true);
        if (ok && k) {
            check_answer(m, s, &r, ids[N_ID - 1]);
            if (later) {
                let_go(m, s);
                now_and_then(m, s, n_vocab);
            } else {
                CHECK_EQ(seen.c.n_kernel, 0);
            }
            uint64_t all = hlm_allocated(m);
            hlm_session_destroy(s);
            s = NULL;
            CHECK_OK(hlm_session_plan(m, &params, &plan, &err), err);
            CHECK_EQ(all, plan.device_bytes + plan.host_bytes);
        }
        hlm_session_destroy(s);
        hlm_test_close(m);
    }
    CHECK_MSG(!memcmp(logits[0], logits[1], n_vocab * sizeof(float)),
              "being watched changes the logits");
    CHECK(seen.n_call > 4);
    free(logits[0]);
    free(logits[1]);
    ref_run_close(&r);
}

/* Counts of chosen experts are the model's, whichever session worked last. None are lost with a
 * session that another one replaced, or that was never looked at. */
static void test_two_sessions(const char *path)
{
    struct hlm_session_params params = {
        .n_ctx = 64,
        .n_batch = PIECE,
        .kv = HLM_KV_F32,
        .keep_logits = true,
        .snapshot_budget = HLM_SNAPSHOT_NONE,
    };
    static struct hlm_counters c;
    struct hlm_err err = { 0 };
    struct ref_run r;
    struct rng rng = { 12 };
    int32_t ids[N_ID];
    test_case("%s: layers of sessions that end", path);
    bool ok = ref_run_open(&r, fixture("%s", path));
    hlm *m = ok ? hlm_test_try_as(
                      (struct hlm_params){ .model = fixture("%s", path), .layers = true }, &err)
                : NULL;
    for (uint32_t i = 0; m && i < N_ID; i++)
        ids[i] = (int32_t)(rng_u64(&rng) % ref_model_config(r.m)->n_vocab);
    for (uint32_t k = 0; k < 2 && CHECK_MSG(m, "%s", err.msg); k++) {
        hlm_session *first = hlm_test_session(m, params), *second = hlm_test_session(m, params);
        ok = first && second && read_all(first, ids, NULL, false) &&
             read_all(second, ids, NULL, false);
        hlm_session_destroy(k ? second : first);
        hlm_session_destroy(k ? first : second);
        for (uint32_t i = 0; ok && i < 2; i++) {
            ref_begin(&r);
            read_ref(&r, ids, N_ID - 1);
        }
        hlm_get_counters(m, &c);
        CHECK_EQ(c.n_layer, r.n_layer);
        for (uint32_t i = 0; ok && i < r.n_layer; i++)
            check_experts(m, &c, i, &r.stats[i]);
    }
    ref_run_close(&r);
    hlm_test_close(m);
}

/* ---- training -------------------------------------------------------------------------------- */

enum { CHUNK = 32 };

/* Documents as the training row has them. The states are those that their chunks start from. */
static void read_row(struct ref_run *r, const struct data_row *row)
{
    struct ref_stats *keep = test_room(r->n_layer, sizeof *keep);
    for (uint32_t d = 0; d < row->n_doc; d++) {
        uint32_t len = row->doc_len[d];
        ref_begin(r);
        for (uint32_t at = 0; at < len; at += CHUNK) {
            memcpy(keep, r->stats, r->n_layer * sizeof *keep);
            read_ref(r, row->ids + row->doc_start[d] + at, min_u32(CHUNK, len - at));
            for (uint32_t i = 0; at + CHUNK >= len && i < r->n_layer; i++) {
                r->stats[i].n_state = keep[i].n_state;
                r->stats[i].squares = keep[i].squares;
                r->stats[i].peak = keep[i].peak;
            }
        }
    }
    free(keep);
}

/* Reads the trainer's counts, `times` training rows on; the reference has run one. */
static void check_row(struct train_run *t, const struct ref_run *r, uint32_t times)
{
    struct kv_stats *s = train_stats(t->t);
    if (!CHECK_MSG(kv_stats_read(s, &t->err), "%s", t->err.msg))
        return;
    for (uint32_t i = 0; i < r->n_layer; i++) {
        const struct stats_place *p = &s->place[i];
        const struct ref_stats *want = &r->stats[i];
        double n = 0, decays = 0, writes = 0, least = 2, most = -1;
        double seen_n = 0, squares = 0, peak = 0;
        for (uint32_t e = 0; e < p->n_expert; e++)
            CHECK_MSG(s->now[p->load + e] == times * want->load[e],
                      "layer %u, expert %u: chosen %u times, expected %u x %llu", i, e,
                      s->now[p->load + e], times, (unsigned long long)want->load[e]);
        for (uint32_t h = 0; h < p->n_head; h++) {
            float g[GATE_STATS], v[STATE_STATS];
            memcpy(g, s->now + p->gates + h * GATE_STATS, sizeof g);
            memcpy(v, s->now + p->state + h * STATE_STATS, sizeof v);
            n += (double)g[0];
            decays += (double)g[1];
            least = fmin(least, (double)g[2]);
            most = fmax(most, (double)g[3]);
            writes += (double)g[4];
            seen_n += (double)v[0];
            squares += (double)v[1];
            peak = fmax(peak, (double)v[2]);
        }
        CHECK_EQ(n, want->n);
        if (n == 0)
            continue;
        const struct ref_config *c = ref_model_config(r->m);
        CHECK_EQ(seen_n * c->d_state * c->ssm_dim, want->n_state);
        CHECK_MSG(is_near(decays, want->decays) && is_near(writes, want->writes) &&
                      is_near(least, want->least) && is_near(most, want->most),
                  "layer %u: decay %.7g in %.7g to %.7g, write %.7g; expected %.7g, %.7g, %.7g, "
                  "%.7g",
                  i, decays, least, most, writes, want->decays, want->least, want->most,
                  want->writes);
        CHECK_MSG(is_near(squares, want->squares) && is_near(peak, want->peak),
                  "layer %u: state %.7g, up to %.7g; expected %.7g, %.7g", i, squares, peak,
                  want->squares, want->peak);
    }
    uint32_t n_all = 0, n_own = 0; /* a draft block's: as many tokens as those of the last layer */
    for (uint32_t i = r->n_layer; i < s->n_layer; i++)
        for (uint32_t e = 0; e < s->place[i].n_expert; e++) {
            n_own += s->now[s->place[i].load + e];
            n_all += s->now[s->place[r->n_layer - 1].load + e];
        }
    CHECK_EQ(n_own, n_all);
}

static void check_deltas(struct train_run *t)
{
    float got[HLM_MAX_LAYER], want[HLM_MAX_LAYER] = { 0 };
    train_run_stir(t, 3, 0.25f);
    for (uint64_t i = 0; i < train_n_param(t->t); i++) {
        struct train_param p = train_param(t->t, i);
        unsigned layer = 0;
        if (!p.is_gate || sscanf(p.name, "blk.%u.", &layer) != 1)
            continue;
        float *v = test_room(p.n, sizeof *v);
        CHECK_MSG(train_get(t->t, TRAIN_VALUE, i, v, &t->err), "%s", t->err.msg);
        for (uint64_t k = 0; k < p.n; k++)
            want[layer] = fmaxf(want[layer], fabsf(v[k]));
        free(v);
    }
    CHECK_MSG(train_gate_deltas(t->t, got, HLM_MAX_LAYER, &t->err), "%s", t->err.msg);
    CHECK(!memcmp(got, want, sizeof got));
}

static const uint32_t doc_len[] = { 1, 2, 40, 64, 65, 130 };

/* Documents of these lengths, of random tokens; all but the first token of each count. */
static void fill_docs(struct data_set *set, int32_t *ids, uint8_t *mask, uint32_t n_vocab)
{
    struct rng rng = { 21 };
    for (uint32_t i = 0; i < set->n_doc; set->n_id += doc_len[i++]) {
        uint32_t n = doc_len[i];
        set->doc[i] = (struct data_doc){ .at = set->n_id, .n = n, .line = i, .n_counted = n - 1 };
        for (uint32_t k = 0; k < n; k++) {
            ids[set->n_id + k] = (int32_t)(rng_u64(&rng) % n_vocab);
            mask[set->n_id + k] = k > 0;
        }
        set->n_counted += n - 1;
    }
    set->ids = ids;
    set->mask = mask;
}

/* later: the trainer is asked for layers once it is there. */
static void test_training_of(struct gpu *g, const char *path, bool draft, bool later)
{
    struct data_doc doc[ARRAY_LEN(doc_len)];
    struct data_set set = { .n_doc = ARRAY_LEN(doc_len), .doc = doc };
    struct data_rows rows = { 0 };
    struct train_run t = { 0 };
    struct ref_run r = { 0 };
    int32_t ids[302];
    uint8_t mask[302];
    float *grad[2] = { NULL, NULL };
    uint64_t n_grad = 0;
    test_case("%s: layers in training", path);
    bool ok = train_run_model(&t, g, fixture("%s", path), draft) &&
              train_run_fresh(&t, "blk.*.weight") && ref_run_open(&r, fixture("%s", path));
    if (ok)
        fill_docs(&set, ids, mask, t.m->n_vocab);
    ok = ok && CHECK_MSG(data_pack(&rows, &set, NULL, 330, 0, &t.err), "%s", t.err.msg) &&
         CHECK(rows.n_row == 1 && rows.row[0].padding == 28);
    for (uint32_t k = 0; ok && k < 2; k++) {
        struct train_params p = { .train_lora = true,
                                  .train_gates = true,
                                  .chunk = CHUNK,
                                  .mtp_factor = draft ? 0.3 : 0,
                                  .layers = k && !later };
        struct train_sums sums = { 0 };
        const struct data_row *row = &rows.row[0];
        train_run_room(&p, &rows);
        ok = train_run_trainer(&t, &p) &&
             (!k || !later || CHECK_MSG(train_tell_layers(t.t, true, &t.err), "%s", t.err.msg)) &&
             CHECK_MSG(
                 train_row(t.t, row, (struct row_job){ .weight = 0.01, .step = 1 }, &sums, &t.err),
                 "%s", t.err.msg);
        grad[k] = ok ? train_run_all(&t, TRAIN_GRAD, &n_grad) : NULL;
        if (ok && k) {
            read_row(&r, row);
            check_row(&t, &r, 1);
            CHECK_MSG(train_eval(t.t, row, &sums, &t.err), "%s", t.err.msg);
            check_row(&t, &r, 1);
            CHECK_MSG(
                train_row(t.t, row, (struct row_job){ .weight = 0.01, .step = 2 }, &sums, &t.err),
                "%s", t.err.msg);
            check_row(&t, &r, 2);
            check_deltas(&t);
        }
        train_destroy(t.t);
        t.t = NULL;
    }
    CHECK_MSG(ok && !memcmp(grad[0], grad[1], n_grad * sizeof(float)),
              "being watched changes gradients");
    free(grad[0]);
    free(grad[1]);
    data_rows_free(&rows);
    ref_run_close(&r);
    train_run_close(&t);
}

void test_layers(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(models); i++)
        test_session_of(models[i], i == 1 || i == 4); /* those with experts */
    test_two_sessions("qwen35moe/base/model-f32.gguf");
    test_training_of(g, "train/qwen35moe-mtp/model.gguf", true, true);
    test_training_of(g, "qwen3next/base/model-f32.gguf", false, false);
    test_training_of(g, "nemotron_h_moe/base/model-f32.gguf", false, true);
    test_case("no message of the validation layer");
    CHECK_EQ(gpu_validation_count(g), 0);
}
