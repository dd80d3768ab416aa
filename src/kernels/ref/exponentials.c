/* What is made of e^x, in double with the C library's functions: activations and cross-entropy.
 *   gelu (tanh): x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))    gelu (erf): x·Φ(x)    relu: max(x, 0)
 *     silu: x/(1 + e^−x)    tanh */
#include <math.h>

#include "kernels/kernels_private.h"

static const double cubic = 0.044715;

static double value(ml_activation a, double x)
{
    switch (a) {
    case ML_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + cubic * x * x * x)));
    case ML_GELU_ERF:
        return 0.5 * x * (1 + erf(x / M_SQRT2));
    case ML_RELU:
        return x < 0 ? 0 : x;
    case ML_SILU:
        return x / (1 + exp(-x));
    case ML_TANH:
        return tanh(x);
    }
    return 0;
}

static double slope(ml_activation a, double x)
{
    switch (a) {
    case ML_GELU_TANH: {
        double h = tanh(sqrt(2 / M_PI) * (x + cubic * x * x * x));
        return 0.5 * (1 + h) + 0.5 * x * (1 - h * h) * sqrt(2 / M_PI) * (1 + 3 * cubic * x * x);
    }
    case ML_GELU_ERF:
        return 0.5 * (1 + erf(x / M_SQRT2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case ML_RELU:
        return x > 0 ? 1 : 0;
    case ML_SILU: {
        double s = 1 / (1 + exp(-x));
        return s * (1 + x * (1 - s));
    }
    case ML_TANH:
        return 1 - tanh(x) * tanh(x);
    }
    return 0;
}

static void activation_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                               float *y, int64_t ldy)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) y[t * ldy + i] = (float)value(a, (double)x[t * ldx + i]);
}

static void activation_backward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                                const float *dy, int64_t lddy, float *dx, int64_t lddx)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++)
            dx[t * lddx + i] = (float)((double)dy[t * lddy + i] * slope(a, (double)x[t * ldx + i]));
}

static void slopes_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                           uint8_t *code)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) {
            double steps = ML_SLOPE_STEPS * slope(a, (double)x[t * ldx + i]) + ML_SLOPE_ZERO;
            code[t * n + i] = (uint8_t)lround(fmin(fmax(steps, 0), 255));
        }
}

static void slopes_backward(int64_t T, int64_t n, const uint8_t *code, const float *dy,
                            int64_t lddy, float *dx, int64_t lddx)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++)
            dx[t * lddx + i] = (float)((double)dy[t * lddy + i] *
                                       (code[t * n + i] - ML_SLOPE_ZERO) / ML_SLOPE_STEPS);
}

static void gated_forward(ml_activation a, int64_t T, int64_t n, const float *gate, const float *up,
                          int64_t ldg, float *y, int64_t ldy)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++)
            y[t * ldy + i] = (float)(value(a, (double)gate[t * ldg + i]) * (double)up[t * ldg + i]);
}

/* gate and up are read before dgate and dup are written: these may be the same memory. */
static void gated_backward(ml_activation a, int64_t T, int64_t n, const float *gate,
                           const float *up, int64_t ldg, const float *dy, int64_t lddy,
                           float *dgate, float *dup, int64_t lddg)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) {
            double g = (double)gate[t * ldg + i], u = (double)up[t * ldg + i],
                   d = (double)dy[t * lddy + i];
            dgate[t * lddg + i] = (float)(d * u * slope(a, g));
            dup[t * lddg + i] = (float)(d * value(a, g));
        }
}

/* ---- cross-entropy over this rank's part of the vocabulary -------------------------------- */

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
                dz += (double)ml_target_weight(targets, i) *
                      (p - (is_column(targets, i, v) ? 1 - (double)smoothing : 0));
            z[c * ldz + v] = (float)((double)scale * dz);
        }
}

/* Whether a probability of the block reaches `least`, or a target lies there. */
static bool is_kept(int64_t rows, int64_t columns, const float *z, int64_t ldz, const float *rowmax,
                    const float *sum, const ml_targets *targets, float least)
{
    bool kept = false;
    for (int64_t c = 0; c < rows; c++)
        for (int64_t v = 0; v < columns; v++) {
            double p = exp((double)z[c * ldz + v] - (double)rowmax[c]) / (double)sum[c];
            kept = kept || !(p < (double)least);
            for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++)
                kept = kept || is_column(targets, i, v);
        }
    return kept;
}

static int64_t xent_filter(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                           const float *sum, const ml_targets *targets, float scale, float least,
                           float *lost)
{
    int64_t zeros = 0;
    for (int64_t c = 0; c < C; c++) lost[c] = 0;
    for (int64_t c = 0; c < C; c += ML_FILTER_ROWS)
        for (int64_t v = 0; v < V; v += ML_FILTER_COLUMNS) {
            int64_t rows = ml_min(ML_FILTER_ROWS, C - c),
                    columns = ml_min(ML_FILTER_COLUMNS, V - v);
            float *block = z + c * ldz + v;
            const ml_targets own = {targets->start + c, targets->token, targets->first + v,
                                    targets->weight};
            if (is_kept(rows, columns, block, ldz, rowmax + c, sum + c, &own, least)) {
                xent_backward(rows, columns, block, ldz, rowmax + c, sum + c, &own, 0, V, scale);
                continue;
            }
            zeros++;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t j = 0; j < columns; j++) {
                    float *x = block + r * ldz + j;
                    lost[c + r] +=
                        (float)(exp((double)*x - (double)rowmax[c + r]) / (double)sum[c + r]);
                    *x = 0;
                }
        }
    return zeros;
}

void ml_reference_exponentials(ml_kernels *table)
{
    table->activation_forward = activation_forward;
    table->activation_backward = activation_backward;
    table->slopes_forward = slopes_forward;
    table->slopes_backward = slopes_backward;
    table->gated_forward = gated_forward;
    table->gated_backward = gated_backward;
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
    table->xent_filter = xent_filter;
}
