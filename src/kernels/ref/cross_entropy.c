/* Reference cross-entropy over this rank's part of the vocabulary. */
#include <math.h>

#include "kernels/kernels_private.h"

static void xent_max(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax)
{
    for (int64_t c = 0; c < C; c++) {
        float top = -INFINITY;
        for (int64_t v = 0; v < V; v++) top = z[c * ldz + v] > top ? z[c * ldz + v] : top;
        rowmax[c] = top;
    }
}

static bool is_column(const ml_targets *targets, int64_t i, int64_t v)
{
    return targets->token[i] - targets->first == v;
}

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax,
                     const ml_targets *targets, float *sum, float *picked)
{
    for (int64_t c = 0; c < C; c++) {
        const float *row = z + c * ldz;
        double exps = 0, hits = 0;
        for (int64_t v = 0; v < V; v++) {
            exps += exp((double)row[v] - (double)rowmax[c]);
            for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++)
                hits += is_column(targets, i, v) ? (double)row[v] : 0;
        }
        sum[c] = (float)exps;
        picked[c] = (float)hits;
    }
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                          const float *sum, const ml_targets *targets, float smoothing,
                          int64_t V_all, float scale)
{
    for (int64_t c = 0; c < C; c++)
        for (int64_t v = 0; v < V; v++) {
            double p = exp((double)z[c * ldz + v] - (double)rowmax[c]) / (double)sum[c] -
                       (double)smoothing / (double)V_all,
                   dz = 0;
            for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++)
                dz += p - (is_column(targets, i, v) ? 1 - (double)smoothing : 0);
            z[c * ldz + v] = (float)((double)scale * dz);
        }
}

void ml_reference_cross_entropy(ml_kernels *table)
{
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
}
