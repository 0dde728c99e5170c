/* tune_doctor: reports the data, the targets, and the memory and time of a run before its first
 * step. See tune_run.h. */
#include "tune_run.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

/* ---- targets --------------------------------------------------------------------------------- */

struct target_kind {
    char name[64];
    struct hlm_tune_target t;
    uint64_t n;
};

/* The name with N instead of the number of its layer. */
static void kind_name(char out[64], const char *name)
{
    size_t at = strncmp(name, "blk.", 4) ? 0 : 4 + strspn(name + 4, "0123456789");
    snprintf(out, 64, "%s%s", at ? "blk.N" : "", name + at);
}

static uint32_t count_kinds(const struct hlm_tune_info *i, struct target_kind *kind)
{
    uint32_t n = 0, k;
    for (uint64_t j = 0; j < i->n_target; j++) {
        const struct hlm_tune_target *t = &i->target[j];
        char name[64];
        kind_name(name, t->name);
        for (k = 0; k < n; k++)
            if (!strcmp(kind[k].name, name) && kind[k].t.n_in == t->n_in &&
                kind[k].t.n_out == t->n_out && kind[k].t.rank == t->rank)
                break;
        if (k == n) {
            kind[n++] = (struct target_kind){ .t = *t };
            memcpy(kind[k].name, name, sizeof name);
        }
        kind[k].n++;
    }
    return n;
}

void doctor_targets(struct tune *u, FILE *to)
{
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    struct target_kind *kind = ui_alloc(i.n_target + 1, sizeof *kind);
    json_t *list = json_array();
    uint32_t n = kind ? count_kinds(&i, kind) : 0;
    ull n_matrix = i.n_target - i.n_gate;
    fprintf(to, "training %llu matri%s, %llu gate%s, %s number%s\n", n_matrix,
            n_matrix == 1 ? "x" : "ces", (ull)i.n_gate, ui_s(i.n_gate), num_short(i.n_number).s,
            ui_s(i.n_number));
    for (uint32_t k = 0; k < n; k++) {
        const struct hlm_tune_target *t = &kind[k].t;
        fprintf(to, "  %4llu  %-36s %llu", (ull)kind[k].n, kind[k].name, (ull)t->n_in);
        if (t->rank)
            fprintf(to, " x %llu", (ull)t->n_out);
        if (t->rank && t->n_expert > 1)
            fprintf(to, " x %llu", (ull)t->n_expert);
        fprintf(to, t->rank ? ", rank %u\n" : "\n", t->rank);
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:I, s:I, s:i}", "name", kind[k].name,
                                        "count", (json_int_t)kind[k].n, "in", (json_int_t)t->n_in,
                                        "out", (json_int_t)t->n_out, "experts",
                                        (json_int_t)t->n_expert, "rank", (int)t->rank));
    }
    free(kind);
    ui_event("targets", "{s:I, s:I, s:I, s:o}", "matrices", (json_int_t)(i.n_target - i.n_gate),
             "gates", (json_int_t)i.n_gate, "numbers", (json_int_t)i.n_number, "kinds", list);
}

/* ---- the data -------------------------------------------------------------------------------- */

static void print_set(FILE *to, const char *name, const struct hlm_set_info *s)
{
    if (!s->n_doc)
        return;
    fprintf(to, "%-10s %llu document%s, %s token%s, %s of them count%s (%.0f %%), in %llu row%s\n",
            name, (ull)s->n_doc, ui_s(s->n_doc), num_short(s->n_tok).s, ui_s(s->n_tok),
            num_short(s->n_counted).s, s->n_counted == 1 ? "s" : "",
            100.0 * (double)s->n_counted / (double)s->n_tok, (ull)s->n_row, ui_s(s->n_row));
    ui_event("data", "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "set", name, "documents",
             (json_int_t)s->n_doc, "tokens", (json_int_t)s->n_tok, "counted",
             (json_int_t)s->n_counted, "rows", (json_int_t)s->n_row, "cut", (json_int_t)s->n_cut,
             "dropped", (json_int_t)s->n_dropped, "malformed", (json_int_t)s->n_bad, "answers",
             (json_int_t)s->n_answer, "answers_unsaid", (json_int_t)s->n_unsaid);
}

/* A histogram of lengths by powers of two. */
static void print_lengths(FILE *to, const struct hlm_set_info *s)
{
    uint32_t count[33] = { 0 }, most = 1, longest[3] = { 0 };
    for (uint64_t i = 0; i < s->n_doc; i++) {
        uint32_t n = s->doc_tok[i], c = 0;
        while (c < 32 && n >> c > 1)
            c++;
        most = ui_max_u32(most, ++count[c]);
        for (uint32_t k = 0, v = n, w; k < ARRAY_LEN(longest); k++)
            if (v > longest[k]) {
                w = longest[k];
                longest[k] = v;
                v = w;
            }
    }
    fprintf(to, "lengths    the longest %u, %u, %u tokens\n", longest[0], longest[1], longest[2]);
    for (uint32_t c = 0; c < 33; c++)
        if (count[c])
            fprintf(to, "%9llu to %-9llu %8u  %.*s\n", 1ull << c, (2ull << c) - 1, count[c],
                    (int)(count[c] * 40ull / most), "########################################");
    if (s->n_cut)
        fprintf(to, "cut        %llu document%s, %llu token%s lost; the longest had %llu\n",
                (ull)s->n_cut, ui_s(s->n_cut), (ull)s->n_tok_cut, ui_s(s->n_tok_cut),
                (ull)s->longest);
    if (s->n_dropped)
        fprintf(to, "dropped    %llu document%s without a token that counts\n", (ull)s->n_dropped,
                ui_s(s->n_dropped));
    if (s->n_unsaid)
        fprintf(
            to,
            "answers    %llu of %llu do not count: the template shows earlier answers otherwise "
            "than\n           the model says them; with --turns each every answer counts\n",
            (ull)s->n_unsaid, (ull)s->n_answer);
    if (s->n_bad)
        fprintf(to, "skipped    %llu malformed line%s\n", (ull)s->n_bad, ui_s(s->n_bad));
}

/* Prints the first row, with counted tokens in brackets or, on a terminal, in another colour. */
static void print_row(FILE *to, const hlm_vocab *v, const struct hlm_row *r)
{
    bool color = ui.color && (to == stderr ? ui.tty : ui.out_tty);
    const char *on = color ? "\033[32m" : "[[", *off = color ? "\033[0m" : "]]";
    uint32_t n = ui_min_u32(r->n - r->padding, 400);
    bool is = false;
    fprintf(to, "the first row, with counted tokens %s:\n", color ? "in colour" : "in [[ ]]");
    for (uint32_t i = 0; i < n; i++) {
        struct hlm_str s = v ? hlm_token_text(v, r->ids[i]) : (struct hlm_str){ "", 0 };
        if (i && r->doc[i] != r->doc[i - 1])
            fprintf(to, "%s\n----\n", is ? off : "");
        if ((i && r->doc[i] != r->doc[i - 1]) || !i)
            is = false;
        if (is != (r->mask[i] != 0))
            fputs(is ? off : on, to);
        is = r->mask[i];
        if (v)
            ui_text(to, s.p, s.n);
        else
            fprintf(to, "%s%d", i ? " " : "", r->ids[i]);
    }
    fprintf(to, "%s%s\n", is ? off : "", n < r->n - r->padding ? " ..." : "");
}

/* The values that no flag has set, and what they follow from. */
static void print_chosen(FILE *to, const struct hlm_tune_info *i, const struct hlm_set_info *s)
{
    if (!i->chose_epochs && !i->chose_batch_rows && !i->chose_lr)
        return;
    fputs("chosen     ", to);
    if (i->chose_epochs)
        fprintf(to, "%g passes for %llu document%s%s", i->epochs, (ull)s->n_doc, ui_s(s->n_doc),
                i->chose_batch_rows || i->chose_lr ? ", " : "");
    if (i->chose_batch_rows)
        fprintf(to, "%u row%s per step%s", i->train->batch_rows, ui_s(i->train->batch_rows),
                i->chose_lr ? ", " : "");
    if (i->chose_lr)
        fputs("the rate for the model's width", to);
    fputs(" (--epochs, --batch-rows, --lr)\n", to);
}

/* A new adapter changes nothing; it needs some updates before it has an effect. */
static void warn_of_few(const struct hlm_tune_info *i, const struct hlm_set_info *s)
{
    enum { FEW = 50, ENOUGH = 100 };
    const struct hlm_train_options *o = i->train;
    double rows = (double)o->batch_rows * o->accumulation;
    if (o->steps >= FEW || i->from_ids)
        return;
    ui_warn("%u update%s in total %s too few to learn much; --epochs %.0f or --steps %d makes %d",
            o->steps, ui_s(o->steps), o->steps == 1 ? "is" : "are",
            ENOUGH * rows / (double)s->n_row + 0.5, ENOUGH, ENOUGH);
}

void doctor_data(struct tune *u, FILE *to)
{
    static const char *const name[] = { "train", "validation", "test" };
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    struct hlm_set_info train = hlm_tune_set_info(u->t, HLM_TUNE_TRAIN);
    const struct hlm_train_options *o = i.train;
    struct hlm_row row;
    if (i.from_ids) {
        fprintf(to, "train      %llu row%s of ids, %llu token%s count%s\n", (ull)train.n_row,
                ui_s(train.n_row), (ull)train.n_counted, ui_s(train.n_counted),
                train.n_counted == 1 ? "s" : "");
    } else {
        for (int k = HLM_TUNE_TRAIN; k <= HLM_TUNE_TEST; k++) {
            struct hlm_set_info s = hlm_tune_set_info(u->t, (enum hlm_tune_set)k);
            print_set(to, name[k], &s);
        }
        print_lengths(to, &train);
    }
    if (train.packed)
        fprintf(to, "packed     into rows of %u tokens, %llu of them padding\n", train.row_length,
                (ull)train.n_padding);
    if (hlm_tune_row(u->t, 0, &row))
        print_row(to, u->vocab, &row);
    fprintf(to,
            "steps      %u of %u row%s, %.3g passes over the data; rate %g to %g, %u warm-up "
            "steps\n",
            o->steps, o->batch_rows * o->accumulation,
            o->batch_rows * o->accumulation == 1 ? "" : "s",
            (double)i.n_run_row / (double)train.n_row, o->peak,
            o->schedule == HLM_CONSTANT ? o->peak : o->final, o->warmup_steps);
    print_chosen(to, &i, &train);
    warn_of_few(&i, &train);
    fprintf(to, "precision  %s\n",
            i.f16 ? "f16 products with f32 sums; trained numbers are f32" : "f32");
}

/* ---- the plan and the time ------------------------------------------------------------------- */

static void print_memory(FILE *to, const char *what, uint64_t bytes)
{
    fprintf(to, "  %-16s %18llu  %10s\n", what, (ull)bytes, num_bytes(bytes).s);
}

void doctor_plan(struct tune *u, FILE *to)
{
    struct hlm_plan plan = hlm_tune_plan(u->t);
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    json_t *by = json_object();
    fprintf(to, "memory     rows of %u tokens, %u document%s; on %s, bytes\n", i.max_tok, i.max_doc,
            ui_s(i.max_doc), hlm_get_info(u->m).device);
    for (uint32_t k = 0; k < plan.n_row; k++) {
        if (plan.row[k].bytes && !plan.row[k].on_host)
            print_memory(to, plan.row[k].purpose, plan.row[k].bytes);
        json_object_set_new(by, plan.row[k].purpose, json_integer((json_int_t)plan.row[k].bytes));
    }
    print_memory(to, "all", plan.device_bytes);
    print_memory(to, "limit", plan.memory);
    if (plan.host_bytes)
        print_memory(to, "host memory", plan.host_bytes);
    ui_event("plan", "{s:o, s:I, s:I, s:I, s:i, s:i}", "bytes_by", by, "device_bytes",
             (json_int_t)plan.device_bytes, "host_bytes", (json_int_t)plan.host_bytes,
             "may_be_used", (json_int_t)plan.memory, "max_tok", (int)i.max_tok, "max_doc",
             (int)i.max_doc);
}

void doctor_time(struct tune *u, double row_s, FILE *to)
{
    struct hlm_tune_info i = hlm_tune_get_info(u->t);
    double all = row_s * (double)i.n_run_row;
    fprintf(to, "time       a row took %s, so %u step%s take%s about %s\n", span_text(row_s).s,
            i.train->steps, ui_s(i.train->steps), i.train->steps == 1 ? "s" : "", span_text(all).s);
    ui_event("estimate", "{s:f, s:f}", "row_s", row_s, "all_s", all);
}
