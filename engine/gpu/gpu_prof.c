/* gpu_prof: time stamps. While a gpu profiles, one is taken per dispatch. Otherwise there is one
 * pair around a cmd that is large enough to measure the device's speed, by which gpu_cmd.c decides
 * how much work a submission may have. */
#include "gpu/vk.h"

#include <stdlib.h>
#include <string.h>

#define MIN_TIMED_S 0.002 /* in shorter runs the submission takes more time than the work */

static const char *time_name(uint32_t i)
{
    return i < KERNEL_COUNT ? kernel_table[i].name : i == KERNEL_COUNT ? "copy" : "fill";
}

bool prof_begin(struct cmd *c, struct hlm_err *err)
{
    struct gpu *g = c->g;
    bool large = c->flop > g->flop_s * MIN_TIMED_S;
    c->now.profiled = g->profile;
    c->now.n_query = g->tick_us <= 0 || !c->n_entry ? 0
                     : c->now.profiled              ? c->n_entry + 1
                     : large                        ? 2
                                                    : 0;
    if (c->now.n_query)
        VKTRY(vkCreateQueryPool(g->dev,
                                &(VkQueryPoolCreateInfo){
                                    .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                    .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                    .queryCount = c->now.n_query,
                                },
                                NULL, &c->now.query));
    return true;
fail:
    return false;
}

/* The stamp before entry i is also the end of entry i - 1. So dispatches that overlap share their
 * time, and the sum is the time of the whole list. */
void prof_stamp(struct cmd *c, VkCommandBuffer cb, uint32_t i_entry)
{
    if (!c->now.query || (i_entry && !c->now.profiled))
        return;
    if (i_entry == 0)
        vkCmdResetQueryPool(cb, c->now.query, 0, c->now.n_query);
    vkCmdWriteTimestamp(cb, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, c->now.query, i_entry);
}

void prof_stamp_end(struct cmd *c, VkCommandBuffer cb)
{
    if (c->now.query)
        vkCmdWriteTimestamp(cb, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, c->now.query,
                            c->now.n_query - 1);
}

static void add_time(struct cmd *c, const struct cmd_entry *e, double us)
{
    struct gpu_kernel_time *t = &c->g->time[e->op == OP_DISPATCH ? (uint32_t)e->k
                                            : e->op == OP_COPY   ? KERNEL_COUNT
                                                                 : KERNEL_COUNT + 1];
    t->n++;
    t->us += us;
    if (e->layer < ARRAY_LEN(c->g->layer_us))
        c->g->layer_us[e->layer] += us;
    t->flop += e->flop;
    for (uint32_t i = 0; i < e->n_use; i++)
        t->bytes += c->use[e->use + i].bytes;
}

/* A new cmd is cut by half the slowest speed measured; a cmd that has run, by its own speed. */
static void learn_speed(struct cmd *c, double us)
{
    struct gpu *g = c->g;
    if (us < MIN_TIMED_S * 1e6 || c->flop <= 0)
        return;
    c->flop_s = c->flop / (us * 1e-6);
    g->slowest = g->slowest > 0 && g->slowest < c->flop_s ? g->slowest : c->flop_s;
    g->flop_s = g->slowest / 2;
}

void prof_collect(struct cmd *c)
{
    struct gpu *g = c->g;
    if (!c->timed || g->lost)
        return;
    uint64_t *tick = mem_alloc(c->now.n_query, sizeof *tick);
    if (tick && vkGetQueryPoolResults(g->dev, c->now.query, 0, c->now.n_query,
                                      c->now.n_query * sizeof *tick, tick, sizeof *tick,
                                      VK_QUERY_RESULT_64_BIT) == VK_SUCCESS) {
        c->timed = false;
        if (tick[c->now.n_query - 1] > tick[0])
            learn_speed(c, (double)(tick[c->now.n_query - 1] - tick[0]) * g->tick_us);
        for (uint32_t i = 0; c->now.profiled && i < c->n_entry; i++)
            add_time(c, &c->entry[i], (double)(tick[i + 1] - tick[i]) * g->tick_us);
    }
    free(tick);
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct gpu_kernel_time *)a)->us, y = ((const struct gpu_kernel_time *)b)->us;
    return (x < y) - (x > y);
}

static void collect_all(struct gpu *g)
{
    if (gpu_wait(g, NULL))
        for (struct cmd *c = g->cmds; c; c = c->next)
            prof_collect(c);
}

void gpu_set_profile(struct gpu *g, bool on) { g->profile = on; }

uint32_t gpu_times(struct gpu *g, struct gpu_kernel_time *out, uint32_t max)
{
    struct gpu_kernel_time all[KERNEL_COUNT + 2];
    uint32_t n = 0;
    collect_all(g);
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (g->time[i].n) {
            all[n] = g->time[i];
            all[n++].name = time_name(i);
        }
    qsort(all, n, sizeof *all, by_time);
    n = min_u32(n, max);
    memcpy(out, all, n * sizeof *all);
    return n;
}

uint32_t gpu_layer_times(struct gpu *g, double *us, uint32_t max)
{
    uint32_t n = 0;
    collect_all(g);
    for (uint32_t i = 0; i < ARRAY_LEN(g->layer_us) && i < max; i++) {
        us[i] = g->layer_us[i];
        n = us[i] > 0 ? i + 1 : n;
    }
    return n;
}

void gpu_times_reset(struct gpu *g)
{
    collect_all(g);
    memset(g->layer_us, 0, sizeof g->layer_us);
    memset(g->time, 0, sizeof g->time);
}
