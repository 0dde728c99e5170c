/* data_form: the forms in which people have training data, distinguished by their keys; which
 * answers a row says are not to be learnt; and the keys that hlm does not obey. See data.h.
 *
 * Every form becomes one of three: messages, a prompt with its completion, or a text. data_doc.c
 * makes documents of these. */
#include "train/data_parts.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys that are passed over --------------------------------------------------------------- */

static bool is_one_of(const char *key, const char *const *list, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && strcmp(key, list[i]))
        i++;
    return i < n;
}

/* Remembers a key for data_warn_passed(), once for each file. */
static void pass_over(struct data_line *l, const char *key, bool beside)
{
    struct shown shown = show_text(key, strlen(key), 44);
    for (uint32_t i = 0; i < l->n_passed; i++)
        if (l->passed[i].beside == beside &&
            !strncmp(l->passed[i].key, shown.s, sizeof l->passed[i].key - 1))
            return;
    if (l->n_passed == MAX_PASSED)
        return;
    struct data_passed *p = &l->passed[l->n_passed++];
    *p = (struct data_passed){ .beside = beside, .line = l->line + 1 };
    snprintf(p->key, sizeof p->key, "%.47s", shown.s);
}

void data_warn_passed(const struct data_line *l, const char *name)
{
    char list[900] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < l->n_passed && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s\"%s\" %s (first in line %" PRIu64 ")",
                              i ? ", " : "", l->passed[i].key,
                              l->passed[i].beside ? "beside messages" : "in rows",
                              l->passed[i].line);
    if (l->n_passed)
        log_msg(HLM_LOG_WARN, "%.300s: keys that are passed over: %s", name, list);
}

/* Keys of rows that other trainers obey. All other keys of a row are notes of its owner. */
static void pass_over_row(struct data_line *l, json_t *row)
{
    static const char *const obeyed[] = {
        "weight",    "train",       "training", "loss",      "mask",
        "loss_mask", "loss_weight", "label",    "labels",    "history",
        "image",     "images",      "video",    "videos",    "audio",
        "audios",    "chosen",      "rejected", "functions", "chat_template_kwargs",
    };
    const char *key;
    json_t *v;
    json_object_foreach(row, key, v)
    {
        if (!json_is_null(v) && is_one_of(key, obeyed, ARRAY_LEN(obeyed)))
            pass_over(l, key, false);
    }
}

/* ---- which answers count --------------------------------------------------------------------- */

/* What a key that says whether to learn says: no, yes, or nothing that hlm could obey. */
static enum { LEARN_NO, LEARN_YES, LEARN_UNCLEAR } learn_of(const json_t *v)
{
    double x = json_is_number(v) ? json_number_value(v) : json_is_boolean(v) ? json_is_true(v) : -1;
    return x == 0 ? LEARN_NO : x == 1 ? LEARN_YES : LEARN_UNCLEAR;
}

static bool mark_of(struct data_line *l, json_t *message)
{
    static const char *const known[] = { "role", "content",    "reasoning_content",
                                         "name", "tool_calls", "tool_call_id",
                                         "id" };
    static const char *const says[] = { "weight", "train", "training", "loss" };
    const char *role = json_string_value(json_object_get(message, "role")), *key;
    bool answer = role && !strcmp(role, "assistant"), skip = false;
    json_t *v;
    json_object_foreach(message, key, v)
    {
        if (json_is_null(v) || is_one_of(key, known, ARRAY_LEN(known)))
            continue;
        bool is = is_one_of(key, says, ARRAY_LEN(says));
        int learn = is ? (int)learn_of(v) : LEARN_UNCLEAR;
        if (answer && learn == LEARN_NO)
            skip = true;
        else if (learn == LEARN_UNCLEAR || (!answer && learn == LEARN_YES))
            pass_over(l, key, true);
    }
    return skip;
}

bool data_marks(struct data_line *l, json_t *list, uint8_t *skip)
{
    size_t i;
    json_t *message;
    bool any = false;
    json_array_foreach(list, i, message)
    {
        skip[i] = mark_of(l, message);
        any = any || skip[i];
    }
    return any;
}

/* The keys of a row, by what they mean. */
struct form {
    json_t *list, *text, *system, *tools, *question, *input, *answer;
    const char *list_key, *question_key, *answer_key, *system_key;
    uint32_t n_list, n_question, n_answer;
};

/* ---- ShareGPT -------------------------------------------------------------------------------- */

static const char *role_of(const char *from)
{
    static const struct {
        const char *from, *role;
    } row[] = {
        { "human", "user" },
        { "user", "user" },
        { "gpt", "assistant" },
        { "chatgpt", "assistant" },
        { "assistant", "assistant" },
        { "model", "assistant" },
        { "bot", "assistant" },
        { "bing", "assistant" },
        { "bard", "assistant" },
        { "system", "system" },
        { "tool", "tool" },
        { "observation", "tool" },
        { "function_response", "tool" },
        { "function_call", "assistant" },
    };
    uint32_t i = 0;
    while (i < ARRAY_LEN(row) && strcmp(row[i].from, from))
        i++;
    return i < ARRAY_LEN(row) ? row[i].role : NULL;
}

/* The text of a call, {"name", "arguments"} as JSON, becomes the call. */
static bool set_call(struct data_line *l, size_t i, json_t *to, const json_t *value,
                     struct hlm_err *err)
{
    json_error_t e;
    json_t *call = json_is_string(value)
                       ? json_loadb(json_string_value(value), json_string_length(value),
                                    JSON_REJECT_DUPLICATES, &e)
                       : NULL;
    if (!call && json_is_string(value) && json_error_code(&e) == json_error_out_of_memory)
        return data_no_memory(l, err);
    if (!json_is_object(call)) {
        json_decref(call);
        return fail(err,
                    "%s: message %zu: \"value\" of \"function_call\" must be the text of an object "
                    "with \"name\" and \"arguments\"",
                    l->where, i + 1);
    }
    json_t *calls = json_array();
    bool ok =
        json_array_append_new(calls, call) == 0 && json_object_set(to, "tool_calls", calls) == 0;
    json_decref(calls);
    return ok || data_no_memory(l, err);
}

static bool set_turn(struct data_line *l, size_t i, json_t *to, struct hlm_err *err)
{
    const char *from = json_string_value(json_object_get(to, "from"));
    const char *role = from ? role_of(from) : NULL;
    json_t *value = json_object_get(to, "value");
    if (!role)
        return fail(err,
                    "%s: message %zu: \"from\" is \"%s\", expected human, gpt, system, tool or "
                    "function_call",
                    l->where, i + 1, from ? show_text(from, strlen(from), 40).s : "no string");
    bool call = !strcmp(from, "function_call");
    bool ok = json_object_set_new(to, "role", json_string(role)) == 0 &&
              (call || !value || json_object_set(to, "content", value) == 0);
    if (ok && call)
        ok = set_call(l, i, to, value, err);
    else if (!ok)
        data_no_memory(l, err);
    json_object_del(to, "from");
    json_object_del(to, "value");
    return ok;
}

/* The messages of a row as hlm has them, with a system message before them if the row has one; the
 * caller releases the list. Messages that are no objects are reported by chat_from_list(). */
static json_t *usual_messages(struct data_line *l, const struct form *f, struct hlm_err *err)
{
    json_t *list = f->list, *system = f->system;
    json_t *out = json_array(), *message;
    size_t i;
    bool ok = out || data_no_memory(l, err);
    json_t *first = json_array_get(list, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    const char *from = json_string_value(json_object_get(first, "from"));
    if (system && ((role && !strcmp(role, "system")) || (from && !strcmp(from, "system"))))
        pass_over(l, f->system_key, false);
    else if (ok && system)
        ok = json_array_append_new(
                 out, json_pack("{s:s, s:O}", "role", "system", "content", system)) == 0 ||
             data_no_memory(l, err);
    for (i = 0; ok && i < json_array_size(list); i++) {
        message = json_array_get(list, i);
        bool turn = json_object_get(message, "from") && !json_object_get(message, "role");
        json_t *to = turn ? json_copy(message) : json_incref(message);
        ok = (to || data_no_memory(l, err)) && (!turn || set_turn(l, i, to, err)) &&
             (json_array_append(out, to) == 0 || data_no_memory(l, err));
        json_decref(to);
    }
    if (!ok) {
        json_decref(out);
        return NULL;
    }
    return out;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* NULL for null, which tables written as JSON lines have in columns that a row does not use. */
static json_t *column(json_t *row, const char *key)
{
    json_t *v = json_object_get(row, key);
    return json_is_null(v) ? NULL : v;
}

static void take_first(json_t *row, const char *const *keys, uint32_t n, json_t **v,
                       const char **key, uint32_t *found)
{
    for (uint32_t i = 0; i < n; i++) {
        json_t *x = column(row, keys[i]);
        if (x && !*found) {
            *v = x;
            *key = keys[i];
        }
        *found += x != NULL;
    }
}

/* The same for an empty text, where a form may do without the column. */
static json_t *filled(json_t *row, const char *key)
{
    json_t *v = column(row, key);
    return json_is_string(v) && !json_string_length(v) ? NULL : v;
}

static struct form form_of(json_t *row)
{
    static const char *const lists[] = { "messages", "conversations" },
                             *const questions[] = { "prompt", "instruction", "question" },
                             *const answers[] = { "completion", "response", "output", "answer" };
    struct form f = { .text = column(row, "text"),
                      .system = filled(row, "system"),
                      .system_key = "system",
                      .tools = filled(row, "tools"),
                      .input = column(row, "input") };
    take_first(row, lists, ARRAY_LEN(lists), &f.list, &f.list_key, &f.n_list);
    take_first(row, questions, ARRAY_LEN(questions), &f.question, &f.question_key, &f.n_question);
    take_first(row, answers, ARRAY_LEN(answers), &f.answer, &f.answer_key, &f.n_answer);
    if (!f.system) {
        f.system = filled(row, "system_prompt");
        f.system_key = "system_prompt";
    }
    if (!f.n_question && f.input && f.answer) {
        f.question = f.input;
        f.question_key = "input";
        f.n_question = 1;
        f.input = NULL;
    }
    if (f.input)
        f.input = filled(row, "input");
    return f;
}

bool data_has_form(json_t *row)
{
    struct form f = form_of(row);
    return f.list || f.text || (f.question && f.answer);
}

bool data_refuse_form(struct data_line *l, json_t *row, bool none, struct hlm_err *err)
{
    char found[200] = "";
    size_t n = 0;
    const char *key;
    json_t *v;
    json_object_foreach(row, key, v)
    {
        if (n + 56 < sizeof found)
            n += (size_t)snprintf(found + n, sizeof found - n, "%s\"%s\"%s", n ? ", " : "",
                                  show_text(key, strlen(key), 30).s,
                                  json_is_null(v) ? " (null)" : "");
    }
    return fail(err,
                "%s: %s \"messages\", \"conversations\", \"prompt\" and \"completion\", "
                "\"instruction\" and \"output\", and \"text\", expected one of these; found %s",
                l->where, none ? "none of" : "more than one of", n ? found : "no key");
}

/* Beside messages or a text, a question or an answer is a note of the row's owner and is dropped. A
 * prompt beside a text, or any completion, is a second form. */
static void drop_doubles(struct data_line *l, struct form *f)
{
    bool prompt = f->question && !strcmp(f->question_key, "prompt");
    bool completion = f->answer && !strcmp(f->answer_key, "completion");
    if ((!f->list && !f->text) || completion || (prompt && f->text))
        return;
    if (f->question)
        pass_over(l, f->question_key, false);
    if (f->answer)
        pass_over(l, f->answer_key, false);
    f->question = f->answer = NULL;
    f->n_question = f->n_answer = 0;
}

static bool messages_form(struct data_line *l, const struct form *f, struct hlm_err *err)
{
    json_t *tools = NULL, *list = NULL;
    json_error_t e;
    char why[80];
    if (!json_is_array(f->list)) {
        snprintf(why, sizeof why, "\"%s\" must be a list", f->list_key);
        return data_bad(l, err, why);
    }
    if (f->system && !json_is_string(f->system))
        return data_bad(l, err, "\"system\" must be a string");
    if (json_is_string(f->tools) && json_string_length(f->tools) &&
        !(tools = json_loadb(json_string_value(f->tools), json_string_length(f->tools), 0, &e)))
        return json_error_code(&e) == json_error_out_of_memory
                   ? data_no_memory(l, err)
                   : data_bad(l, err, "the text of \"tools\" is not JSON");
    bool text = json_is_string(f->tools);
    bool ok = (list = usual_messages(l, f, err)) != NULL &&
              data_messages(l, list, text ? tools : f->tools, err);
    json_decref(list);
    json_decref(tools);
    return ok;
}

/* The question with its input after a line end, as Alpaca's trainers join them. NULL: no memory. */
static char *question_text(const struct form *f)
{
    size_t n = json_string_length(f->question), m = f->input ? json_string_length(f->input) : 0;
    char *text = mem_alloc(n + m + 2, 1);
    if (!text)
        return NULL;
    memcpy(text, json_string_value(f->question), n);
    if (m) {
        text[n] = '\n';
        memcpy(text + n + 1, json_string_value(f->input), m);
    }
    return text;
}

static bool pair_form(struct data_line *l, const struct form *f, struct hlm_err *err)
{
    static const char *const partner[][2] = { { "instruction", "output" },
                                              { "question", "answer" } };
    const char *q = f->question_key ? f->question_key : "prompt", *a = f->answer_key;
    if (!json_is_string(f->question) || !json_is_string(f->answer) ||
        (f->input && !json_is_string(f->input)) || (f->system && !json_is_string(f->system))) {
        for (uint32_t i = 0; !a && i < ARRAY_LEN(partner); i++)
            a = strcmp(q, partner[i][0]) ? NULL : partner[i][1];
        a = a ? a : "completion";
        if (!f->question || !f->answer)
            return fail(err, "%s: there is \"%s\" and no \"%s\", expected both", l->where,
                        f->question ? q : a, f->question ? a : q);
        return fail(err, "%s: \"%s\" and \"%s\"%s must %s be strings", l->where, q, a,
                    f->input ? " and \"input\"" : "", f->input ? "all" : "both");
    }
    char *question = question_text(f);
    const struct data_pair p = {
        .question = question,
        .system = f->system ? json_string_value(f->system) : NULL,
        .answer = json_string_value(f->answer),
    };
    bool ok = question ? data_pair(l, &p, err) : data_no_memory(l, err);
    if (l->p->raw_completion && f->system)
        pass_over(l, f->system_key, false);
    free(question);
    return ok;
}

bool data_object(struct data_line *l, json_t *row, struct hlm_err *err)
{
    struct form f = form_of(row);
    drop_doubles(l, &f);
    pass_over_row(l, row);
    bool pair = f.n_question || f.n_answer;
    if (!f.list + !f.text + !pair != 2 || f.n_list > 1 || f.n_question > 1 || f.n_answer > 1)
        return data_refuse_form(l, row, !f.list && !f.text && !pair, err);
    if (f.list)
        return messages_form(l, &f, err);
    if (f.tools && !(json_is_array(f.tools) && !json_array_size(f.tools)))
        return data_bad(l, err, "\"tools\" without \"messages\"");
    if (f.text)
        return json_is_string(f.text) ? data_text(l, f.text, err)
                                      : data_bad(l, err, "\"text\" must be a string");
    return pair_form(l, &f, err);
}
