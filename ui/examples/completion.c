/* completion: goes on with a text.
 *
 *     cc completion.c -o completion $(pkg-config --cflags --libs hlm)
 *     ./completion MODEL.gguf "Once upon a time" */
#include <hlm.h>

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct hlm_err err = HLM_ZERO;
    struct hlm_params params = HLM_ZERO;
    params.model = argv[1];
    struct hlm_session_params session_params = HLM_ZERO;
    session_params.n_ctx = 512;
    struct hlm_ids ids = HLM_ZERO;
    hlm_session *s = NULL;
    hlm *m = hlm_open(&params, &err);
    hlm_vocab *v = m ? hlm_get_vocab(m, &err) : NULL;

    /* The prompt as tokens, read into a session's caches. */
    bool ok = v && hlm_add_bos(v, &ids, &err) &&
              hlm_tokenize(v, argv[2], strlen(argv[2]), true, &ids, &err) &&
              (s = hlm_session_create(m, &session_params, &err)) != NULL &&
              hlm_session_sync(s, ids.id, ids.n, NULL, 0, NULL, NULL, &err);

    /* One token after the other, until the model ends its text. */
    struct hlm_sampling sampling = HLM_ZERO;
    if (ok)
        sampling = hlm_sampling_default(m);
    for (int i = 0; ok && i < 64; i++) {
        int32_t id;
        ok = hlm_session_next(s, &sampling, &id, &err);
        if (!ok || hlm_is_end(v, id))
            break;
        struct hlm_str text = hlm_token_text(v, id);
        fwrite(text.p, 1, text.n, stdout);
        fflush(stdout);
    }
    putchar('\n');

    if (!ok)
        fprintf(stderr, "%s\n", err.msg);
    hlm_session_destroy(s);
    hlm_ids_free(&ids);
    hlm_close(m);
    return !ok;
}
