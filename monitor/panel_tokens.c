/* panel_tokens: what was read, reused, read again and made; how fast; how full the context is. */
#include "panels.h"

#include <math.h>

/* One bar of everything that went into the model: what did not have to be read is the gain of the
 * snapshots. */
static float account(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    const struct hlm_counters *c = &in->run->now;
    const uint64_t v[4] = { c->n_reused, c->n_read, c->n_reread, c->n_gen };
    static const char *const name[4] = { "reused", "read", "read again", "generated" };
    const SDL_Color color[4] = { g->t->series[2], g->t->series[1], g->t->bad, g->t->accent };
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)v[i];
    struct segment s[4];
    char text[4][32], right[64], n[32];
    for (int i = 0; i < 4; i++) {
        show_count((double)v[i], text[i], sizeof text[i]);
        s[i] =
            (struct segment){ name[i], text[i], sum > 0 ? (double)v[i] / sum : 0, color[i], false };
    }
    show_count(sum, n, sizeof n);
    SDL_snprintf(right, sizeof right, "%s in all", n);
    float line = draw_line_height(g->d, FACE_TEXT) + 2;
    bool why = c->n_reread && in->run->why[0];
    float legend = widget_legend_height(g, r.w - 2 * PANEL_PAD, s, 4);
    float h = panel_card_height(22 + 10 + legend + (why ? line : 0), true);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, "Tokens", right);
    int over = widget_segments(g, (SDL_FRect){ at.x, at.y, at.w, 22 }, s, 4);
    widget_legend(g, (SDL_FRect){ at.x, at.y + 32, at.w, legend }, s, 4, over);
    if (over >= 0 && sum > 0)
        gui_tip(g, "%s\ntokens\t%s\nshare\t%.1f %%", name[over], text[over],
                100 * (double)v[over] / sum);
    if (why) {
        char reason[200];
        SDL_snprintf(reason, sizeof reason, "Read again because %s", in->run->why);
        draw_label(g->d, (SDL_FRect){ at.x, at.y + 34 + legend, at.w, line }, ALIGN_LEFT,
                   FACE_SMALL, g->t->warn, reason);
    }
    return h;
}

static void context(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    const struct hlm_counters *c = &in->run->now;
    float part = c->n_ctx ? (float)c->n_used / (float)c->n_ctx : 0;
    char text[48], used[32], all[32];
    SDL_FRect at = panel_card(in, r, "Context", NULL);
    /* A gauge that is open at its foot: three quarters of a turn. */
    float radius = fminf(at.w / 2 - 4, (at.h - 20) / 1.71f);
    SDL_FPoint mid = { at.x + at.w / 2, at.y + radius };
    draw_arc(g->d, mid, radius, 9, -0.375f, 0.375f, g->t->raised);
    if (part > 0)
        draw_arc(g->d, mid, radius, 9, -0.375f, -0.375f + 0.75f * fminf(part, 1),
                 part > 0.95f ? g->t->warn : g->t->accent);
    SDL_snprintf(text, sizeof text, c->n_ctx ? "%.0f\u2009%%" : "-", 100 * (double)part);
    draw_label(g->d, (SDL_FRect){ mid.x - radius, mid.y - 20, 2 * radius, 40 }, ALIGN_CENTER,
               radius > 66 ? FACE_HUGE : FACE_FIGURE, g->t->text, text);
    show_count(c->n_used, used, sizeof used);
    show_count(c->n_ctx, all, sizeof all);
    SDL_snprintf(text, sizeof text, "%s of %s positions", used, all);
    draw_label(g->d, (SDL_FRect){ at.x, mid.y + radius * 0.71f + 4, at.w, 16 }, ALIGN_CENTER,
               FACE_SMALL, g->t->muted, text);
}

static void work(const struct panel_in *in, SDL_FRect r)
{
    const struct hlm_counters *c = &in->run->now;
    char kept[48] = "", evicted[32] = "", submit[32], record[32], read[32], made[32];
    show_count((double)c->n_submit, submit, sizeof submit);
    show_count((double)c->n_record, record, sizeof record);
    show_clock(c->read_s, read, sizeof read);
    show_clock(c->gen_s, made, sizeof made);
    if (in->run->n_snapshot_max)
        SDL_snprintf(kept, sizeof kept, "%llu of %llu", (unsigned long long)in->run->n_snapshot,
                     (unsigned long long)in->run->n_snapshot_max);
    if (in->run->n_evicted)
        show_count((double)in->run->n_evicted, evicted, sizeof evicted);
    const struct fact f[] = { { "Time reading", read },   { "Time generating", made },
                              { "Snapshots held", kept }, { "Snapshots evicted", evicted },
                              { "Submissions", submit },  { "Recordings", record } };
    panel_facts(in, r, "Work", f, ARRAY_LEN(f));
}

static float speeds(const struct panel_in *in, SDL_FRect r)
{
    const struct hlm_counters *c = &in->run->now;
    char v[4][32], below[4][64], n[32];
    struct tile t[4];
    show_rate(c->gen_per_s > 0 ? c->gen_per_s : -1, v[0], sizeof v[0]);
    show_rate(c->gen_s > 0 ? (double)c->n_gen / c->gen_s : -1, n, sizeof n);
    SDL_snprintf(below[0], sizeof below[0], "%s tok/s on average", n);
    show_rate(c->read_per_s > 0 ? c->read_per_s : -1, v[1], sizeof v[1]);
    show_rate(c->read_s > 0 ? (double)(c->n_read + c->n_reread) / c->read_s : -1, n, sizeof n);
    SDL_snprintf(below[1], sizeof below[1], "%s tok/s on average", n);
    SDL_snprintf(v[2], sizeof v[2], c->gen_per_s > 0 ? "%.1f" : "-", 1e3 / c->gen_per_s);
    SDL_snprintf(below[2], sizeof below[2], "of the answer");
    double kept = (double)c->n_reused + (double)c->n_read + (double)c->n_reread;
    SDL_snprintf(v[3], sizeof v[3], kept > 0 ? "%.0f" : "-",
                 100 * (double)c->n_reused / (kept > 0 ? kept : 1));
    SDL_snprintf(below[3], sizeof below[3], "of the prompts' tokens");
    t[0] = (struct tile){ "Answer", v[0], "tok/s", below[0], -1, { 0 } };
    t[1] = (struct tile){ "Prompt", v[1], "tok/s", below[1], -1, { 0 } };
    t[2] = (struct tile){ "Time of a token", v[2], "ms", below[2], -1, { 0 } };
    t[3] = (struct tile){ "Reused", v[3], "%", below[3], -1, { 0 } };
    return panel_tiles(in, r, t, 4);
}

static float draw(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    if (!run->known || run->now.n_read + run->now.n_gen + run->now.n_reused == 0) {
        if (run->now.n_step)
            return panel_empty(
                in, r, "A training reads rows, not prompts",
                "Its tokens are counted in the panel Training.\n"
                "This one fills when hlm-chat or hlm-bench reads and generates tokens.");
        return panel_empty(in, r, "No tokens yet",
                           "This fills with the first prompt that is read.");
    }
    float y = r.y;
    y += account(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    y += speeds(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    float high = fmaxf(r.y + r.h - y, 392);
    bool wide = r.w > 620;
    float gauge = wide ? 220 : r.w, graph_w = wide ? r.w - gauge - PANEL_GAP : r.w;
    float half = (high - PANEL_GAP) / 2;
    struct graph_series read =
        panel_series(run, SERIES_READ, "reading", GRAPH_AREA, t->series[1], false);
    struct graph_series made =
        panel_series(run, SERIES_GEN, "generating", GRAPH_AREA, t->accent, false);
    struct graph gr = { .title = "Prompt",
                        .unit = "tok/s",
                        .series = &read,
                        .n_series = 1,
                        .x_min = panel_from(run),
                        .x_max = run->t,
                        .from_zero = true,
                        .show_y = show_rate,
                        .empty = run->from_log ? "The log has no speeds of prompts"
                                               : "The curve begins with the first prompt" };
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, y, graph_w, half }, NULL, NULL);
    widget_graph(in->g, gui_id(&panel_tokens, 1), at, &gr, in->view);
    gr.title = "Answer";
    gr.series = &made;
    gr.empty = run->from_log ? "The log has no speeds of answers"
                             : "The curve begins with the first answer";
    at = panel_card(in, (SDL_FRect){ r.x, y + half + PANEL_GAP, graph_w, high - half - PANEL_GAP },
                    NULL, NULL);
    widget_graph(in->g, gui_id(&panel_tokens, 2), at, &gr, in->view);
    if (wide) {
        float x = r.x + graph_w + PANEL_GAP;
        context(in, (SDL_FRect){ x, y, gauge, half });
        work(in, (SDL_FRect){ x, y + half + PANEL_GAP, gauge, high - half - PANEL_GAP });
        return y + high - r.y;
    }
    y += high + PANEL_GAP;
    context(in, (SDL_FRect){ r.x, y, r.w, 190 });
    y += 190 + PANEL_GAP;
    work(in, (SDL_FRect){ r.x, y, r.w, 190 });
    return y + 190 - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    static const enum run_series_id id[] = { SERIES_READ, SERIES_GEN, SERIES_CONTEXT };
    static const char *const name[] = { "read_per_s", "gen_per_s", "context" };
    csv_series(to, in->run, id, name, ARRAY_LEN(id));
}

const struct panel panel_tokens = { .name = "tokens", .title = "Tokens", .draw = draw, .csv = csv };
