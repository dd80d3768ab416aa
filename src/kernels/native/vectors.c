/* Vector operations: one pass each, cut into ranges for the threads. Sums are taken over a fixed
 * number of parts, so that they do not even depend on the number of threads. */
#include <math.h>

#include "kernels/native/native.h"

enum { RANGE = 1 << 13, STRIP = 64, PARTS = 64, RUN = 256 };

/* The loop over ranges of a vector of n: `first` and `count` of each. */
#define FOR_RANGES(n)                                                                            \
    _Pragma(                                                                                     \
        "omp parallel for schedule(static) if (n >= 2 * ML_PARALLEL_FROM)") for (int64_t first = \
                                                                                     0;          \
                                                                                 first < n;      \
                                                                                 first += RANGE)

static void add(int64_t n, const float *x, float *y)
{
    FOR_RANGES(n)
    {
        int64_t end = ml_min(n, first + RANGE);
#pragma omp simd
        for (int64_t i = first; i < end; i++) y[i] += x[i];
    }
}

static void scale(int64_t n, float factor, const float *x, float *y)
{
    FOR_RANGES(n)
    {
        int64_t end = ml_min(n, first + RANGE);
#pragma omp simd
        for (int64_t i = first; i < end; i++) y[i] = factor * x[i];
    }
}

static void multiply(int64_t n, const float *x, float *y)
{
    FOR_RANGES(n)
    {
        int64_t end = ml_min(n, first + RANGE);
#pragma omp simd
        for (int64_t i = first; i < end; i++) y[i] *= x[i];
    }
}

static void soft_cap(int64_t n, float cap, float *x, float *slope)
{
    const float inverse = 1 / cap;
    FOR_RANGES(n)
    {
        int64_t end = ml_min(n, first + RANGE);
        if (!slope) {
#pragma omp simd
            for (int64_t i = first; i < end; i++) x[i] = cap * ml_native_tanh(inverse * x[i]);
            continue;
        }
#pragma omp simd
        for (int64_t i = first; i < end; i++) {
            float t = ml_native_tanh(inverse * x[i]);
            x[i] = cap * t;
            slope[i] = ml_fma(-t, t, 1);
        }
    }
}

static void add_bias(int64_t T, int64_t n, const float *bias, float *y, int64_t ldy)
{
#pragma omp parallel for schedule(static) if (T * n >= 2 * ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[t * ldy + i] += bias[i];
    }
}

/* Columns in strips, each strip's rows in runs that are summed on their own: short sums keep their
 * digits. */
static void sum_rows(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum)
{
#pragma omp parallel for schedule(static) if (T * n >= 2 * ML_PARALLEL_FROM)
    for (int64_t first = 0; first < n; first += STRIP) {
        int64_t width = ml_min(STRIP, n - first);
        for (int64_t top = 0; top < T; top += RUN) {
            float part[STRIP] = {0};
            for (int64_t t = top; t < ml_min(T, top + RUN); t++) {
#pragma omp simd
                for (int64_t i = 0; i < width; i++) part[i] += x[t * ldx + first + i];
            }
#pragma omp simd
            for (int64_t i = 0; i < width; i++) sum[first + i] += part[i];
        }
    }
}

/* Both also turn row after row inside other loops over threads, where a loop of their own would
 * cost more than a row, whatever its `if` says. */
ML_INLINE void narrow(int64_t first, int64_t end, const float *x, uint16_t *y)
{
#pragma omp simd
    for (int64_t i = first; i < end; i++) y[i] = ml_bf16_from_float(x[i]);
}

ML_INLINE void widen(int64_t first, int64_t end, const uint16_t *x, float *y)
{
#pragma omp simd
    for (int64_t i = first; i < end; i++) y[i] = ml_bf16_to_float(x[i]);
}

static void fp32_to_bf16(int64_t n, const float *x, uint16_t *y)
{
    if (n < 2 * ML_PARALLEL_FROM) {
        narrow(0, n, x, y);
        return;
    }
    FOR_RANGES(n) narrow(first, ml_min(n, first + RANGE), x, y);
}

static void bf16_to_fp32(int64_t n, const uint16_t *x, float *y)
{
    if (n < 2 * ML_PARALLEL_FROM) {
        widen(0, n, x, y);
        return;
    }
    FOR_RANGES(n) widen(first, ml_min(n, first + RANGE), x, y);
}

static double sum_squares(int64_t n, const float *x)
{
    double part[PARTS];
#pragma omp parallel for schedule(static) if (n >= 2 * ML_PARALLEL_FROM)
    for (int p = 0; p < PARTS; p++) {
        int64_t first = ml_part_start(n, PARTS, p), end = first + ml_part_count(n, PARTS, p);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = first; i < end; i++) sum += (double)x[i] * (double)x[i];
        part[p] = sum;
    }
    double sum = 0;
    for (int p = 0; p < PARTS; p++) sum += part[p];
    return sum;
}

static void adamw(const ml_adamw *step, int64_t n, float *p, const float *grad, float *m, float *v)
{
    const float b1 = (float)step->beta1, b2 = (float)step->beta2, eps = (float)step->eps,
                scale = (float)step->grad_scale;
    const float new1 = (float)(1 - step->beta1), new2 = (float)(1 - step->beta2),
                keep = (float)(1 - step->lr * step->decay);
    const double c1 = 1 - pow(step->beta1, (double)step->t),
                 c2 = 1 - pow(step->beta2, (double)step->t);
    const float rate = (float)(step->lr / c1), root = (float)(1 / sqrt(c2));
    FOR_RANGES(n)
    {
        int64_t end = ml_min(n, first + RANGE);
#pragma omp simd
        for (int64_t i = first; i < end; i++) {
            float g = grad[i] * scale;
            m[i] = ml_fma(b1, m[i], new1 * g);
            v[i] = ml_fma(b2, v[i], new2 * g * g);
            p[i] = ml_fma(p[i], keep, -(rate * m[i] / ml_fma(sqrtf(v[i]), root, eps)));
        }
    }
}

void ML_NATIVE(native_vectors)(ml_kernels *table)
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
