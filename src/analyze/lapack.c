/* LAPACK's QR and SVD with their workspaces, and products of the BLAS, on row-major matrices:
 * Fortran sees each of them transposed. */
#include "analyze/lapack.h"

#include <inttypes.h>
#include <limits.h>

#include "analyze/fortran.h"

static ml_status check_sides(int64_t m, int64_t n)
{
    if (m <= INT_MAX && n <= INT_MAX) return ML_OK;
    return ml_fail(ML_USAGE,
                   "a matrix of %" PRId64 " × %" PRId64 " is beyond LAPACK's 32-bit counts", m, n);
}

static ml_status check_info(const char *routine, int info)
{
    if (info == 0) return ML_OK;
    if (info > 0)
        return ml_fail(
            ML_NUMERIC,
            "%s: %d superdiagonals did not converge: the matrix has values out of all proportion",
            routine, info);
    return ml_fail(ML_INTERNAL, "%s: argument %d is not accepted", routine, -info);
}

/* Room for as many numbers as a routine asked for. */
static ml_status make_work(double wanted, double **work, int *count)
{
    *count = (int)wanted;
    *work = ml_memory_alloc(*count, sizeof **work, ML_MEM_WORKSPACE, "LAPACK's workspace");
    return *work ? ML_OK : ML_RESOURCE;
}

static ml_status make_q(int m, int n, double *a, double *tau)
{
    ml_status st = ML_OK;
    double wanted, *work = NULL;
    int info, count = -1;
    dorgqr_(&m, &n, &n, a, &m, tau, &wanted, &count, &info);
    ML_TRY(make_work(wanted, &work, &count));
    dorgqr_(&m, &n, &n, a, &m, tau, work, &count, &info);
    st = check_info("dorgqr", info);
done:
    ml_memory_free(work);
    return st;
}

ml_status lapack_qr(int64_t rows, int64_t cols, double *a, double *r)
{
    ml_status st = ML_OK;
    double wanted, *work = NULL, *tau = NULL;
    int m = (int)rows, n = (int)cols, info, count = -1;
    ML_TRY(check_sides(rows, cols));
    ML_NEW(tau, cols, ML_MEM_WORKSPACE, "LAPACK's workspace");
    dgeqrf_(&m, &n, a, &m, tau, &wanted, &count, &info);
    ML_TRY(make_work(wanted, &work, &count));
    dgeqrf_(&m, &n, a, &m, tau, work, &count, &info);
    ML_TRY(check_info("dgeqrf", info));
    for (int64_t j = 0; j < cols; j++)
        for (int64_t i = 0; i < cols; i++) r[j * cols + i] = i <= j ? a[j * rows + i] : 0.0;
    ML_TRY(make_q(m, n, a, tau));
done:
    ml_memory_free(tau);
    ml_memory_free(work);
    return st;
}

ml_status lapack_svd(int64_t rows, int64_t cols, double *a, double *sigma, double *u, double *vt)
{
    ml_status st = ML_OK;
    double wanted, none, *work = NULL;
    int m = (int)rows, n = (int)cols, k = (int)ml_min(rows, cols), info, count = -1;
    const char *left = u ? "S" : "N", *right = vt ? "S" : "N";
    ML_TRY(check_sides(rows, cols));
    dgesvd_(left, right, &m, &n, a, &m, sigma, u ? u : &none, &m, vt ? vt : &none, &k, &wanted,
            &count, &info, 1, 1);
    ML_TRY(make_work(wanted, &work, &count));
    dgesvd_(left, right, &m, &n, a, &m, sigma, u ? u : &none, &m, vt ? vt : &none, &k, work, &count,
            &info, 1, 1);
    st = check_info("dgesvd", info);
done:
    ml_memory_free(work);
    return st;
}

/* Fortran sees the transposed matrices: Cᵀ = op(B)ᵀ·op(A)ᵀ. */
void blas_product(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double *a, const double *b, double beta, double *c)
{
    const int rows = (int)n, cols = (int)m, depth = (int)k;
    const int step_a = transpose_a ? cols : depth, step_b = transpose_b ? depth : rows;
    dgemm_(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &rows, &cols, &depth, &alpha, b,
           &step_b, a, &step_a, &beta, c, &rows, 1, 1);
}

double blas_square(int64_t count, const double *x)
{
    const int n = (int)count, step = 1;
    return ddot_(&n, x, &step, x, &step);
}
