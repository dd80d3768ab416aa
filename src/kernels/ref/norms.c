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
            y[i] = (float)(((double)x[i] - m) * r * (double)w[i] + (double)b[i]);
        mean[t] = (float)m;
        rstd[t] = (float)r;
    }
}

/* With z = (x − mean)·rstd and g = dy·w: dx = rstd·(g − average(g) − z·average(g·z)). RMS norm:
 * the same without the first average and with mean 0. */
static void norm_backward(bool centred, int64_t T, int64_t d, const float *x, const float *w,
                          const float *mean, const float *rstd, const float *dy, float *dx,
                          bool add, float *dw, float *db)
{
    for (int64_t t = 0; t < T; t++, x += d, dy += d, dx += d) {
        double m = centred ? (double)mean[t] : 0, r = (double)rstd[t], g_sum = 0, gz_sum = 0;
        for (int64_t i = 0; i < d; i++) {
            double g = (double)dy[i] * (double)w[i], z = ((double)x[i] - m) * r;
            if (centred) g_sum += g;
            gz_sum += g * z;
            if (dw) dw[i] += (float)((double)dy[i] * z);
            if (db) db[i] += dy[i];
        }
        for (int64_t i = 0; i < d; i++) {
            double g = (double)dy[i] * (double)w[i], z = ((double)x[i] - m) * r;
            double value = r * (g - g_sum / (double)d - z * gz_sum / (double)d);
            dx[i] = (float)(add ? (double)dx[i] + value : value);
        }
    }
}

static void layernorm_backward(int64_t T, int64_t d, const float *x, const float *w,
                               const float *mean, const float *rstd, const float *dy, float *dx,
                               bool add, float *dw, float *db)
{
    norm_backward(true, T, d, x, w, mean, rstd, dy, dx, add, dw, db);
}

static void rmsnorm_forward(int64_t T, int64_t d, const float *x, const float *w, float eps,
                            float *y, float *rstd)
{
    for (int64_t t = 0; t < T; t++, x += d, y += d) {
        double square = 0;
        for (int64_t i = 0; i < d; i++) square += (double)x[i] * (double)x[i];
        double r = 1 / sqrt(square / (double)d + (double)eps);
        for (int64_t i = 0; i < d; i++) y[i] = (float)((double)x[i] * r * (double)w[i]);
        rstd[t] = (float)r;
    }
}

static void rmsnorm_backward(int64_t T, int64_t d, const float *x, const float *w,
                             const float *rstd, const float *dy, float *dx, bool add, float *dw)
{
    norm_backward(false, T, d, x, w, NULL, rstd, dy, dx, add, dw, NULL);
}

static void headnorm_forward(int64_t T, int64_t heads, int64_t head_dim, float *x, int64_t ldx,
                             const float *w, float eps)
{
    float rstd;
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < heads; j++) {
            float *head = x + t * ldx + j * head_dim;
            rmsnorm_forward(1, head_dim, head, w, eps, head, &rstd);
        }
}

static void headnorm_backward(int64_t T, int64_t heads, int64_t head_dim, const float *x,
                              int64_t ldx, const float *w, float eps, float *dy, int64_t lddy,
                              float *dw)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t j = 0; j < heads; j++) {
            const float *in = x + t * ldx + j * head_dim;
            float *d = dy + t * lddy + j * head_dim;
            double square = 0;
            for (int64_t i = 0; i < head_dim; i++) square += (double)in[i] * (double)in[i];
            float rstd = (float)(1 / sqrt(square / (double)head_dim + (double)eps));
            norm_backward(false, 1, head_dim, in, w, NULL, &rstd, d, d, false, dw, NULL);
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
    table->rope = rope;
}
