/* Reference norms and rotary embedding: the equations, statistics in double. */
#include <math.h>

#include "kernels/kernels_private.h"

static void layernorm_forward(int64_t T, int64_t d, const float *x, const float *w, const float *b,
                              float eps, float *y, float *mean, float *rstd)
{
    for (int64_t t = 0; t < T; t++, x += d, y += d) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < d; i++) sum += (double)x[i];
        double m = sum / (double)d;
        for (int64_t i = 0; i < d; i++) square += ((double)x[i] - m) * ((double)x[i] - m);
        double r = 1 / sqrt(square / (double)d + (double)eps);
        for (int64_t i = 0; i < d; i++)
            y[i] = (float)(((double)x[i] - m) * r * (double)w[i] + (b ? (double)b[i] : 0));
        mean[t] = (float)m;
        rstd[t] = (float)r;
    }
}

/* With z = (x − mean)·rstd and g = dy·w: dx = rstd·(g − average(g) − z·average(g·z)). RMS norm:
 * the same without the first average and with mean 0. */
static void row_backward(bool centred, double one, int64_t d, const float *x, const float *w,
                         double m, double r, const float *dy, float *dx, bool add)
{
    double g_sum = 0, gz_sum = 0;
    for (int64_t i = 0; i < d; i++) {
        double g = (double)dy[i] * (one + (double)w[i]), z = ((double)x[i] - m) * r;
        if (centred) g_sum += g;
        gz_sum += g * z;
    }
    for (int64_t i = 0; i < d; i++) {
        double g = (double)dy[i] * (one + (double)w[i]), z = ((double)x[i] - m) * r;
        double value = r * (g - g_sum / (double)d - z * gz_sum / (double)d);
        dx[i] = (float)(add ? (double)dx[i] + value : value);
    }
}

/* dw += Σ dy·z and db += Σ dy over the rows; mean, dw and db may be NULL. */
static void weight_gradients(int64_t T, int64_t d, const float *x, const float *mean,
                             const float *rstd, const float *dy, float *dw, float *db)
{
    for (int64_t i = 0; i < d; i++) {
        double weight = 0, bias = 0;
        for (int64_t t = 0; t < T; t++) {
            double m = mean ? (double)mean[t] : 0, g = (double)dy[t * d + i];
            weight += g * ((double)x[t * d + i] - m) * (double)rstd[t];
            bias += g;
        }
        if (dw) dw[i] += (float)weight;
        if (db) db[i] += (float)bias;
    }
}

static void layernorm_backward(int64_t T, int64_t d, const float *x, const float *w,
                               const float *mean, const float *rstd, const float *dy, float *dx,
                               bool add, float *dw, float *db)
{
    weight_gradients(T, d, x, mean, rstd, dy, dw, db);
    for (int64_t t = 0; t < T; t++)
        row_backward(true, 0, d, x + t * d, w, (double)mean[t], (double)rstd[t], dy + t * d,
                     dx + t * d, add);
}

/* √ of 1 over the variance, or over the mean square where m is 0, plus eps. */
static double row_rstd(int64_t d, const float *x, double m, float eps)
{
    double square = 0;
    for (int64_t i = 0; i < d; i++) square += ((double)x[i] - m) * ((double)x[i] - m);
    return 1 / sqrt(square / (double)d + (double)eps);
}

static void rmsnorm_forward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                            float eps, float *y, float *rstd)
{
    for (int64_t t = 0; t < T; t++, x += d, y += d) {
        double r = row_rstd(d, x, 0, eps);
        for (int64_t i = 0; i < d; i++)
            y[i] = (float)((double)x[i] * r * ((plus_one ? 1 : 0) + (double)w[i]));
        rstd[t] = (float)r;
    }
}

static void rmsnorm_backward(int64_t T, int64_t d, const float *x, const float *w, bool plus_one,
                             const float *rstd, const float *dy, float *dx, bool add, float *dw)
{
    weight_gradients(T, d, x, NULL, rstd, dy, dw, NULL);
    for (int64_t t = 0; t < T; t++)
        row_backward(false, plus_one ? 1 : 0, d, x + t * d, w, 0, (double)rstd[t], dy + t * d,
                     dx + t * d, add);
}

static double head_mean(const ml_headnorm *n, const float *x)
{
    double sum = 0;
    for (int64_t i = 0; n->centred && i < n->head_dim; i++) sum += (double)x[i];
    return sum / (double)n->head_dim;
}

static void headnorm_forward(const ml_headnorm *n, int64_t T, float *x, int64_t ldx)
{
    int64_t h = n->head_dim;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < n->heads; j++) {
            float *head = x + t * ldx + j * h;
            int64_t at = n->own ? j * h : 0;
            double m = head_mean(n, head), r = row_rstd(h, head, m, n->eps);
            for (int64_t i = 0; i < h; i++) {
                double w = (n->plus_one ? 1 : 0) + (double)n->w[at + i];
                head[i] =
                    (float)(((double)head[i] - m) * r * w + (n->b ? (double)n->b[at + i] : 0));
            }
        }
}

/* Element i of the weights and biases that heads first … last − 1 share. */
static void head_gradients(const ml_headnorm *n, int64_t first, int64_t last, int64_t i, int64_t T,
                           const float *x, int64_t ldx, const float *dy, int64_t lddy, float *dw,
                           float *db)
{
    double weight = 0, bias = 0;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = first; j < last; j++) {
            const float *head = x + t * ldx + j * n->head_dim;
            double m = head_mean(n, head), g = (double)dy[t * lddy + j * n->head_dim + i];
            weight += g * ((double)head[i] - m) * row_rstd(n->head_dim, head, m, n->eps);
            bias += g;
        }
    int64_t at = n->own ? first * n->head_dim + i : i;
    if (dw) dw[at] += (float)weight;
    if (db) db[at] += (float)bias;
}

static void headnorm_backward(const ml_headnorm *n, int64_t T, const float *x, int64_t ldx,
                              float *dy, int64_t lddy, float *dw, float *db)
{
    int64_t h = n->head_dim, shared = n->own ? 1 : n->heads;
    for (int64_t j = 0; (dw || db) && j < n->heads; j += shared)
        for (int64_t i = 0; i < h; i++)
            head_gradients(n, j, j + shared, i, T, x, ldx, dy, lddy, dw, db);
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < n->heads; j++) {
            const float *head = x + t * ldx + j * h;
            float *d = dy + t * lddy + j * h;
            double m = head_mean(n, head);
            row_backward(n->centred, n->plus_one ? 1 : 0, h, head, n->w + (n->own ? j * h : 0), m,
                         row_rstd(h, head, m, n->eps), d, d, false);
        }
}

static void wide_squares(int64_t T, int64_t n, const float *x, int64_t ldx, float *sum)
{
    for (int64_t t = 0; t < T; t++) {
        double square = 0;
        for (int64_t i = 0; i < n; i++) square += (double)x[t * ldx + i] * (double)x[t * ldx + i];
        sum[t] = (float)square;
    }
}

static void wide_forward(int64_t T, int64_t n, float *x, int64_t ldx, const float *w,
                         const float *rstd)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) x[t * ldx + i] *= rstd[t] * w[i];
}

static void wide_products(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *dy, int64_t lddy, float *sum)
{
    for (int64_t t = 0; t < T; t++) {
        double product = 0;
        for (int64_t i = 0; i < n; i++)
            product += (double)dy[t * lddy + i] * (double)w[i] * (double)x[t * ldx + i];
        sum[t] = (float)(product * (double)rstd[t]);
    }
}

static void wide_backward(int64_t T, int64_t n, const float *x, int64_t ldx, const float *w,
                          const float *rstd, const float *average, float *dy, int64_t lddy,
                          float *dw)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) {
            double z = (double)x[t * ldx + i] * (double)rstd[t], d = (double)dy[t * lddy + i];
            if (dw) dw[i] += (float)(d * z);
            dy[t * lddy + i] =
                (float)((double)rstd[t] * (d * (double)w[i] - z * (double)average[t]));
        }
}

static void rope(const ml_rope_shape *shape, int64_t T, float *x, int64_t ldx,
                 const int32_t *position, const float *cosine, const float *sine, bool inverse)
{
    int64_t half = shape->rotated / 2, step = shape->neighbours ? 2 : 1,
            apart = shape->neighbours ? 1 : half;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < shape->heads; j++) {
            float *head = x + t * ldx + j * shape->head_dim;
            for (int64_t i = 0; i < half; i++) {
                float c = cosine[position[t] * half + i], s = sine[position[t] * half + i];
                float a = head[i * step], b = head[i * step + apart];
                if (inverse) s = -s;
                head[i * step] = a * c - b * s;
                head[i * step + apart] = b * c + a * s;
            }
        }
}

void ml_reference_norms(ml_kernels *table)
{
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->rmsnorm_forward = rmsnorm_forward;
    table->rmsnorm_backward = rmsnorm_backward;
    table->headnorm_forward = headnorm_forward;
    table->headnorm_backward = headnorm_backward;
    table->wide_squares = wide_squares;
    table->wide_forward = wide_forward;
    table->wide_products = wide_products;
    table->wide_backward = wide_backward;
    table->rope = rope;
}
