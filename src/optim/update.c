/* AdamW over the list of tensors: one call for neighbours with the same learning rate. */
#include "mpilora/optim.h"

typedef struct run {
    int64_t first, count; /* floats */
    double factor;
} run;

static void update(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step, const run *r)
{
    ml_adamw own = *step;
    own.lr *= r->factor;
    int64_t at = r->first;
    if (r->count > 0) kernels->adamw(&own, r->count, p->value + at, p->gradient + at, p->moment1 + at, p->moment2 + at);
}

void ml_parameters_update(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step)
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
