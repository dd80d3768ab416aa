/* The reference products are three loops each, with sums in double. */
#include "kernels/kernels_private.h"

enum { PIECE = 256 }; /* of a row, in fp32: a whole number of blocks of every format */

/* The weights from column `col` on to `end` of a row, PIECE of them at most; returns how many. */
static int64_t take_piece(const ml_weight *w, int64_t row, int64_t col, int64_t end,
                          float piece[PIECE])
{
    int64_t n = ml_min(PIECE, end - col), first = row * w->cols + col;
    if (ml_dtype_is_block(w->dtype))
        ml_dtype_decode(w->dtype, w->data, first, n, piece);
    else
        for (int64_t i = 0; i < n; i++) piece[i] = ml_number_at(w->data, w->dtype, first + i);
    return n;
}

static float plus_old(double sum, float beta, const float *old)
{
    return (float)(beta != 0 ? sum + (double)beta * (double)*old : sum);
}

static void columns_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                            const ml_weight *w, int64_t first, int64_t count, float beta, float *y,
                            int64_t ldy)
{
    (void)k;
    float piece[PIECE];
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < w->rows; o++) {
            double sum = 0;
            for (int64_t at = 0, n; at < count; at += n) {
                n = take_piece(w, o, first + at, first + count, piece);
                for (int64_t i = 0; i < n; i++)
                    sum += (double)x[t * ldx + at + i] * (double)piece[i];
            }
            y[t * ldy + o] = plus_old(sum, beta, &y[t * ldy + o]);
        }
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    columns_forward(k, T, x, ldx, w, 0, w->cols, beta, y, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    (void)k;
    float piece[PIECE];
    for (int64_t t = 0; t < T; t++)
        for (int64_t at = 0; at < w->cols; at += PIECE) {
            double sum[PIECE] = {0};
            int64_t n = ml_min(PIECE, w->cols - at);
            for (int64_t o = 0; o < w->rows; o++) {
                (void)take_piece(w, o, at, w->cols, piece);
                for (int64_t i = 0; i < n; i++)
                    sum[i] += (double)dy[t * ldy + o] * (double)piece[i];
            }
            for (int64_t i = 0; i < n; i++)
                dx[t * ldx + at + i] = plus_old(sum[i], beta, &dx[t * ldx + at + i]);
        }
}

static void rows_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                          const ml_weight *w, int count, const ml_rows *run, float beta, float *dx,
                          int64_t ldx)
{
    for (int64_t t = 0; count == 0 && beta == 0 && t < T; t++)
        memset(dx + t * ldx, 0, (size_t)w->cols * sizeof *dx);
    for (int i = 0; i < count; i++, beta = 1) {
        const char *data = (const char *)w->data + ml_dtype_bytes(w->dtype, run[i].first * w->cols);
        const ml_weight part = {data, w->dtype, run[i].count, w->cols};
        weight_backward(k, T, dy + run[i].first, ldy, &part, beta, dx, ldx);
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
    table->columns_forward = columns_forward;
    table->rows_backward = rows_backward;
    table->sparse_backward = NULL;
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

const ml_backend ml_backend_ref = {"ref", always, no_scratch, start, NULL, false, true};
