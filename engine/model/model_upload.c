/* model_upload: packs and uploads the rows of everything that was bound. See model.h. */
#define _POSIX_C_SOURCE 200809L
#include "model/binder.h"
#include "ops/pack.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* The bytes of a row on the device. */
static uint64_t job_row_bytes(const struct upload_job *j)
{
    return j->t && !j->vector ? pack_row_bytes(j->t->type, j->n_in) : 4ull * j->n_in;
}

/* Writes rows [row, row + n) of a job to dst. */
struct upload_rows {
    const struct upload_job *j;
    uint64_t row, n, row_bytes;
    uint8_t *dst;
};

static void *write_rows(void *arg)
{
    const struct upload_rows *r = arg;
    const struct upload_job *j = r->j;
    uint8_t *dst = r->dst;
    uint64_t src_row = 0;
    if (!j->t) {
        memcpy(dst, (const uint8_t *)j->words + r->row * r->row_bytes, r->n * r->row_bytes);
        return NULL;
    }
    dtype_bytes(j->t->type, j->n_in, &src_row);
    for (uint64_t i = 0; i < r->n; i++, dst += r->row_bytes) {
        uint64_t row = j->row0 + r->row + i;
        float scale = j->scale ? bind_scale(j->scale, row / j->t->dim[1]) : 1;
        const uint8_t *src = j->t->data + row * src_row;
        if (!j->vector) {
            pack_row(j->t->type, src, j->n_in, dst);
            pack_scale(j->t->type, j->n_in, scale, dst);
            continue;
        }
        float *v = (float *)(void *)dst;
        dtype_to_f32(j->t->type, src, j->n_in, v);
        for (uint32_t k = 0; j->scale && k < j->n_in; k++)
            v[k] *= scale;
    }
    return NULL;
}

enum { MAX_THREAD = 16, THREAD_BYTES = 1 << 20 };

/* Packing is slower than the bus, so several threads share the rows when there are many. */
static void write_rows_on_threads(struct upload_rows all)
{
    struct upload_rows run[MAX_THREAD];
    pthread_t thread[MAX_THREAD];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t n = min_u64(all.n * all.row_bytes / THREAD_BYTES + 1, cores > 0 ? (uint64_t)cores : 1);
    n = min_u64(min_u64(n, MAX_THREAD), all.n);
    uint64_t started = 0, each = (all.n + n - 1) / n;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t first = min_u64(i * each, all.n);
        run[i] = all;
        run[i].row += first;
        run[i].dst += first * all.row_bytes;
        run[i].n = min_u64(each, all.n - first);
        if (i + 1 < n && started == i && !pthread_create(&thread[i], NULL, write_rows, &run[i]))
            started++;
        else
            write_rows(&run[i]);
    }
    for (uint64_t i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
}

static bool run_job(struct binder *b, const struct upload_job *j)
{
    struct gpu *g = b->m->gpu;
    uint64_t row_bytes = job_row_bytes(j), fit = gpu_stage_max(g) / row_bytes;
    if (fit == 0)
        return fail_as(b->err, HLM_ERR_UNSUPPORTED,
                       "%s: a row of %s needs %" PRIu64 " bytes, more than the upload buffer",
                       gguf_path(b->m->file), j->t ? j->t->name : "a table", row_bytes);
    for (uint64_t row = 0; row < j->n_row; row += fit) {
        struct upload_rows r = {
            .j = j, .row = row, .n = min_u64(fit, j->n_row - row), .row_bytes = row_bytes
        };
        r.dst = gpu_stage(g, b->m->weights, j->offset + row * row_bytes, r.n * row_bytes, b->err);
        if (!r.dst)
            return false;
        write_rows_on_threads(r);
    }
    return true;
}

bool upload_jobs(struct binder *b, bool (*progress)(void *, uint64_t, uint64_t), void *user)
{
    uint64_t done = 0, total = 0;
    for (uint64_t i = 0; i < b->n_job; i++)
        total += job_row_bytes(&b->job[i]) * b->job[i].n_row;
    for (uint64_t i = 0; i <= b->n_job; i++) {
        if (progress && !progress(user, done, total))
            return fail_stopped(b->err);
        if (i == b->n_job)
            break;
        if (!run_job(b, &b->job[i]))
            return false;
        done += job_row_bytes(&b->job[i]) * b->job[i].n_row;
    }
    return gpu_stage_end(b->m->gpu, b->err);
}
