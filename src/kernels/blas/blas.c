/* The backend "blas": sgemm of the BLAS that was found, by its Fortran name, which every BLAS has.
 */
#include "kernels/kernels_private.h"

void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc, size_t ta_length, size_t tb_length);

/* OpenBLAS's own; another BLAS does not have it. */
extern char *openblas_get_corename(void) __attribute__((weak));

const char *ml_blas_kernel(void) { return openblas_get_corename ? openblas_get_corename() : NULL; }

/* A row-major matrix is the transposed one to Fortran: Cᵀ = Bᵀ·Aᵀ. */
void ml_blas_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                   int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    const int rows = (int)n, cols = (int)m, depth = (int)k, step_a = (int)lda, step_b = (int)ldb,
              step_c = (int)ldc;
    sgemm_(tb ? "T" : "N", ta ? "T" : "N", &rows, &cols, &depth, &alpha, b, &step_b, a, &step_a,
           &beta, c, &step_c, 1, 1);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    ml_panel_forward(ml_blas_sgemm, k, T, x, ldx, w, beta, y, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    ml_panel_backward(ml_blas_sgemm, k, T, dy, ldy, w, beta, dx, ldx);
}

static void gemm(const ml_kernels *kernels, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                 float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                 float *c, int64_t ldc)
{
    (void)kernels;
    ml_blas_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    (void)options;
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
    owner->table.gemm = gemm;
    return ML_OK;
}

const ml_backend ml_backend_blas = {
    "blas", ml_backend_without_blocks, ml_panel_scratch_floats, start, NULL, false, false};
