/* The backend "onednn": oneDNN's fp32 product, on panels where the weight is bf16. */
#include "kernels/kernels_private.h"
#include "kernels/onednn/api.h"

/* A product that oneDNN cannot do (it found no memory) is done by the BLAS: never a wrong result
 * without a word. */
void ml_onednn_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) !=
        dnnl_success)
        ml_blas_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void ml_onednn_gemm(const ml_kernels *kernels, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc)
{
    (void)kernels;
    ml_onednn_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static void weight_forward(const ml_kernels *k, int64_t T, const float *x, int64_t ldx,
                           const ml_weight *w, float beta, float *y, int64_t ldy)
{
    ml_panel_forward(ml_onednn_sgemm, k, T, x, ldx, w, beta, y, ldy);
}

static void weight_backward(const ml_kernels *k, int64_t T, const float *dy, int64_t ldy,
                            const ml_weight *w, float beta, float *dx, int64_t ldx)
{
    ml_panel_backward(ml_onednn_sgemm, k, T, dy, ldy, w, beta, dx, ldx);
}

static ml_status start(ml_kernels_owner *owner, const ml_kernels_options *options)
{
    (void)options;
    owner->table.weight_forward = weight_forward;
    owner->table.weight_backward = weight_backward;
    owner->table.gemm = ml_onednn_gemm;
    return ML_OK;
}

const ml_backend ml_backend_onednn = {
    "onednn", ml_backend_without_blocks, ml_panel_scratch_floats, start, NULL, false, false};
