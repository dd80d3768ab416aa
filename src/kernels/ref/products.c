/* The reference products are three loops each, with sums in double. */
#include "kernels/kernels_private.h"

static float weight_at(const ml_weight *w, int64_t row, int64_t col)
{
    float decoded;
    if (!ml_dtype_is_block(w->dtype)) return ml_number_at(w->data, w->dtype, row * w->cols + col);
    ml_dtype_decode(w->dtype, w->data, row * w->cols + col, 1, &decoded);
    return decoded;
}

static float plus_old(double sum, float beta, const float *old)
{
    return (float)(beta != 0 ? sum + (double)beta * (double)*old : sum);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    (void)k;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < w->rows; o++) {
            double sum = 0;
            for (int64_t i = 0; i < w->cols; i++)
                sum += (double)x[t * ldx + i] * (double)weight_at(w, o, i);
            y[t * ldy + o] = plus_old(sum, beta, &y[t * ldy + o]);
        }
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    (void)k;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < w->cols; i++) {
            double sum = 0;
            for (int64_t o = 0; o < w->rows; o++)
                sum += (double)dy[t * ldy + o] * (double)weight_at(w, o, i);
            dx[t * ldx + i] = plus_old(sum, beta, &dx[t * ldx + i]);
        }
}

static void gemm(const ml_kernels *kernels, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                 float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                 float *c, int64_t ldc)
{
    (void)kernels;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)(ta ? a[l * lda + i] : a[i * lda + l]) *
                       (double)(tb ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = plus_old((double)alpha * sum, beta, &c[i * ldc + j]);
        }
}

void ml_reference_products(ml_kernels *table)
{
    table->weight_forward = weight_forward;
    table->weight_backward = weight_backward;
    table->gemm = gemm;
}

static bool always(ml_dtype dtype)
{
    (void)dtype;
    return true;
}

static int64_t no_scratch(const ml_kernels_options *options, int threads)
{
    (void)options;
    (void)threads;
    return 0;
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    (void)options;
    ml_reference_products(&owner->table);
    return ML_OK;
}

const ml_backend ml_backend_ref = {"ref", always, no_scratch, start, NULL};
