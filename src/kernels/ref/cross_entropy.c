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

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax, const int64_t *target, float *sum,
                     float *picked, float *total)
{
    for (int64_t c = 0; c < C; c++) {
        const float *row = z + c * ldz;
        double exps = 0, plain = 0;
        for (int64_t v = 0; v < V; v++) {
            exps += exp((double)row[v] - (double)rowmax[c]);
            plain += (double)row[v];
        }
        sum[c] = (float)exps;
        total[c] = (float)plain;
        picked[c] = target[c] >= 0 && target[c] < V ? row[target[c]] : 0;
    }
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax, const float *sum, const int64_t *target,
                          float smoothing, int64_t V_all, float scale)
{
    double share = (double)smoothing / (double)V_all;
    for (int64_t c = 0; c < C; c++)
        for (int64_t v = 0; v < V; v++) {
            double p = exp((double)z[c * ldz + v] - (double)rowmax[c]) / (double)sum[c];
            double hit = v == target[c] ? 1 - (double)smoothing : 0;
            z[c * ldz + v] = (float)((double)scale * (p - hit - share));
        }
}

void ml_reference_cross_entropy(ml_kernels *table)
{
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
}
