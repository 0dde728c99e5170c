/* chat_words: see chat_words.h. */
#define _XOPEN_SOURCE 700
#include "chat_words.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* ---- words ----------------------------------------------------------------------------------- */

/* Takes the quotes and backslashes out of s[0 .. n), up to a blank outside of them where `stops`.
 * out has room for n bytes and a NUL. *open: the quote that has not been closed, or 0. Returns how
 * much was read. */
static size_t unquote(const char *s, size_t n, bool stops, char *out, char *open)
{
    char quote = 0;
    size_t at = 0, w = 0;
    for (; at < n; at++) {
        char c = s[at];
        if (quote && c == quote)
            quote = 0;
        else if (!quote && (c == '"' || c == '\''))
            quote = c;
        else if (c == '\\' && quote != '\'' && at + 1 < n && strchr(" \t\\\"'", s[at + 1]))
            out[w++] = s[++at];
        else if (!quote && stops && is_blank(c))
            break;
        else
            out[w++] = c;
    }
    out[w] = 0;
    *open = quote;
    return at;
}

/* Frees word, unless it is what is returned. */
static char *expand_home(char *word, const char *home)
{
    if (!word || !home || word[0] != '~' || (word[1] && word[1] != '/'))
        return word;
    size_t n = strlen(home);
    char *out = ui_alloc(n + strlen(word), 1);
    if (out) {
        memcpy(out, home, n);
        memcpy(out + n, word + 1, strlen(word));
    }
    free(word);
    return out;
}

char *word_next(const char **at, const char *home)
{
    char open;
    while (is_blank(**at))
        ++*at;
    size_t n = strlen(*at);
    char *word = n ? ui_alloc(n + 1, 1) : NULL;
    if (word)
        *at += unquote(*at, n, true, word, &open);
    return expand_home(word, home);
}

char *word_rest(const char *at, const char *home)
{
    char open;
    while (is_blank(*at))
        at++;
    size_t n = strlen(at);
    while (n && is_blank(at[n - 1]) && !(n > 1 && at[n - 2] == '\\'))
        n--;
    char *word = n ? ui_alloc(n + 1, 1) : NULL;
    if (word)
        unquote(at, n, *at == '"' || *at == '\'', word, &open);
    return expand_home(word, home);
}

size_t word_begin(const char *text, size_t from, size_t at)
{
    char *room = ui_alloc(at + 1, 1), open;
    size_t begin = from;
    while (room && from < at) {
        while (from < at && is_blank(text[from]))
            from++;
        begin = from;
        from += unquote(text + from, at - from, true, room, &open);
    }
    free(room);
    return begin;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* A path as word_next reads it: in quotes where it has blanks. A folder's are left open. A name
 * that could not be read back, or not be shown as it is, is not offered. */
static void add_path(const char *folder, const char *name, bool is_folder, struct choices *c)
{
    char path[4200], full[4200], back[4200], shown[300], open;
    bool quotes = strpbrk(folder, " \t'\\") || strpbrk(name, " \t'\\");
    int n = snprintf(path, sizeof path, "%s%s%s%s", quotes ? "\"" : "", folder, name,
                     is_folder ? "/"
                     : quotes  ? "\""
                               : "");
    snprintf(shown, sizeof shown, "%s%s", name, is_folder ? "/" : "");
    snprintf(full, sizeof full, "%s%s%s", folder, name, is_folder ? "/" : "");
    if (n <= 0 || (size_t)n >= sizeof path || !ui_is_clean(name) || strpbrk(name, "\n\t") ||
        strcmp(full, "~") == 0)
        return;
    unquote(path, (size_t)n, true, back, &open);
    if (strcmp(back, full) == 0)
        choices_add(c, path, shown, !is_folder);
}

void complete_path(const char *text, size_t from, size_t at, const char *home, const char *end,
                   struct choices *c)
{
    char *word = ui_alloc(at - from + 1, 1), open;
    struct dirent **entry = NULL;
    c->from = from;
    if (!word)
        return;
    unquote(text + from, at - from, false, word, &open);
    char *name = strrchr(word, '/');
    char *begins = ui_copy(name ? name + 1 : word, strlen(name ? name + 1 : word));
    if (name)
        name[1] = 0;
    else
        word[0] = 0;
    char *folder = expand_home(ui_copy(*word ? word : "./", *word ? strlen(word) : 2), home);
    int n = folder && begins ? scandir(folder, &entry, NULL, alphasort) : 0;
    for (int i = 0; i < n; i++) {
        const char *s = entry[i]->d_name;
        char path[4200];
        struct stat st;
        snprintf(path, sizeof path, "%s%s", folder, s);
        bool hidden = s[0] == '.' && (begins[0] != '.' || !strcmp(s, ".") || !strcmp(s, ".."));
        if (!hidden && strncmp(s, begins, strlen(begins)) == 0 && stat(path, &st) == 0 &&
            (S_ISDIR(st.st_mode) || !end || ui_ends_with(s, end)))
            add_path(word, s, S_ISDIR(st.st_mode), c);
        free(entry[i]);
    }
    free(entry);
    free(folder);
    free(begins);
    free(word);
}

void word_file_name(const char *text, const char *date, char *out, size_t size)
{
    enum { MOST = 40, MOST_WORDS = 5 };
    uint32_t n_word = 0;
    size_t at = (size_t)snprintf(out, size, "chat-%s", date), end = at + MOST;
    bool between = true;
    for (; *text && at + 2 < size && at < end; text++) {
        bool upper = *text >= 'A' && *text <= 'Z';
        bool letter = upper || (*text >= 'a' && *text <= 'z') || (*text >= '0' && *text <= '9');
        if (letter && between && ++n_word > MOST_WORDS)
            break;
        if (letter && between)
            out[at++] = '-';
        if (letter)
            out[at++] = upper ? (char)(*text + 32) : *text;
        between = !letter && *text != '\'';
    }
    out[at] = 0;
}
