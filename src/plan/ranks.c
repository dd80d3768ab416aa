/* Consecutive ranks fill the nodes; what several ranks of a node share counts once. */
#include "plan/ranks.h"

/* The ranks of a stage, each of so many bytes, on their nodes; what they share counts once.
 * Consecutive ranks have different tp ranks. */
static void add_ranks(const ml_plan *plan, ml_plan_method *m, plan_node_walk *w, int stage,
                      const int64_t per_rank[ML_MEM_CATEGORIES], const plan_common *c)
{
    int64_t each = 0, count = plan->ranks / plan->pp, first = stage * count, end = first + count;
    for (int i = 0; i < ML_MEM_CATEGORIES; i++) each += per_rank[i];
    for (int64_t at = first; at < end;) {
        int64_t node_end = ml_part_start(plan->ranks, plan->nodes, w->node + 1);
        if (at == node_end) {
            *w = (plan_node_walk){.node = w->node + 1};
            continue;
        }
        int64_t here = ml_min(node_end, end) - at,
                copies = c->frozen ? ml_min(here, plan->tp) : here,
                writers = ml_min(here, ml_max(0, first + c->writers - at));
        int64_t bytes =
            here * each - (here - copies) * per_rank[ML_MEM_FROZEN] - (here - writers) * c->writer;
        w->bytes += bytes;
        m->total_bytes += bytes;
        m->node_bytes = ml_max(m->node_bytes, w->bytes);
        at += here;
    }
}

ml_status plan_ranks_add(ml_plan_method *m, const ml_plan *plan, plan_node_walk *w, int stage,
                         const int64_t per_rank[ML_MEM_CATEGORIES], const plan_common *c)
{
    int64_t all, total = 0, most = ml_part_count(plan->ranks, plan->nodes, 0);
    for (int i = 0; i < ML_MEM_CATEGORIES; i++) total += per_rank[i];
    if (!ml_multiply(plan->ranks, total, &all))
        return ml_fail(ML_USAGE,
                       "--ranks: %d ranks of %lld bytes each are more than 64 bits count; plan for "
                       "fewer ranks or a larger parallel.tp",
                       plan->ranks, (long long)total);
    most = ml_min(most, plan->ranks / plan->pp);
    m->frozen_shared_by = c->frozen ? (int)((most + plan->tp - 1) / plan->tp) : 1;
    add_ranks(plan, m, w, stage, per_rank, c);
    if (total <= m->total_bytes_per_rank) return ML_OK;
    m->stage = stage;
    m->total_bytes_per_rank = total;
    memcpy(m->per_rank, per_rank, sizeof m->per_rank);
    return ML_OK;
}
