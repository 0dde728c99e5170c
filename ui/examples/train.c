/* train: teaches a model the answers of a file of JSON lines, and writes the adapter.
 *
 *     cc train.c -o train $(pkg-config --cflags --libs hlm)
 *     ./train MODEL.gguf DATA.jsonl ADAPTER.gguf [STEPS] */
#include <hlm_train.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    struct hlm_err err = HLM_ZERO;
    struct hlm_params params = HLM_ZERO;
    params.model = argv[1];
    struct hlm_tune_params p = hlm_tune_defaults();
    params.dry = true; /* hlm_tune_begin loads the weights, once it is known that all of it fits */
    p.data = argv[2];
    p.train.steps = argc > 4 ? (uint32_t)atoi(argv[4]) : 0;

    hlm *m = hlm_open(&params, &err);
    hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
    bool ok = t && hlm_tune_begin(t, NULL, &err);
    uint32_t n_step = ok ? hlm_tune_get_info(t).train->steps : 0;
    for (uint32_t i = 0; ok && i < n_step; i++) {
        struct hlm_tune_step step;
        ok = hlm_tune_do_step(t, &step, &err);
        if (ok)
            printf("step %u of %u, loss %.4f\n", i + 1, n_step, step.loss);
    }
    ok = ok && hlm_tune_write(t, argv[3], &err);

    if (!ok)
        fprintf(stderr, "%s\n", err.msg);
    hlm_tune_close(t);
    hlm_close(m);
    return !ok;
}
