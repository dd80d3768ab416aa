/* lapack: QR and singular values of small dense matrices on one rank, in double precision. Private
 * to analyze/.
 *
 * Matrices are column-major here, as LAPACK has them: what is row-major elsewhere is the
 * transposed one. Sides fit 32 bits, else ML_USAGE. ML_NUMERIC where the iteration does not
 * converge.
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

#endif
