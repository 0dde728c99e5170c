/* chat_edit: what each key does at the prompt - the bindings, going through the history, searching
 * in it, completing. It reads and writes nothing: chat_term does that. */
#pragma once
#include "chat_history.h"
#include "chat_keys.h"
#include "chat_line.h"
#include "chat_screen.h"

/* What may take the place of the bytes from `from` up to the cursor. */
struct choices {
    size_t from;
    struct choice {
        char *text;  /* that comes there */
        char *shown; /* in a list; NULL: the text */
        bool whole;  /* nothing belongs to it that is not typed yet: a blank may follow */
    } * v;
    uint32_t n, cap;
};
/* Adds copies; shown may be NULL. */
void choices_add(struct choices *c, const char *text, const char *shown, bool whole);
void choices_free(struct choices *c);

struct edit_hooks {
    /* Does this message go on, so that Enter begins a new line of it? */
    bool (*is_open)(const char *text, size_t n);
    /* Fills c for the text up to the cursor. May be NULL. */
    void (*complete)(void *user, const char *text, size_t at, struct choices *c);
    void *user;
};

struct edit {
    struct edit_hooks hooks;
    struct history *history;
    struct line line;
    uint32_t at_entry;   /* of the history that is shown; history->n: the new message */
    char *draft;         /* the new message, while others are shown */
    bool ctrl_x;         /* was pressed: another key follows */
    bool tabbed;         /* the last key was a Tab that could not go on */
    struct choices list; /* to be shown below, when a second Tab asks for it */
    struct {
        bool on, failed;
        struct line query;
        uint32_t hit;
        char *before; /* the line as it was */
        size_t before_at;
    } search;
};

enum edit_did {
    EDIT_ON,     /* the line, the cursor or nothing has changed */
    EDIT_DONE,   /* Enter: the message is whole */
    EDIT_LEAVE,  /* Ctrl-D on an empty line */
    EDIT_CANCEL, /* Ctrl-C */
    EDIT_STOP,   /* Ctrl-Z */
    EDIT_QUIT,   /* Ctrl-\ */
    EDIT_CLEAR,  /* Ctrl-L: clear the screen */
    EDIT_WRITE,  /* Ctrl-X Ctrl-E: the person's editor is asked for */
    EDIT_LIST,   /* the list is to be shown */
};

/* Begins a message, with this text in it. */
void edit_begin(struct edit *e, const char *text);
enum edit_did edit_key(struct edit *e, const struct key *k);
void edit_paste(struct edit *e, const char *s, size_t n);
/* What is to be drawn. prompt: when no search is on; the picture is valid until the next key. */
struct picture edit_picture(const struct edit *e, const char *prompt, char *room, size_t n_room);
void edit_free(struct edit *e);
