/* Cross-entropy over this rank's part of the vocabulary: rows in parallel; long rows are summed in
 * short runs in float, the runs in double. */
#include "kernels/native/native.h"

enum { RUN = 1024 };

static void xent_max(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) rowmax[c] = ml_native_max(V, z + c * ldz);
}

static float sum_row(int64_t V, const float *z, float top)
{
    double sum = 0;
    for (int64_t first = 0; first < V; first += RUN) {
        int64_t end = ml_min(V, first + RUN);
        float run = 0;
#pragma omp simd reduction(+ : run)
        for (int64_t v = first; v < end; v++) run += ml_native_exp(z[v] - top);
        sum += (double)run;
    }
    return (float)sum;
}

/* The column of the i-th target, or −1 where another rank has it. */
ML_INLINE int64_t column(const ml_targets *targets, int64_t i, int64_t V)
{
    int64_t v = targets->token[i] - targets->first;
    return v >= 0 && v < V ? v : -1;
}

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax,
                     const ml_targets *targets, float *sum, float *picked)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        sum[c] = sum_row(V, z + c * ldz, rowmax[c]);
        picked[c] = 0;
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
            int64_t v = column(targets, i, V);
            if (v >= 0) picked[c] += z[c * ldz + v];
        }
    }
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                          const float *sum, const ml_targets *targets, float smoothing,
                          int64_t V_all, float scale)
{
    float hit = scale * (1 - smoothing);
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        float *row = z + c * ldz, top = rowmax[c],
              weight = scale * (float)(targets->start[c + 1] - targets->start[c]);
        float factor = weight / sum[c], share = weight * smoothing / (float)V_all;
#pragma omp simd
        for (int64_t v = 0; v < V; v++) row[v] = factor * ml_native_exp(row[v] - top) - share;
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
            int64_t v = column(targets, i, V);
            if (v >= 0) row[v] -= hit;
        }
    }
}

void ML_NATIVE(native_cross_entropy)(ml_kernels *table)
{
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
}
