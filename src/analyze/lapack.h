/* lapack: QR, singular values and products of small dense matrices on one rank, in double
 * precision. Private to analyze/.
 *
 * Matrices are column-major for the QR and the singular values, as LAPACK has them: what is
 * row-major elsewhere is the transposed one. Sides fit 32 bits, else ML_USAGE. ML_NUMERIC where the
 * iteration does not converge.
 */
#ifndef MPILORA_ANALYZE_LAPACK_H
#define MPILORA_ANALYZE_LAPACK_H

#include "mpilora/base.h"

/* a[m, n], m ≥ n, becomes Q; r[n, n] gets R, zero below its diagonal. */
ml_status lapack_qr(int64_t m, int64_t n, double *a, double *r) ML_NODISCARD;

/* a[m, n] = u[m, k]·diag(sigma)·vt[k, n], k = min(m, n); a is destroyed. u or vt NULL: not
 * wanted. */
ml_status lapack_svd(int64_t m, int64_t n, double *a, double *sigma, double *u,
                     double *vt) ML_NODISCARD;

/* c[m, n] = alpha·op(a)·op(b) + beta·c of contiguous row-major matrices: op(a) is m × k, op(b)
 * k × n, transposed where told. */
void blas_product(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                  const double *a, const double *b, double beta, double *c);
/* Σ x², of at most 2³¹ − 1 numbers. */
double blas_square(int64_t count, const double *x);

#endif
