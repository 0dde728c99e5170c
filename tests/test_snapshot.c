/* test_snapshot: what a conversation reads again, in a script of twenty turns with one small model
 * of each family, and which snapshots a budget keeps. */
#include "session/talk.h"
#include "hlm_test.h"

#include <stdio.h>
#include <stdlib.h>

static const struct hlm_sampling greedy = { .repeat_penalty = 1 };

/* ---- a conversation --------------------------------------------------------------------- */

/* One model of each family, and its chat format. */
static const struct family {
    const char *model, *format;
} families[] = {
    { "qwen35/base/model-f32.gguf", "qwen35" },
    { "qwen35moe/base/model-f32.gguf", "qwen35" },
    { "qwen3next/base/model-f32.gguf", "chatml" },
    { "nemotron_h/base/model-f32.gguf", "nemotron" },
    { "nemotron_h_moe/base/model-f32.gguf", "nemotron" },
    { "step35/base/model-f32.gguf", "step" },
};

enum talk_act {
    SAY,     /* a message and its answer */
    REGEN,   /* the last answer, generated again */
    EDIT,    /* the n-th message from the end is replaced; what followed is forgotten */
    REWRITE, /* a client changes the n-th answer from the end, keeps the rest, and says text */
    STRIP,   /* a client leaves out all reasoning and the sampled ids, and says text */
    THINK,   /* on where n is not 0 */
    SYSTEM,  /* another system message, then a message */
};

static const struct talk_step {
    enum talk_act act;
    uint32_t n;
    const char *text;
} script[] = {
    { SAY, 0, "Hello" },     { SAY, 0, "2+3?" },   { REGEN, 0, "" },     { SAY, 0, "4*5?" },
    { EDIT, 1, "A colour" }, { REGEN, 0, "" },     { REGEN, 0, "" },     { THINK, 1, "" },
    { SAY, 0, "Others" },    { SAY, 0, "More" },   { EDIT, 2, "Zoo" },   { REWRITE, 1, "Why?" },
    { SAY, 0, "Hm" },        { REWRITE, 3, "On" }, { STRIP, 0, "Tell" }, { SAY, 0, "Ta" },
    { THINK, 0, "" },        { SAY, 0, "Count" },  { EDIT, 5, "Back" },  { REGEN, 0, "" },
    { SYSTEM, 0, "You?" },   { SAY, 0, "Live?" },  { EDIT, 8, "Quite" }, { SAY, 0, "End" },
    { REGEN, 0, "" },
};

static hlm_talk *open_talk(hlm *m, struct hlm_session_params params, const char *format)
{
    struct hlm_err err = { 0 };
    hlm_talk *t =
        hlm_talk_open(m, &(struct hlm_talk_params){ .session = params, .format = format }, &err);
    if (!CHECK_OK(t != NULL, err))
        return NULL;
    CHECK_OK(hlm_talk_set_system(t, "Kind.", &err), err);
    t->think = false;
    t->options.sampling = greedy;
    t->options.n_predict = 4;
    return t;
}

static char *text_of(const char *s)
{
    size_t n = strlen(s) + 1;
    char *out = mem_alloc(n, 1);
    HLM_ASSERT(out);
    return memcpy(out, s, n);
}

/* An answer as another program would send it. */
static void rewrite(struct chat_msg *m, const char *content)
{
    free(m->content);
    free(m->ids);
    m->content = text_of(content);
    m->ids = NULL;
    m->n_ids = 0;
}

static struct chat_msg *nth_from_end(hlm_talk *t, const char *role, uint32_t n)
{
    for (uint32_t i = t->n_msg; i-- > 0;)
        if (strcmp(t->msg[i].role, role) == 0 && --n == 0)
            return &t->msg[i];
    HLM_ASSERT(false);
    return NULL;
}

static bool take_step(hlm_talk *t, const struct talk_step *k, struct hlm_talk_turn *turn)
{
    struct hlm_err err = { 0 };
    if (k->act == EDIT)
        return CHECK_OK(hlm_talk_edit(t, hlm_talk_n_turn(t) - k->n, k->text, turn, &err), err);
    if (k->act == REWRITE)
        rewrite(nth_from_end(t, "assistant", k->n), "Yes.");
    for (uint32_t i = 0; k->act == STRIP && i < t->n_msg; i++)
        if (strcmp(t->msg[i].role, "assistant") == 0) {
            rewrite(&t->msg[i], "A plain answer.");
            free(t->msg[i].reasoning);
            t->msg[i].reasoning = NULL;
        }
    if (k->act == THINK && t->format.thinking == CHAT_MAY_THINK)
        CHECK_OK(hlm_talk_set_think(t, k->n, &err), err);
    if (k->act == SYSTEM)
        CHECK_OK(hlm_talk_set_system(t, "Short.", &err), err);
    if (k->act == THINK)
        return false;
    return CHECK_OK(k->act == REGEN ? hlm_talk_regenerate(t, turn, &err)
                                    : hlm_talk_say(t, k->text, turn, &err),
                    err);
}

/* The last message is also answered by a timeline that has read nothing before. */
static void check_fresh(hlm_talk *fresh, const hlm_talk *t)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    const struct chat_msg *want = &t->msg[t->n_msg - 1];
    hlm_session_reset(fresh->session);
    hlm_talk_clear(fresh);
    hlm_talk_set_system(fresh, NULL, &err);
    free(fresh->msg);
    fresh->msg = mem_alloc(t->n_msg + 2, sizeof *fresh->msg);
    fresh->cap = t->n_msg + 2;
    for (uint32_t i = 0; i < t->n_msg; i++) {
        const struct chat_msg *m = &t->msg[i];
        struct chat_msg *c = &fresh->msg[fresh->n_msg++];
        *c = (struct chat_msg){ .role = text_of(m->role),
                                .content = text_of(m->content),
                                .reasoning = m->reasoning ? text_of(m->reasoning) : NULL };
        if (m->ids && (c->ids = mem_alloc(m->n_ids, sizeof *c->ids)))
            memcpy(c->ids, m->ids, (c->n_ids = m->n_ids) * sizeof *c->ids);
    }
    fresh->think = t->think;
    if (!CHECK_OK(hlm_talk_regenerate(fresh, &turn, &err), err))
        return;
    CHECK_EQ(turn.n_read, turn.n_prompt);
    uint32_t n = hlm_session_n_past(fresh->session);
    CHECK(fresh->n_msg == t->n_msg && n == hlm_session_n_past(t->session));
    CHECK_STR(fresh->msg[t->n_msg - 1].content, want->content);
    CHECK(!memcmp(hlm_session_ids(fresh->session), hlm_session_ids(t->session),
                  (n + 1) * sizeof(int32_t)));
}

static void converse(const struct family *f, hlm_talk *t, hlm_talk *fresh)
{
    const hlm_session *s = hlm_talk_session(t);
    int32_t *was = test_room(hlm_session_n_ctx(s) + 1, sizeof *was);
    uint32_t n_was = 0, n_turn = 0;
    uint64_t n_saved = 0, n_most = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(script); i++) {
        struct hlm_talk_turn turn = { 0 };
        char why[160];
        test_case("%s: step %u: %s", f->model, i + 1, script[i].text);
        if (!take_step(t, &script[i], &turn))
            continue;
        const int32_t *id = hlm_session_ids(s);
        uint32_t same = 0;
        while (same < n_was && same < turn.n_prompt && was[same] == id[same])
            same++;
        hlm_talk_why(&turn, why, sizeof why);
        CHECK_MSG(turn.n_read + turn.n_reread == turn.n_prompt - same && turn.n_reused == same,
                  "a prompt of %u is as before up to %u; reused %llu, read %llu, again %llu (%s)",
                  turn.n_prompt, same, (unsigned long long)turn.n_reused,
                  (unsigned long long)turn.n_read, (unsigned long long)turn.n_reread, why);
        CHECK_EQ(turn.found.n_same, same);
        CHECK(test_has(why, "differs|token") == (same < n_was && same < turn.n_prompt));
        CHECK(test_has(why, "first") == (i == 0));
        n_was = hlm_session_n_past(s);
        memcpy(was, id, n_was * sizeof *was);
        check_fresh(fresh, t);
        n_saved += turn.n_reused;
        n_most = n_most > turn.n_prompt ? n_most : turn.n_prompt;
        n_turn++;
    }
    CHECK(n_turn >= 20 && n_saved > 0);
    test_note("  %u turns, the longest prompt has %llu tokens; %llu were not read again", n_turn,
              (unsigned long long)n_most, (unsigned long long)n_saved);
    free(was);
}

/* ---- a conversation in a file ----------------------------------------------------------- */

static bool same_text(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : a == b; }

static void check_same(const hlm_talk *a, const hlm_talk *b)
{
    CHECK(a->think == b->think && a->n_msg == b->n_msg);
    for (uint32_t i = 0; i < a->n_msg && i < b->n_msg; i++) {
        const struct chat_msg *x = &a->msg[i], *y = &b->msg[i];
        CHECK(same_text(x->role, y->role) && same_text(x->content, y->content) &&
              same_text(x->reasoning, y->reasoning) && x->n_ids == y->n_ids &&
              (!x->ids || !memcmp(x->ids, y->ids, x->n_ids * sizeof *x->ids)));
    }
}

/* Both now say the same, and read as much. */
static void check_goes_on(hlm_talk *a, hlm_talk *b)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn ta = { 0 }, tb = { 0 };
    if (CHECK_OK(hlm_talk_say(a, "And then?", &ta, &err), err) &&
        CHECK_OK(hlm_talk_say(b, "And then?", &tb, &err), err)) {
        CHECK(ta.n_prompt == tb.n_prompt && ta.n_reused == tb.n_reused && ta.n_reused > 0);
        check_same(a, b);
    }
}

static void test_notes(hlm_talk *t, const char *path)
{
    static const char *const notes[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"messages\": []}",
        "{\"messages\": {}, \"think\": true}",
        "{\"messages\": [], \"think\": 1}",
        "{\"messages\": [1], \"think\": true}",
        "{\"messages\": [{\"role\": \"user\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content_hex\": \"4g\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content_hex\": \"00\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"\\u0000\"}], \"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": 7}], \"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"x\", \"reasoning\": 7}], "
        "\"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"x\", \"ids\": [640]}], "
        "\"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"x\", \"ids\": [-1]}], "
        "\"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"x\", \"ids\": [1.5]}], "
        "\"think\": true}",
        "{\"messages\": [{\"role\": \"system\", \"content\": \"x\", \"ids\": \"x\"}], "
        "\"think\": true}",
    };
    for (uint32_t i = 0; i < ARRAY_LEN(notes); i++) {
        struct hlm_err err = { 0 };
        test_case("/load refuses the note %s", notes[i]);
        uint32_t n_msg = t->n_msg, n_past = hlm_session_n_past(t->session);
        CHECK_OK(hlm_session_save(t->session, path, notes[i], strlen(notes[i]), &err), err);
        CHECK_REFUSED(hlm_talk_load(t, path, &err), err, "messages");
        CHECK_SAYS(err.msg, path);
        CHECK(t->n_msg == n_msg && hlm_session_n_past(t->session) == n_past);
    }
}

static void test_talk_file(const struct family *f)
{
    struct hlm_session_params params = { .n_ctx = 256, .kv = HLM_KV_F32 };
    struct hlm_talk_turn turn = { 0 };
    struct hlm_err err = { 0 };
    char path[300];
    snprintf(path, sizeof path, "%.200s/talk.hlm", test_tmp());
    test_case("%s: a conversation in a file, with text that is no UTF-8", f->model);
    hlm *m = hlm_test_open(fixture("%s", f->model));
    hlm_talk *t = m ? open_talk(m, params, f->format) : NULL;
    hlm_talk *to = t ? open_talk(m, params, f->format) : NULL;
    if (to) {
        CHECK_OK(hlm_talk_set_think(t, true, &err), err);
        CHECK_OK(hlm_talk_say(t, "Hello \xff there", &turn, &err), err);
        CHECK_OK(hlm_talk_say(t, "A \"quoted\" word, and \xc3\xa9", &turn, &err), err);
        rewrite(nth_from_end(t, "assistant", 1), "cut in a character: \xc3");
        CHECK_OK(hlm_talk_save(t, path, &err), err);
        CHECK_OK(hlm_talk_say(to, "Something else", &turn, &err), err);
        CHECK_OK(hlm_talk_load(to, path, &err), err);
        check_same(t, to);
        check_goes_on(t, to);
        CHECK(hlm_talk_undo(t) && hlm_talk_undo(to));
        check_goes_on(t, to);
        test_notes(to, path);
    }
    hlm_talk_close(t);
    hlm_talk_close(to);
    hlm_test_close(m);
}

static void test_family(const struct family *f)
{
    struct hlm_session_params params = { .n_ctx = 384, .kv = HLM_KV_F32 }, bare = params;
    test_case("%s: opens", f->model);
    bare.snapshot_budget = HLM_SNAPSHOT_NONE;
    hlm *m = hlm_test_open(fixture("%s", f->model));
    hlm_talk *t = m ? open_talk(m, params, f->format) : NULL;
    hlm_talk *fresh = t ? open_talk(m, bare, f->format) : NULL;
    if (fresh)
        converse(f, t, fresh);
    test_case("%s: no message of the validation layer", f->model);
    hlm_talk_close(t);
    hlm_talk_close(fresh);
    hlm_test_close(m);
}

/* ---- the budget ------------------------------------------------------------------------- */

enum { N_CTX = 128, N_BATCH = 64, N_ID = 120 };

static struct {
    hlm *m;
    hlm_session *s;
    int32_t id[N_ID];
    uint64_t slot_bytes;
} b;

/* Reads n ids of the history with another text from `at` on. */
static bool read_to(uint32_t n, uint32_t at, const uint32_t *snap, uint32_t n_snap)
{
    struct hlm_err err = { 0 };
    int32_t id[N_ID];
    memcpy(id, b.id, sizeof id);
    for (uint32_t i = at; i < N_ID; i++)
        id[i] = (id[i] + 1) % 600;
    return CHECK_OK(hlm_session_sync(b.s, id, n, snap, n_snap, NULL, NULL, &err), err) &&
           CHECK_EQ(hlm_session_n_past(b.s), n);
}

/* Reading the history with another text from `at` on continues after `from` tokens. */
static void comes_back(const char *what, uint32_t at, uint32_t from, uint32_t evicted)
{
    read_to(at + 1, at, NULL, 0);
    struct hlm_found f = hlm_session_found(b.s);
    CHECK_MSG(f.n_same == at && f.n_from == from && f.n_evicted == evicted,
              "%s: other from %u on: same %u, from %u, evicted %u", what, at, f.n_same, f.n_from,
              f.n_evicted);
}

static bool with_slots(uint64_t n, uint64_t more)
{
    struct hlm_session_params params = { .n_ctx = N_CTX,
                                         .n_batch = N_BATCH,
                                         .kv = HLM_KV_F32,
                                         .snapshot_budget = n * b.slot_bytes + more };
    hlm_session_destroy(b.s);
    b.s = hlm_test_session(b.m, params);
    struct hlm_stats st = b.s ? hlm_session_stats(b.s) : (struct hlm_stats){ 0 };
    return b.s && CHECK_EQ(st.snapshot_max, n) && CHECK_EQ(st.snapshot_bytes, n * b.slot_bytes);
}

#define PLACES(...)                                                                                \
    (const uint32_t[]){ __VA_ARGS__ }, (uint32_t)(sizeof((const uint32_t[]){ __VA_ARGS__ }) / 4)

static void test_eviction(void)
{
    static const struct {
        uint32_t n_slot, place[5], at, from, evicted;
    } rows[] = {
        /* Of snapshots at 10, 20, 50 and 60, losing 10 costs as little as losing 20 or 60; it comes
         * first. */
        { 3, { 10, 20, 50, 60 }, 15, 0, 10 },
        { 3, { 10, 20, 50, 60 }, 30, 20, 0 },
        { 3, { 10, 20, 50, 60 }, 55, 50, 0 },
        { 3, { 10, 20, 50, 60 }, 60, 60, 0 },
        /* 20 saves 9 tokens, the others save more */
        { 3, { 11, 20, 40, 60 }, 30, 11, 20 },
        /* The newest snapshot stays although it is the cheapest, as long as it saves 8 tokens. */
        { 2, { 20, 40, 48 }, 39, 0, 20 },
        { 2, { 20, 40, 48 }, 48, 48, 0 },
        { 2, { 20, 40, 47 }, 30, 20, 0 },
        { 2, { 20, 40, 47 }, 50, 40, 0 },
        { 1, { 3, 40, 42 }, 41, 40, 0 },
        { 1, { 3, 40, 42 }, 30, 0, 3 },
        { 1, { 3, 40, 80 }, 79, 0, 40 },
        { 1, { 3, 40, 80 }, 80, 80, 0 },
        { 0, { 3, 40, 80 }, 80, 0, 0 },
    };
    uint32_t n_slot = UINT32_MAX;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        /* Read in one go, or in one sync for each place: the same snapshots stay. */
        for (uint32_t one = 0; one < 2; one++) {
            char what[64];
            uint32_t n = 0;
            while (rows[i].place[n])
                n++;
            snprintf(what, sizeof what, "%u slots, row %u, %s", rows[i].n_slot, i,
                     one ? "one by one" : "at once");
            test_case("budget: %s", what);
            if (rows[i].n_slot != n_slot && !with_slots(rows[i].n_slot, b.slot_bytes - 1))
                return;
            n_slot = rows[i].n_slot;
            hlm_session_reset(b.s);
            for (uint32_t k = 0; one && k < n; k++)
                read_to(rows[i].place[k], N_ID, rows[i].place, n);
            read_to(100, N_ID, rows[i].place, n);
            CHECK_EQ(hlm_session_stats(b.s).n_snapshot, n < n_slot ? n : n_slot);
            /* A snapshot that never existed is not reported as evicted. */
            comes_back(what, rows[i].at, rows[i].from, one ? rows[i].evicted : 0);
        }
    }
}

static void test_submissions(void)
{
    struct hlm_stats was, now;
    struct hlm_err err = { 0 };
    int32_t id;
    test_case("a prompt is not cut for a snapshot that would not stay");
    if (!with_slots(2, 0))
        return;
    for (uint32_t round = 0; round < 3; round++) {
        hlm_session_reset(b.s);
        was = hlm_session_stats(b.s);
        if (round == 0) /* 64 and 36 */
            read_to(100, N_ID, NULL, 0);
        else if (round == 1) /* 30, 64, 6 and two copies */
            read_to(100, N_ID, PLACES(10, 20, 30, 100));
        else /* 64 and 36, and a copy */
            read_to(100, N_ID, PLACES(100));
        now = hlm_session_stats(b.s);
        CHECK_EQ(now.n_submit - was.n_submit, round == 0 ? 2 : round == 1 ? 5 : 3);
    }
    test_case("prompts of any size leave the recorded decode alone");
    CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
    CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
    for (uint32_t n = 20; n < 36; n++) {
        read_to(n + 30, n, PLACES(n, n + 10, n + 30));
        was = hlm_session_stats(b.s);
        for (uint32_t i = 0; i < 3; i++)
            CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
        now = hlm_session_stats(b.s);
        CHECK_EQ(now.n_record - was.n_record, 0);
        CHECK_EQ(now.n_submit - was.n_submit, 3u + b.s->x->goes_ahead);
    }
}

static void test_places(void)
{
    struct hlm_err err = { 0 };
    int32_t id;
    struct hlm_stats was, now;
    if (!with_slots(4, 0))
        return;
    test_case("a snapshot without logits serves what goes on, not what ends there");
    read_to(60, N_ID, PLACES(20, 40));
    read_to(40, N_ID, NULL, 0);
    CHECK_EQ(hlm_session_found(b.s).n_from, 20);
    read_to(50, 41, NULL, 0);
    CHECK_EQ(hlm_session_found(b.s).n_from, 40);

    test_case("one without logits gets them when a prompt ends there");
    hlm_session_reset(b.s);
    read_to(60, N_ID, PLACES(20, 40));
    read_to(40, N_ID, PLACES(40));
    read_to(50, N_ID, NULL, 0);
    read_to(40, N_ID, NULL, 0);
    CHECK_EQ(hlm_session_found(b.s).n_from, 40);

    test_case("going back to a prefix keeps the last token's state");
    hlm_session_reset(b.s);
    read_to(60, N_ID, PLACES(20));
    read_to(30, N_ID, NULL, 0);
    CHECK_EQ(hlm_session_found(b.s).n_from, 20);
    read_to(60, N_ID, NULL, 0);
    CHECK_EQ(hlm_session_found(b.s).n_from, 60);

    test_case("another token after it makes that void");
    read_to(30, N_ID, NULL, 0);
    CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
    CHECK(id != b.id[30]);
    was = hlm_session_stats(b.s);
    read_to(60, N_ID, NULL, 0);
    now = hlm_session_stats(b.s);
    CHECK_EQ(hlm_session_found(b.s).n_same, 30);
    CHECK_EQ(now.n_read - was.n_read, 30);
    CHECK_EQ(now.n_reread, was.n_reread);

    test_case("the same token leaves it");
    read_to(30, N_ID, PLACES(30));
    CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
    int32_t made[2] = { id, 0 };
    CHECK_OK(hlm_session_next(b.s, &greedy, &made[1], &err), err);
    int32_t ids[N_ID];
    memcpy(ids, b.id, sizeof ids);
    memcpy(ids + 30, made, sizeof made);
    CHECK_OK(hlm_session_sync(b.s, ids, 50, NULL, 0, NULL, NULL, &err), err);
    read_to(30, N_ID, NULL, 0);
    CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
    CHECK_EQ(id, made[0]);
    CHECK_OK(hlm_session_sync(b.s, ids, 50, NULL, 0, NULL, NULL, &err), err);
    CHECK_EQ(hlm_session_found(b.s).n_from, 50);
}

/* The state that is left when an answer is generated again takes no other snapshot's slot. */
static void test_regen(void)
{
    struct hlm_err err = { 0 };
    int32_t id;
    test_case("an answer made anew reads nothing, however small the budget");
    for (uint32_t n_slot = 1; n_slot <= 3; n_slot++) {
        if (!with_slots(n_slot, 0))
            return;
        read_to(60, N_ID, PLACES(20, 45, 60));
        for (uint32_t round = 0; round < 3; round++) {
            for (uint32_t i = 0; i < 12; i++)
                CHECK_OK(hlm_session_next(b.s, &greedy, &id, &err), err);
            read_to(60, N_ID, PLACES(20, 45, 60));
            CHECK_EQ(hlm_session_found(b.s).n_from, 60);
        }
        comes_back("after that", 59, n_slot == 1 ? 0 : 45, 0);
    }
}

static void on_log(void *user, enum hlm_log_level level, const char *msg)
{
    if (level == HLM_LOG_WARN)
        snprintf(user, 256, "%s", msg);
}

static void test_budget(void)
{
    struct rng r = { 5 };
    test_case("budget: the slots it has room for, to the byte");
    if (!(b.m = hlm_test_open(fixture("qwen35/base/model-f32.gguf"))))
        return;
    for (uint32_t i = 0; i < N_ID; i++)
        b.id[i] = (int32_t)(rng_u64(&r) % 600);
    struct hlm_session_params params = { .n_ctx = N_CTX, .snapshot_budget = TEST_BUDGET_DEFAULT };
    if ((b.s = hlm_test_session(b.m, params))) {
        struct hlm_stats st = hlm_session_stats(b.s);
        CHECK(st.snapshot_max >= 2 && st.snapshot_bytes <= 512 << 20);
        b.slot_bytes = st.snapshot_bytes / st.snapshot_max;
        CHECK(b.slot_bytes > st.state_bytes / 2); /* there are two of them */
        test_eviction();
        test_submissions();
        test_places();
        test_regen();

        char warned[256] = "";
        test_case("budget: less than one snapshot is none, and is warned about");
        test_log(on_log, warned);
        with_slots(0, b.slot_bytes - 1);
        test_log(NULL, NULL);
        CHECK_SAYS(warned, "none");
    }
    hlm_session_destroy(b.s);
    hlm_test_close(b.m);
}

void test_snapshot(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    test_budget();
    test_talk_file(&families[0]);
    for (uint32_t i = 0; i < ARRAY_LEN(families); i++)
        test_family(&families[i]);
}
