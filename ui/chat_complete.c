/* chat_complete: what a line at the prompt may go on with - commands, settings, paths, adapters. */
#include "chat_slash.h"
#include "chat_words.h"

#include "common.h"

#include <string.h>

static void add_if(const char *word, const char *text, size_t n, struct choices *c)
{
    if (strncmp(word, text, n) == 0)
        choices_add(c, word, NULL, true);
}

/* The words between [ ] | of "[on|off]"; capitals stand for something else. */
static void add_words(const char *words, const char *text, size_t n, struct choices *c)
{
    while (*words) {
        char word[32];
        size_t len = strcspn(words, "[]| ");
        if (len && len < sizeof word && words[0] >= 'a' && words[0] <= 'z') {
            memcpy(word, words, len);
            word[len] = 0;
            add_if(word, text, n, c);
        }
        words += len + (words[len] != 0);
    }
}

/* NAME VALUE: the name, or the words that the value may be. */
static void complete_setting(const struct slash *s, const char *text, size_t from, size_t at,
                             struct choices *c)
{
    char name[32];
    const struct flag *f;
    size_t begin = word_begin(text, from, at);
    c->from = begin;
    for (uint32_t i = 0; (f = slash_setting(s, i, name, sizeof name)); i++) {
        size_t n = strlen(name);
        if (begin == from)
            add_if(name, text + from, at - from, c);
        else if ((f->type == FLAG_CHOICE || f->type == FLAG_SWITCH) &&
                 strncmp(text + from, name, n) == 0 && text_is_blank(text[from + n]))
            add_words(f->type == FLAG_SWITCH ? "on|off" : f->arg, text + begin, at - begin, c);
    }
}

void slash_complete(void *user, const char *text, size_t at, struct choices *c)
{
    const struct slash *s = user;
    size_t n = strcspn(text, " \t"), from = n + strspn(text + n, " \t"), begin;
    const char *home = dir_home();
    if (text[0] != '/' || memchr(text, '\n', at))
        return;
    for (const struct slash_command *k = slash_commands; k->name; k++) {
        if (at <= n) {
            add_if(k->name, text, at, c);
            continue;
        }
        if (strlen(k->name) != n || memcmp(k->name, text, n) != 0 || at < from)
            continue;
        switch (k->arg) {
        case ARG_PATH: complete_path(text, from, at, home, NULL, c); break;
        case ARG_FILE:
            if (word_begin(text, from, at) == from)
                complete_path(text, from, at, home, NULL, c);
            break;
        case ARG_ADAPTERS:
            begin = word_begin(text, from, at);
            complete_path(text, begin, at, home, ".gguf", c);
            if (begin == from)
                add_if("off", text + from, at - from, c);
            break;
        case ARG_SETTING: complete_setting(s, text, from, at, c); break;
        case ARG_WORD:
            c->from = from;
            add_words(k->args, text + from, at - from, c);
            break;
        default: break;
        }
    }
}
