/* serial: see the header. */
#include "serial.h"

#include "hlm_test.h"

#include <stdlib.h>
#include <string.h>

void serial_close(struct serial *s)
{
    cmd_destroy(s->cmd);
    arena_destroy(s->scratch);
    arena_destroy(s->mem);
    kv_finish(&s->kv);
}

static void record(struct serial *s, const struct model *m)
{
    struct cmd *c = s->cmd;
    tensor x = model_forward(c, m, &s->kv, &s->batch, NULL);
    cmd_begin_block(c);
    tensor normed = op_norm(c, x, m->output_norm, m->eps);
    op_nll(c, op_linear(c, normed, LINEARS(&m->output)), s->parts[0], &s->batch, 0);
    if (s->draft) {
        const struct draft *d = &m->draft[0];
        struct draft_input in = { m->arch->draft_raw ? x : normed,
                                  op_embed(c, d->token_embd, &s->next) };
        tensor y = model_draft(c, m, 0, &s->kv.layer[m->n_layer], &s->next, in);
        tensor v = op_norm(c, y, d->norm, m->eps);
        op_nll(c, op_linear(c, v, LINEARS(d->output)), s->parts[1], &s->next, 0);
    }
    op_advance(c, &s->batch);
}

bool serial_open(struct serial *s, const struct model *m, struct hlm_err *err)
{
    struct layer_shape shape[16];
    uint32_t n_layer = m->n_layer + m->n_draft;
    *s = (struct serial){ .g = m->gpu, .draft = m->n_draft > 0 };
    HLM_ASSERT(n_layer <= ARRAY_LEN(shape));
    for (uint32_t i = 0; i < n_layer; i++)
        shape[i] = m->arch->shape(m, i);
    s->mem = arena_create(s->g, "serial", MEM_DEVICE, err);
    s->scratch = arena_create(s->g, "scratch", MEM_DEVICE, err);
    s->cmd = s->scratch ? cmd_create(s->g, "serial", s->scratch, err) : NULL;
    if (!s->mem || !s->cmd ||
        !kv_init(&s->kv, s->g,
                 &(struct kv_params){ n_layer, shape, SERIAL_LONGEST, SERIAL_PIECE, 1, 2, F32 },
                 err))
        return false;
    s->batch.n_tok = SERIAL_PIECE;
    s->batch.n_seg = 1;
    s->batch.step = arena_tensor(s->mem, I32, sizeof(struct segment) / 4, 1);
    s->batch.ids = arena_tensor(s->mem, I32, SERIAL_LONGEST + 1, 1);
    s->next = s->batch;
    s->next.ids = arena_tensor(s->mem, I32, SERIAL_LONGEST + 1, 1);
    for (uint32_t i = 0; i < 2; i++)
        s->parts[i] = arena_tensor(s->mem, F32, NLL_PARTS, SERIAL_PIECE);
    record(s, m);
    return arena_commit(s->kv.kv, err) && arena_commit(s->kv.state, err) &&
           arena_commit(s->mem, err) && arena_commit(s->scratch, err) && cmd_end(s->cmd, err);
}

static bool zero(struct gpu *g, struct arena *a, struct hlm_err *err)
{
    uint64_t n = arena_bytes(a);
    uint8_t *v = test_room(n, 1);
    tensor all = {
        .arena = a, .dtype = I32, .n = (uint32_t)(n / 4), .n_row = 1, .stride = (uint32_t)(n / 4)
    };
    bool ok = !n || gpu_write(g, all, 0, v, n / 4 * 4, err);
    free(v);
    return ok;
}

bool serial_document(struct serial *s, const int32_t *ids, const uint8_t *mask, uint32_t n,
                     double *nll, double *mtp, struct hlm_err *err)
{
    int32_t row[SERIAL_LONGEST + 2] = { 0 };
    struct segment seg = { .slot_out = 1 };
    HLM_ASSERT(n <= SERIAL_LONGEST);
    memcpy(row, ids, n * sizeof *ids);
    bool ok = zero(s->g, s->kv.state, err) &&
              gpu_write(s->g, s->batch.step, 0, &seg, sizeof seg, err) &&
              gpu_write(s->g, s->batch.ids, 0, row, 4 * (SERIAL_LONGEST + 1), err) &&
              gpu_write(s->g, s->next.ids, 0, row + 1, 4 * (SERIAL_LONGEST + 1), err);
    for (uint32_t at = 0; ok && at < n; at += SERIAL_PIECE) {
        float parts[2][SERIAL_PIECE][NLL_PARTS];
        ok = cmd_submit(s->cmd, err) && gpu_wait(s->g, err);
        for (uint32_t k = 0; ok && k < (s->draft && mtp ? 2 : 1); k++) {
            ok = gpu_read(s->g, s->parts[k], 0, parts[k], sizeof parts[k], err);
            for (uint32_t i = 0, to = at + k + 1; ok && i < SERIAL_PIECE && to < n; i++, to++)
                if (!mask || mask[to])
                    (k ? mtp : nll)[to] = nll_from(parts[k][i]);
        }
    }
    return ok;
}
