/* Norms and rotary embedding: rows in parallel, a row is read from the first-level cache after its
 * first pass. The weights' gradients are summed by columns in strips, so that no two threads write
 * the same sum and the order is fixed. */
#include <math.h>

#include "kernels/native/native.h"

enum { STRIP = 64, RUN = 256 };

/* Σ x and Σ (x − shift)² in float lanes: a row is at most some ten thousand elements. */
ML_INLINE float row_sum(int64_t d, const float *x)
{
    float lane[ML_SUM_LANES] = {0};
    ML_FOR_LANES(d, lane[l] += x[i]);
    return ml_sum_of_lanes(lane);
}

ML_INLINE float row_squares(int64_t d, const float *x, float shift)
{
    float lane[ML_SUM_LANES] = {0};
    ML_FOR_LANES(d, lane[l] = ml_fma(x[i] - shift, x[i] - shift, lane[l]));
    return ml_sum_of_lanes(lane);
}

/* out = (x − m)·r·w + b; b may be NULL. */
static void normalise(int64_t d, const float *x, const float *w, const float *b, float m, float r,
                      float *out)
{
    if (!b) {
#pragma omp simd
        for (int64_t i = 0; i < d; i++) out[i] = (x[i] - m) * r * w[i];
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++) out[i] = ml_fma((x[i] - m) * r, w[i], b[i]);
}

/* `plus_one` is a constant where it is called, so that no loop asks for it. */
ML_INLINE float weight_of(bool plus_one, float w) { return plus_one ? 1 + w : w; }

static void layernorm_forward(int64_t T, int64_t d, const float *x, const float *w, const float *b,
                              float eps, float *y, float *mean, float *rstd)
{
#pragma omp parallel for schedule(static) if (T * d >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *in = x + t * d;
        float *out = y + t * d;
        float m = row_sum(d, in) / (float)d;
        float r = 1 / sqrtf(row_squares(d, in, m) / (float)d + eps);
        normalise(d, in, w, b, m, r, out);
        mean[t] = m;
        rstd[t] = r;
    }
}

/* out = x·r·w or x·r·(1 + w) */
static void scale_row(int64_t d, const float *x, const float *w, bool plus_one, float r, float *out)
{
    if (plus_one) {
#pragma omp simd
        for (int64_t i = 0; i < d; i++) out[i] = x[i] * r * weight_of(true, w[i]);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++) out[i] = x[i] * r * w[i];
}

static void rmsnorm_forward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                            float eps, float *y, float *rstd)
{
#pragma omp parallel for schedule(static) if (T * d >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *in = x + t * d;
        float r = 1 / sqrtf(row_squares(d, in, 0) / (float)d + eps);
        scale_row(d, in, w, plus_one, r, y + t * d);
        rstd[t] = r;
    }
}

/* With z = (x − m)·r and g = dy·w: dx = r·(g − average(g) − z·average(g·z)); RMS norm has no
 * average(g). */
ML_INLINE float input_gradient(bool plus_one, float x, float w, float m, float r, float dy,
                               float g_mean, float gz_mean)
{
    return ml_fma(-((x - m) * r), gz_mean, ml_fma(dy, weight_of(plus_one, w), -g_mean));
}

ML_INLINE void backward_of(bool centred, bool plus_one, int64_t d, const float *x, const float *w,
                           float m, float r, const float *dy, float *dx, bool add)
{
    float g[ML_SUM_LANES] = {0}, gz[ML_SUM_LANES] = {0};
    ML_FOR_LANES(d, float own = dy[i] * weight_of(plus_one, w[i]); g[l] += own;
                 gz[l] = ml_fma(own, (x[i] - m) * r, gz[l]));
    float g_mean = centred ? ml_sum_of_lanes(g) / (float)d : 0,
          gz_mean = ml_sum_of_lanes(gz) / (float)d;
    if (!add) { /* what was there may be anything, NaN too */
#pragma omp simd
        for (int64_t i = 0; i < d; i++)
            dx[i] = r * input_gradient(plus_one, x[i], w[i], m, r, dy[i], g_mean, gz_mean);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        dx[i] =
            ml_fma(r, input_gradient(plus_one, x[i], w[i], m, r, dy[i], g_mean, gz_mean), dx[i]);
}

static void backward_row(bool centred, bool plus_one, int64_t d, const float *x, const float *w,
                         float m, float r, const float *dy, float *dx, bool add)
{
    if (centred)
        backward_of(true, false, d, x, w, m, r, dy, dx, add);
    else if (plus_one)
        backward_of(false, true, d, x, w, m, r, dy, dx, add);
    else
        backward_of(false, false, d, x, w, m, r, dy, dx, add);
}

/* dw += Σ dy·(x − mean)·rstd and db += Σ dy over the rows; mean and db may be NULL. */
static void sum_weight_gradients(int64_t T, int64_t d, const float *x, const float *mean,
                                 const float *rstd, const float *dy, float *dw, float *db)
{
#pragma omp parallel for schedule(static) if (T * d >= ML_PARALLEL_FROM)
    for (int64_t first = 0; first < d; first += STRIP) {
        int64_t width = ml_min(STRIP, d - first);
        for (int64_t top = 0; top < T; top += RUN) {
            float weight[STRIP] = {0}, bias[STRIP] = {0};
            for (int64_t t = top; t < ml_min(T, top + RUN); t++) {
                float m = mean ? mean[t] : 0, r = rstd[t];
                const float *in = x + t * d + first, *out = dy + t * d + first;
#pragma omp simd
                for (int64_t i = 0; i < width; i++) {
                    weight[i] = ml_fma(out[i], (in[i] - m) * r, weight[i]);
                    bias[i] += out[i];
                }
            }
            for (int64_t i = 0; dw && i < width; i++) dw[first + i] += weight[i];
            for (int64_t i = 0; db && i < width; i++) db[first + i] += bias[i];
        }
    }
}

static void layernorm_backward(int64_t T, int64_t d, const float *x, const float *w,
                               const float *mean, const float *rstd, const float *dy, float *dx,
                               bool add, float *dw, float *db)
{
    if (dw || db) sum_weight_gradients(T, d, x, mean, rstd, dy, dw, db);
#pragma omp parallel for schedule(static) if (T * d >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        backward_row(true, false, d, x + t * d, w, mean[t], rstd[t], dy + t * d, dx + t * d, add);
}

static void rmsnorm_backward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                             const float *rstd, const float *dy, float *dx, bool add, float *dw)
{
    if (dw) sum_weight_gradients(T, d, x, NULL, rstd, dy, dw, NULL);
#pragma omp parallel for schedule(static) if (T * d >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        backward_row(false, plus_one, d, x + t * d, w, 0, rstd[t], dy + t * d, dx + t * d, add);
}

/* Element i of the first and of the second of each pair: `step` from one pair to the next. */
ML_INLINE void turn_pairs(int64_t pairs, float *first, float *second, int64_t step, const float *c,
                          const float *s, float sign)
{
#pragma omp simd
    for (int64_t i = 0; i < pairs; i++) {
        float a = first[step * i], b = second[step * i], turn = sign * s[i];
        first[step * i] = ml_fma(a, c[i], -(b * turn));
        second[step * i] = ml_fma(b, c[i], a * turn);
    }
}

static void rope(const ml_rope_shape *shape, int64_t T, float *x, int64_t ldx,
                 const int32_t *position, const float *cosine, const float *sine, bool inverse)
{
    int64_t half = shape->rotated / 2, heads = shape->heads;
    float sign = inverse ? -1 : 1;
#pragma omp parallel for schedule(static) if (T * heads * shape->rotated >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *c = cosine + position[t] * half, *s = sine + position[t] * half;
        for (int64_t j = 0; j < heads; j++) {
            float *head = x + t * ldx + j * shape->head_dim;
            if (shape->neighbours)
                turn_pairs(half, head, head + 1, 2, c, s, sign);
            else
                turn_pairs(half, head, head + half, 1, c, s, sign);
        }
    }
}

void ML_NATIVE(native_norms)(ml_kernels *table)
{
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->rmsnorm_forward = rmsnorm_forward;
    table->rmsnorm_backward = rmsnorm_backward;
    table->rope = rope;
}
