/* data_lines: shared by the tests of training data: a small vocabulary, lines of JSON, and the
 * documents of a set as marked text. */
#pragma once
#include "train/data.h"
#include "test.h"

#include <string.h>

/* The vocabulary has 256 bytes, some merges, and ChatML's and Qwen's control tokens. */
extern struct gguf *lines_vocab;
extern struct tok *lines_tok;
/* Opens a case and the vocabulary. False: the case failed. */
bool lines_open(void);
void lines_close(void);

/* Parameters with the vocabulary and a chat format. */
struct data_params lines_params(const char *format);
/* data_parse() of a text under the name some.jsonl. */
bool lines_parse(struct data_set *s, const char *lines, const struct data_params *p,
                 struct hlm_err *err);
/* The documents of a set as text: a line of dashes between them, counted tokens in [[ ]]. */
void lines_marked(const struct data_set *s, char *to, size_t room);
/* Checks that the numbers of a set agree with each other. */
void lines_check(const struct data_set *s, uint32_t max_seq);
/* One file for data_load(). */
#define ONE(path) (&(struct data_files){ .train = (const char *[]){ path }, .n_train = 1 })
/* Writes a text file. */
void lines_file(const char *path, const char *text);

#define SAME(a, b, n) ((n) == 0 || !memcmp((a), (b), (n) * sizeof *(a)))

/* Lines of JSON: messages of the roles, and a conversation of them. */
#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define SAYS(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define THINKS(why, text)                                                                          \
    "{\"role\":\"assistant\",\"reasoning_content\":\"" why "\",\"content\":\"" text "\"}"
#define ROW(...) "{\"messages\":[" __VA_ARGS__ "]}"
#define TOOL_ROW(...) "{\"tools\":[{\"name\":\"f\"}],\"messages\":[" __VA_ARGS__ "]}"
#define CALL(name, args) "{\"function\":{\"name\":\"" name "\",\"arguments\":" args "}}"
#define CALLS(name, args) "{\"role\":\"assistant\",\"tool_calls\":[" CALL(name, args) "]}"
#define THINKS_CALLS(why, text, name, args)                                                        \
    "{\"role\":\"assistant\",\"reasoning_content\":\"" why "\",\"content\":\"" text "\","          \
    "\"tool_calls\":[" CALL(name, args) "]}"
#define GAVE(text) "{\"role\":\"tool\",\"content\":\"" text "\"}"

/* A conversation of two questions and two answers; the same with reasoning. */
#define TALK2 ROW(USER("a") "," SAYS("b") "," USER("c") "," SAYS("d"))
#define THOUGHT2 ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," THINKS("how", "d"))

/* Their prompts in ChatML. */
#define S(role) "<|im_start|>" role "\n"
#define E "<|im_end|>"
#define ASKED(text) S("user") text E "\n" S("assistant")
