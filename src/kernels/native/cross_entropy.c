/* Cross-entropy over this rank's part of the vocabulary: rows in parallel; long rows are summed in short runs in float, the runs in
 * double. */
#include "kernels/native/native.h"

enum { RUN = 1024 };

static void xent_max(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) rowmax[c] = ml_native_max(V, z + c * ldz);
}

static void sum_row(int64_t V, const float *z, float top, float *sum, float *total)
{
    double exps = 0, plain = 0;
    for (int64_t first = 0; first < V; first += RUN) {
        int64_t end = ml_min(V, first + RUN);
        float run_exps = 0, run_plain = 0;
#pragma omp simd reduction(+ : run_exps, run_plain)
        for (int64_t v = first; v < end; v++) {
            run_exps += ml_native_exp(z[v] - top);
            run_plain += z[v];
        }
        exps += (double)run_exps;
        plain += (double)run_plain;
    }
    *sum = (float)exps;
    *total = (float)plain;
}

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax, const int64_t *target, float *sum,
                     float *picked, float *total)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        sum_row(V, z + c * ldz, rowmax[c], &sum[c], &total[c]);
        picked[c] = target[c] >= 0 && target[c] < V ? z[c * ldz + target[c]] : 0;
    }
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax, const float *sum, const int64_t *target,
                          float smoothing, int64_t V_all, float scale)
{
    float share = scale * smoothing / (float)V_all, hit = scale * (1 - smoothing);
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        float *row = z + c * ldz, top = rowmax[c], factor = scale / sum[c];
#pragma omp simd
        for (int64_t v = 0; v < V; v++) row[v] = factor * ml_native_exp(row[v] - top) - share;
        if (target[c] >= 0 && target[c] < V) row[target[c]] -= hit;
    }
}

void ML_NATIVE(native_cross_entropy)(ml_kernels *table)
{
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
}
