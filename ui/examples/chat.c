/* chat: a conversation, a line a message. Ctrl-D ends it.
 *
 *     cc chat.c -o chat $(pkg-config --cflags --libs hlm)
 *     ./chat MODEL.gguf */
#include <hlm.h>

#include <stdio.h>
#include <string.h>

/* The answer as it is made; reasoning stays unseen. */
static void show(void *user, enum hlm_part part, const char *s, uint64_t n)
{
    (void)user;
    if (part == HLM_PART_ANSWER)
        fwrite(s, 1, n, stdout);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct hlm_err err = HLM_ZERO;
    struct hlm_params params = HLM_ZERO;
    params.model = argv[1];
    struct hlm_talk_params talk_params = HLM_ZERO;
    talk_params.session.n_ctx = 2048;
    hlm *m = hlm_open(&params, &err);
    hlm_talk *t = m ? hlm_talk_open(m, &talk_params, &err) : NULL;
    char line[4096];
    if (t)
        hlm_talk_options(t)->text = show;

    while (t && printf("> ") > 0 && fflush(stdout) == 0 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!hlm_talk_say(t, line, NULL, &err))
            printf("(%s)", err.msg);
        putchar('\n');
    }

    if (!t)
        fprintf(stderr, "%s\n", err.msg);
    hlm_talk_close(t);
    hlm_close(m);
    return t == NULL;
}
