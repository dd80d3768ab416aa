/* AdamW over the list of tensors: one call for neighbours with the same learning rate, in what
 * this rank holds the moments of. */
#include "mpilora/optim.h"

typedef struct run {
    int64_t first, count; /* floats */
    double factor;
} run;

static void update(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step, const run *r)
{
    ml_adamw own = *step;
    own.lr *= r->factor;
    if (r->count == 0) return;
    for (int64_t i = r->first / p->piece; i * p->piece < r->first + r->count; i++) {
        ml_share mine = ml_parameters_share(p, i, p->dp_rank);
        int64_t first = ml_max(mine.first, r->first),
                count = ml_min(mine.first + mine.count, r->first + r->count) - first;
        int64_t at = mine.at + first - mine.first;
        if (count > 0)
            kernels->adamw(&own, count, p->value + first, p->gradient + first, p->moment1 + at,
                           p->moment2 + at);
    }
}

static void update_all(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step)
{
    run r = {0};
    for (int sharded = 0; sharded < 2; sharded++) { /* the order of the buffers */
        for (int64_t i = 0; i < p->count; i++) {
            const ml_parameter *item = &p->items[i];
            if ((item->shard.dim != ML_SHARD_WHOLE) != (bool)sharded) continue;
            if (item->lr_factor != r.factor) {
                update(p, kernels, step, &r);
                r = (run){.first = item->offset, .factor = item->lr_factor};
            }
            r.count += item->count;
        }
    }
    update(p, kernels, step, &r);
}

void ml_parameters_update(ml_parameters *p, const ml_grid *grid, const ml_kernels *kernels,
                          const ml_adamw *step)
{
    update_all(p, kernels, step);
    if (p->dp == 1) return;
    for (int64_t at = 0; at < p->local; at += p->piece)
        ml_grid_allgather_float(grid, ML_GROUP_DP, p->value + at, ml_min(p->piece, p->local - at));
}
