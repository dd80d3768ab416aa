/* Norms of queries and keys: over each head, with one weight for all or one for each; and over all
 * heads at once, which are cut over ranks, in steps. A head is in the first-level cache for each of
 * its passes. */
#include <math.h>

#include "kernels/native/native.h"

/* ---- over each head ------------------------------------------------------------------------ */

typedef struct statistics {
    float mean, rstd;
} statistics;

static statistics statistics_of(const ml_headnorm *n, const float *x)
{
    int64_t h = n->head_dim;
    float sum[ML_SUM_LANES] = {0}, square[ML_SUM_LANES] = {0};
    if (n->centred) ML_FOR_LANES(h, sum[l] += x[i]);
    float mean = ml_sum_of_lanes(sum) / (float)h;
    ML_FOR_LANES(h, square[l] = ml_fma(x[i] - mean, x[i] - mean, square[l]));
    return (statistics){mean, 1 / sqrtf(ml_sum_of_lanes(square) / (float)h + n->eps)};
}

static void forward_head(const ml_headnorm *n, int64_t at, float *x)
{
    const float *w = n->w + at, *b = n->b ? n->b + at : NULL;
    const statistics s = statistics_of(n, x);
    float one = n->plus_one ? 1 : 0;
#pragma omp simd
    for (int64_t i = 0; i < n->head_dim; i++) x[i] = (x[i] - s.mean) * s.rstd * (one + w[i]);
    if (!b) return;
#pragma omp simd
    for (int64_t i = 0; i < n->head_dim; i++) x[i] += b[i];
}

static void headnorm_forward(const ml_headnorm *n, int64_t T, float *x, int64_t ldx)
{
    int64_t h = n->head_dim;
#pragma omp parallel for schedule(static) if (T * n->heads * h >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < n->heads; j++)
            forward_head(n, n->own ? j * h : 0, x + t * ldx + j * h);
}

/* dy ← dx, and what the head gives to the gradients of its weight and bias onto `dw` and `db`,
 * where these are not NULL. With g = dy·w, z = (x − m)·r: dx = r·(g − average(g) − z·average(g·z));
 * RMS norm has no average(g). */
static void backward_head(const ml_headnorm *n, int64_t at, const float *x, float *dy, float *dw,
                          float *db)
{
    const float *w = n->w + at;
    const statistics s = statistics_of(n, x);
    int64_t h = n->head_dim;
    float one = n->plus_one ? 1 : 0, g[ML_SUM_LANES] = {0}, gz[ML_SUM_LANES] = {0};
    if (dw) {
#pragma omp simd
        for (int64_t i = 0; i < h; i++) dw[i] = ml_fma(dy[i], (x[i] - s.mean) * s.rstd, dw[i]);
    }
    if (db) {
#pragma omp simd
        for (int64_t i = 0; i < h; i++) db[i] += dy[i];
    }
    ML_FOR_LANES(h, float own = dy[i] * (one + w[i]); g[l] += own;
                 gz[l] = ml_fma(own, (x[i] - s.mean) * s.rstd, gz[l]));
    float g_mean = n->centred ? ml_sum_of_lanes(g) / (float)h : 0,
          gz_mean = ml_sum_of_lanes(gz) / (float)h;
#pragma omp simd
    for (int64_t i = 0; i < h; i++)
        dy[i] = s.rstd *
                ml_fma(-((x[i] - s.mean) * s.rstd), gz_mean, ml_fma(dy[i], one + w[i], -g_mean));
}

enum { PARTS = 16, MOST = 1024 };

/* One weight for all heads: its gradient is summed in PARTS pieces of the tokens, the same for any
 * number of threads. */
static void backward_shared(const ml_headnorm *n, int64_t T, const float *x, int64_t ldx, float *dy,
                            int64_t lddy, float *dw, float *db)
{
    float weight[PARTS][MOST], bias[PARTS][MOST];
    int64_t h = n->head_dim, run = (T + PARTS - 1) / PARTS;
#pragma omp parallel for schedule(static) if (T * n->heads * h >= ML_PARALLEL_FROM)
    for (int64_t part = 0; part < PARTS; part++) {
        if (dw) memset(weight[part], 0, (size_t)h * sizeof **weight);
        if (db) memset(bias[part], 0, (size_t)h * sizeof **bias);
        for (int64_t t = part * run; t < ml_min(T, (part + 1) * run); t++)
            for (int64_t j = 0; j < n->heads; j++)
                backward_head(n, 0, x + t * ldx + j * h, dy + t * lddy + j * h,
                              dw ? weight[part] : NULL, db ? bias[part] : NULL);
    }
    for (int64_t part = 0; part < PARTS; part++) {
        for (int64_t i = 0; dw && i < h; i++) dw[i] += weight[part][i];
        for (int64_t i = 0; db && i < h; i++) db[i] += bias[part][i];
    }
}

/* A thread has heads, each over all tokens. */
static void backward_own(const ml_headnorm *n, int64_t T, const float *x, int64_t ldx, float *dy,
                         int64_t lddy, float *dw, float *db)
{
    int64_t h = n->head_dim;
#pragma omp parallel for schedule(static) if (T * n->heads * h >= ML_PARALLEL_FROM)
    for (int64_t j = 0; j < n->heads; j++)
        for (int64_t t = 0; t < T; t++)
            backward_head(n, j * h, x + t * ldx + j * h, dy + t * lddy + j * h,
                          dw ? dw + j * h : NULL, db ? db + j * h : NULL);
}

static void headnorm_backward(const ml_headnorm *n, int64_t T, const float *x, int64_t ldx,
                              float *dy, int64_t lddy, float *dw, float *db)
{
    (n->own ? backward_own : backward_shared)(n, T, x, ldx, dy, lddy, dw, db);
}

/* ---- over all heads ------------------------------------------------------------------------ */

static void wide_squares(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * ldx;
        float square[ML_SUM_LANES] = {0};
        ML_FOR_LANES(n, square[l] = ml_fma(row[i], row[i], square[l]));
        sum[t] = ml_sum_of_lanes(square);
    }
}

static void wide_forward(int64_t T, int64_t n, float *x, int64_t ldx, const float *w,
                         const float *rstd)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        float *row = x + t * ldx, r = rstd[t];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) row[i] *= r * w[i];
    }
}

static void wide_products(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *dy, int64_t lddy, float *sum)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * ldx, *d = dy + t * lddy;
        float product[ML_SUM_LANES] = {0};
        ML_FOR_LANES(n, product[l] = ml_fma(d[i] * w[i], row[i], product[l]));
        sum[t] = ml_sum_of_lanes(product) * rstd[t];
    }
}

/* The weight's gradient by strips of columns, so that the order of its sums is fixed; before dy is
 * overwritten. */
static void sum_weight_gradient(int64_t T, int64_t n, const float *x, int64_t ldx,
                                const float *rstd, const float *dy, int64_t lddy, float *dw)
{
    enum { STRIP = 64 };
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t first = 0; first < n; first += STRIP) {
        int64_t width = ml_min(STRIP, n - first);
        float sum[STRIP] = {0};
        for (int64_t t = 0; t < T; t++) {
            const float *row = x + t * ldx + first, *d = dy + t * lddy + first;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) sum[i] = ml_fma(d[i] * row[i], rstd[t], sum[i]);
        }
        for (int64_t i = 0; i < width; i++) dw[first + i] += sum[i];
    }
}

static void wide_backward(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *average, float *dy, int64_t lddy,
                          float *dw)
{
    if (dw) sum_weight_gradient(T, n, x, ldx, rstd, dy, lddy, dw);
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * ldx;
        float *d = dy + t * lddy, r = rstd[t], a = average[t];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) d[i] = r * ml_fma(d[i], w[i], -(row[i] * r * a));
    }
}

void ML_NATIVE(native_query_key_norms)(ml_kernels *table)
{
    table->headnorm_forward = headnorm_forward;
    table->headnorm_backward = headnorm_backward;
    table->wide_squares = wide_squares;
    table->wide_forward = wide_forward;
    table->wide_products = wide_products;
    table->wide_backward = wide_backward;
}
