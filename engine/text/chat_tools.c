/* chat_tools: renders tools and calls as the published templates do. See chat_parts.h.
 *
 * JSON is written like Python's json.dumps with ensure_ascii off. Where a template prints a value
 * itself, it is written like Python's str(): True, None, and lists of quoted strings. A real number
 * is the shortest text that reads back as the same number, in Python's form. */
#include "text/chat_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define XML_CALL                                                                                   \
    "\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"  \
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n"    \
    "</parameter>\n<parameter=example_parameter_2>\nThis is the value for the second parameter\n"  \
    "that can span\nmultiple lines\n</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\n"      \
    "Reminder:\n- Function calls MUST follow the specified format: an inner "
#define XML_END                                                                                    \
    "\n</tools>" XML_CALL                                                                          \
    "<function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"     \
    "- Required parameters MUST be specified\n"                                                    \
    "- You may provide optional reasoning for your function call in natural language BEFORE the "  \
    "function call, but NOT after\n"                                                               \
    "- If there is no function call available, answer the question like normal with your current " \
    "knowledge and do not tell the user about function calls\n</IMPORTANT>"

#define QWEN35                                                                                     \
    .list = "# Tools\n\nYou have access to the following functions:\n\n<tools>",                   \
    .list_end = XML_END, .system = SYSTEM_LAST, .call_xml = true, .first = "\n\n", .next = "\n",   \
    .end = "", .role = "user", .open = "<tool_response>\n", .close = "\n</tool_response>",         \
    .between = "\n", .not_first = true

const struct chat_tools chat_tools_qwen3 = {
    .list = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou "
            "are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    .list_end = "\n</tools>\n\nFor each function call, return a json object with function name and "
                "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": "
                "<function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
    .first = "\n",
    .next = "\n",
    .end = "",
    .role = "user",
    .open = "<tool_response>\n",
    .close = "\n</tool_response>",
    .between = "\n",
};
const struct chat_tools chat_tools_qwen35 = { QWEN35 },
                        chat_tools_qwen36 = { QWEN35, .value_json = true };
const struct chat_tools chat_tools_nemotron = {
    .list = "# Tools\n\nYou have access to the following functions:\n\n<tools>",
    .list_end = XML_END,
    .list_xml = true,
    .system = SYSTEM_FIRST_IF_ANY,
    .call_xml = true,
    .first = "\n",
    .next = "",
    .end = "\n",
    .role = "user",
    .open = "<tool_response>\n",
    .close = "\n</tool_response>\n",
    .between = "",
    .not_first = true,
};
const struct chat_tools chat_tools_step = {
    .list = "# Tools\n\nYou have access to the following functions in JSONSchema format:\n\n"
            "<tools>",
    .list_end = "\n</tools>" XML_CALL "<function=...>\n...\n</function> block must be nested "
                "within <tool_call>\n...\n</tool_call> XML tags\n"
                "- Required parameters MUST be specified\n</IMPORTANT>",
    .call_xml = true,
    .first = "",
    .next = "",
    .end = "",
    .role = "tool_response",
    .open = "<tool_response>",
    .close = "</tool_response>",
    .between = "",
};

/* ---- values as Python writes them ------------------------------------------------------------ */

static void words(struct prompt_builder *b, const char *s) { prompt_text(b, str_of(s)); }

static struct hlm_str text_of(const json_t *j)
{
    return (struct hlm_str){ json_string_value(j), json_string_length(j) };
}

/* A number above 0 in decimal: 0.DDD times 10^exp. Digits only: a decimal point depends on the
 * locale. */
struct decimal {
    char digits[24];
    int n, exp;
};

static struct decimal decimal_of(double v, int n)
{
    struct decimal x = { .n = n };
    char s[48];
    snprintf(s, sizeof s, "%.*e", n - 1, v);
    const char *e = strchr(s, 'e');
    for (int k = 0, i = 0; k < n && s[i] && s[i] != 'e'; i++)
        if (s[i] >= '0' && s[i] <= '9')
            x.digits[k++] = s[i];
    x.exp = e ? atoi(e + 1) + 1 : 1;
    return x;
}

static bool reads_as(const struct decimal *x, double v)
{
    char s[48];
    snprintf(s, sizeof s, "%se%d", x->digits, x->exp - x->n);
    return strtod(s, NULL) == v;
}

/* Adds one in the last place. */
static void bump(struct decimal *x)
{
    int i = x->n;
    while (i > 0 && x->digits[i - 1] == '9')
        x->digits[--i] = '0';
    if (i > 0) {
        x->digits[i - 1]++;
    } else {
        x->digits[0] = '1';
        x->exp++;
    }
}

/* v > 0 in the fewest digits that read back as v. The rounded number may fail where the next one
 * does not: below a power of two floats lie closer together than above it. */
static struct decimal shortest(double v)
{
    struct decimal x = decimal_of(v, 17);
    for (int n = 1; n < 17; n++) {
        struct decimal less = decimal_of(v, n), next = less;
        bump(&next);
        if (reads_as(&less, v) || reads_as(&next, v)) {
            x = reads_as(&less, v) ? less : next;
            break;
        }
    }
    return x;
}

/* Python's repr() of a real number. It has a decimal point or, below 1e-4 and from 1e16 on, an
 * exponent. */
static void put_real(struct prompt_builder *b, double v)
{
    static const char zeros[] = "0000000000000000";
    char s[64];
    if (v == 0 ? 1 / v < 0 : v < 0)
        words(b, "-");
    if (v == 0) {
        words(b, "0.0");
        return;
    }
    struct decimal x = shortest(v < 0 ? -v : v);
    if (x.exp > -4 && x.exp <= 0)
        snprintf(s, sizeof s, "0.%.*s%s", -x.exp, zeros, x.digits);
    else if (x.exp > 0 && x.exp <= 16)
        snprintf(s, sizeof s, "%.*s%.*s.%s", x.exp, x.digits, x.exp > x.n ? x.exp - x.n : 0, zeros,
                 x.n > x.exp ? x.digits + x.exp : "0");
    else
        snprintf(s, sizeof s, "%c%s%se%c%02d", x.digits[0], x.n > 1 ? "." : "", x.digits + 1,
                 x.exp > 0 ? '+' : '-', x.exp > 0 ? x.exp - 1 : 1 - x.exp);
    words(b, s);
}

static void put_whole(struct prompt_builder *b, json_int_t v)
{
    char s[32];
    snprintf(s, sizeof s, "%lld", (long long)v);
    words(b, s);
}

/* The escape sequence for a character inside quotes; NULL: it needs none. */
static const char *escape(char c, char room[8])
{
    static const char from[] = "\\\"\b\f\n\r\t", to[] = "\\\"bfnrt";
    if ((unsigned char)c >= 0x20 && c != '"' && c != '\\')
        return NULL;
    const char *p = c ? strchr(from, c) : NULL;
    if (p) /* without printf, since a text may have many of these */
        memcpy(room, (char[]){ '\\', to[p - from], 0 }, 3);
    else
        snprintf(room, 8, "\\u%04x", (unsigned)c);
    return room;
}

static void put_quoted(struct prompt_builder *b, struct hlm_str s)
{
    words(b, "\"");
    for (uint64_t i = 0, from = 0; i <= s.n; i++) {
        char room[8];
        const char *e = i < s.n ? escape(s.p[i], room) : "\"";
        if (!e)
            continue;
        prompt_text(b, (struct hlm_str){ s.p + from, i - from });
        words(b, e);
        from = i + 1;
    }
}

/* Python's str.isprintable(): false for control, format, private and unassigned characters, and for
 * all spaces but the plain one. */
static bool printable(utf8proc_int32_t cp)
{
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

static void put_repr_text(struct prompt_builder *b, struct hlm_str s)
{
    const char *quote = memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n) ? "\"" : "'";
    words(b, quote);
    for (uint64_t i = 0; i < s.n;) {
        utf8proc_int32_t cp = -1;
        utf8proc_ssize_t n =
            utf8proc_iterate((const uint8_t *)s.p + i, (utf8proc_ssize_t)(s.n - i), &cp);
        char room[16] = "";
        n = n < 1 ? 1 : n; /* never: jansson has checked the UTF-8 */
        unsigned c = (unsigned)cp;
        if (c == '\n' || c == '\r' || c == '\t' || c == '\\' || c == (unsigned)*quote)
            snprintf(room, sizeof room, "\\%c",
                     c == '\n'   ? 'n'
                     : c == '\r' ? 'r'
                     : c == '\t' ? 't'
                                 : (char)c);
        else if (!printable(cp))
            snprintf(room, sizeof room,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     c);
        if (*room)
            words(b, room);
        else
            prompt_text(b, (struct hlm_str){ s.p + i, (uint64_t)n });
        i += (uint64_t)n;
    }
    words(b, quote);
}

/* JSON and Python's repr() differ in quoted strings and in three words. */
struct dialect {
    void (*text)(struct prompt_builder *b, struct hlm_str s);
    const char *yes, *no, *none;
};
static const struct dialect as_json = { put_quoted, "true", "false", "null" },
                            as_repr = { put_repr_text, "True", "False", "None" };

/* jansson, which has read the value, limits how deep it nests. */
static void put(struct prompt_builder *b, const struct dialect *in, json_t *j)
{
    const char *key, *sep = "";
    json_t *v;
    size_t i;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        words(b, "{");
        json_object_foreach(j, key, v)
        {
            words(b, sep);
            in->text(b, str_of(key));
            words(b, ": ");
            put(b, in, v);
            sep = ", ";
        }
        words(b, "}");
        break;
    case JSON_ARRAY:
        words(b, "[");
        json_array_foreach(j, i, v)
        {
            words(b, i ? ", " : "");
            put(b, in, v);
        }
        words(b, "]");
        break;
    case JSON_STRING: in->text(b, text_of(j)); break;
    case JSON_INTEGER: put_whole(b, json_integer_value(j)); break;
    case JSON_REAL: put_real(b, json_real_value(j)); break;
    case JSON_TRUE: words(b, in->yes); break;
    case JSON_FALSE: words(b, in->no); break;
    case JSON_NULL: words(b, in->none); break;
    }
}

static void put_json(struct prompt_builder *b, json_t *j) { put(b, &as_json, j); }

/* Python's str(): a string is not quoted. */
static void put_str(struct prompt_builder *b, json_t *j)
{
    if (json_is_string(j))
        prompt_text(b, text_of(j));
    else
        put(b, &as_repr, j);
}

/* The usual form of a value in templates: JSON for lists and objects, str() for the rest. */
static void put_value(struct prompt_builder *b, json_t *j, bool json)
{
    if (json_is_object(j) || json_is_array(j) || (json && !json_is_string(j)))
        put_json(b, j);
    else
        put_str(b, j);
}

/* ---- the list -------------------------------------------------------------------------------- */

static json_t *function_of(json_t *j)
{
    json_t *f = json_object_get(j, "function");
    return f ? f : j;
}

static void put_tag(struct prompt_builder *b, const char *before, const char *name,
                    const char *after)
{
    prompt_put(b, before);
    words(b, name);
    prompt_put(b, after);
}

/* The keys of a schema that have not been written as tags yet. */
static void put_others(struct prompt_builder *b, json_t *j, const char *const *known, uint32_t n)
{
    const char *key;
    json_t *v;
    json_object_foreach(j, key, v)
    {
        uint32_t i = 0;
        while (i < n && strcmp(key, known[i]))
            i++;
        if (i < n)
            continue;
        put_tag(b, "\n<", key, ">");
        put_value(b, v, false);
        put_tag(b, "</", key, ">");
    }
}

static void put_description(struct prompt_builder *b, json_t *j)
{
    json_t *v = json_object_get(j, "description");
    if (!v)
        return;
    prompt_put(b, "\n<description>");
    if (json_is_string(v))
        prompt_text(b, str_strip(text_of(v), BOTH));
    else
        put(b, &as_repr, v);
    prompt_put(b, "</description>");
}

static void put_parameter(struct prompt_builder *b, const char *name, json_t *j)
{
    static const char *const known[] = { "name", "type", "description", "enum" };
    json_t *type = json_object_get(j, "type"), *list = json_object_get(j, "enum");
    put_tag(b, "\n<parameter>\n<name>", name, "</name>");
    if (type) {
        prompt_put(b, "\n<type>");
        put_str(b, type);
        prompt_put(b, "</type>");
    }
    put_description(b, j);
    if (list) {
        prompt_put(b, "\n<enum>");
        put_json(b, list);
        prompt_put(b, "</enum>");
    }
    put_others(b, j, known, ARRAY_LEN(known));
    prompt_put(b, "\n</parameter>");
}

static void put_function(struct prompt_builder *b, json_t *f)
{
    static const char *const of_all[] = { "type", "properties", "required" }, *const of_it[] = {
        "type", "name", "description", "parameters"
    };
    json_t *all = json_object_get(f, "parameters"), *v;
    json_t *required = json_object_get(all, "required");
    const char *key;
    put_tag(b, "\n<function>\n<name>", json_string_value(json_object_get(f, "name")), "</name>");
    put_description(b, f);
    prompt_put(b, "\n<parameters>");
    json_object_foreach(json_object_get(all, "properties"), key, v) put_parameter(b, key, v);
    put_others(b, all, of_all, ARRAY_LEN(of_all));
    if (required) {
        prompt_put(b, "\n<required>");
        put_json(b, required);
        prompt_put(b, "</required>");
    }
    prompt_put(b, "\n</parameters>");
    put_others(b, f, of_it, ARRAY_LEN(of_it));
    prompt_put(b, "\n</function>");
}

void chat_put_tools(struct prompt_builder *b, const struct chat_tools *t, json_t *list)
{
    size_t i;
    json_t *tool;
    prompt_put(b, t->list);
    json_array_foreach(list, i, tool)
    {
        if (t->list_xml) {
            put_function(b, function_of(tool));
        } else {
            prompt_put(b, "\n");
            put_json(b, tool);
        }
    }
    prompt_put(b, t->list_end);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void put_call_xml(struct prompt_builder *b, const struct chat_tools *t,
                         const struct chat_call *c)
{
    const char *key;
    json_t *v;
    put_tag(b, "<tool_call>\n<function=", c->name, ">\n");
    json_object_foreach(c->args, key, v)
    {
        put_tag(b, "<parameter=", key, ">\n");
        put_value(b, v, t->value_json);
        prompt_put(b, "\n</parameter>\n");
    }
    prompt_put(b, "</function>\n</tool_call>");
}

static void put_call_json(struct prompt_builder *b, const struct chat_call *c)
{
    put_tag(b, "<tool_call>\n{\"name\": \"", c->name, "\", \"arguments\": ");
    if (c->args_text)
        words(b, c->args_text);
    else
        put_json(b, c->args);
    prompt_put(b, "}\n</tool_call>");
}

void chat_put_calls(struct prompt_builder *b, const struct chat_tools *t, const struct chat_msg *m,
                    bool after_text)
{
    for (uint32_t i = 0; i < m->n_call; i++) {
        prompt_put(b, i ? t->next : after_text ? t->first : "");
        if (t->call_xml)
            put_call_xml(b, t, &m->call[i]);
        else
            put_call_json(b, &m->call[i]);
        prompt_put(b, t->end);
    }
}

bool chat_tools_check(json_t *j, const char *name, json_t **tools, struct hlm_err *err)
{
    size_t i;
    json_t *tool;
    *tools = NULL;
    if (!j || json_is_null(j))
        return true;
    if (!json_is_array(j))
        return fail(err, "%s: \"tools\" must be a list", name);
    json_array_foreach(j, i, tool) if (!json_is_string(json_object_get(
                                           function_of(tool),
                                           "name"))) return fail(err,
                                                                 "%s: tool %llu must be an object "
                                                                 "with a \"name\", or with a "
                                                                 "\"function\" that has one",
                                                                 name, (unsigned long long)i + 1);
    *tools = json_array_size(j) ? j : NULL;
    return true;
}
