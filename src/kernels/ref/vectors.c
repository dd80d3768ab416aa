/* Reference vector operations, and the whole reference table. */
#include <math.h>

#include "kernels/kernels_private.h"

static void add(int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void scale(int64_t n, float factor, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = factor * x[i];
}

static void multiply(int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] *= x[i];
}

static void soft_cap(int64_t n, float cap, float *x, float *slope)
{
    for (int64_t i = 0; i < n; i++) {
        double t = tanh((double)x[i] / (double)cap);
        x[i] = (float)((double)cap * t);
        if (slope) slope[i] = (float)(1 - t * t);
    }
}

static void add_bias(int64_t T, int64_t n, const float *bias, float *y, int64_t ldy)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) y[t * ldy + i] += bias[i];
}

static void sum_rows(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum)
{
    for (int64_t i = 0; i < n; i++) {
        double column = 0;
        for (int64_t t = 0; t < T; t++) column += (double)x[t * ldx + i];
        sum[i] += (float)column;
    }
}

static void fp32_to_bf16(int64_t n, const float *x, uint16_t *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = ml_bf16_from_float(x[i]);
}

static void bf16_to_fp32(int64_t n, const uint16_t *x, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = ml_bf16_to_float(x[i]);
}

static double sum_squares(int64_t n, const float *x)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void adamw(const ml_adamw *step, int64_t n, float *p, const float *grad, float *m, float *v)
{
    double b1 = step->beta1, b2 = step->beta2, lr = step->lr;
    double c1 = 1 - pow(b1, (double)step->t), c2 = 1 - pow(b2, (double)step->t);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)grad[i] * step->grad_scale;
        m[i] = (float)(b1 * (double)m[i] + (1 - b1) * g);
        v[i] = (float)(b2 * (double)v[i] + (1 - b2) * g * g);
        double decayed = (double)p[i] * (1 - lr * step->decay);
        p[i] = (float)(decayed - lr / c1 * (double)m[i] / (sqrt((double)v[i] / c2) + step->eps));
    }
}

void ml_reference_vectors(ml_kernels *table)
{
    table->add = add;
    table->scale = scale;
    table->multiply = multiply;
    table->soft_cap = soft_cap;
    table->add_bias = add_bias;
    table->sum_rows = sum_rows;
    table->fp32_to_bf16 = fp32_to_bf16;
    table->bf16_to_fp32 = bf16_to_fp32;
    table->sum_squares = sum_squares;
    table->adamw = adamw;
}
