/* Once a step: gradients summed over the grid, their norm, clipping. */
#include <math.h>

#include "mpilora/optim.h"

/* Only tp rank 0's copy of an identical gradient may enter the sum over tp. */
static void drop_copies(ml_parameters *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        if (item->shard.dim == ML_SHARD_WHOLE && item->kind == ML_GRADIENT_IDENTICAL)
            memset(p->gradient + item->offset, 0, (size_t)item->count * sizeof *p->gradient);
    }
}

ml_reduction ml_parameters_reduce(ml_parameters *p, const ml_grid *grid)
{
    ml_reduction r = {.payload_bytes = p->global * (int64_t)sizeof(float)};
    int64_t sharded = p->local - p->replicated;
    if (ml_grid_tp_rank(grid) != 0) drop_copies(p);
    ml_grid_sum_float(grid, ML_GROUP_WORLD, p->gradient, p->replicated);
    ml_grid_sum_float(grid, ML_GROUP_DP, p->gradient + p->replicated, sharded);
    if (ml_grid_size(grid) > 1) r.passed_bytes += p->replicated * (int64_t)sizeof(float);
    if (ml_grid_dp(grid) > 1) r.passed_bytes += sharded * (int64_t)sizeof(float);
    return r;
}

double ml_parameters_gradient_norm(const ml_parameters *p, const ml_grid *grid, const ml_kernels *kernels)
{
    double once = kernels->sum_squares(p->replicated, p->gradient);
    double sharded = kernels->sum_squares(p->local - p->replicated, p->gradient + p->replicated);
    ml_grid_sum_double(grid, ML_GROUP_TP, &sharded, 1);
    return sqrt(once + sharded);
}

const char *ml_parameters_find_nonfinite(const ml_parameters *p, bool values)
{
    const float *buffer = values ? p->value : p->gradient;
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        for (int64_t j = 0; j < item->count; j++)
            if (!isfinite(buffer[item->offset + j])) return item->name;
    }
    return NULL;
}

double ml_clip_factor(double clip, double norm)
{
    double factor = clip / (norm + 1e-6);
    return clip > 0.0 && factor < 1.0 ? factor : 1.0;
}
