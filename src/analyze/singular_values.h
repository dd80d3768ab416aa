/* singular_values: what its own test and its callers look at beside the public functions. Private
 * to analyze/.
 *
 * A build without ScaLAPACK has no_scalapack.c in place of singular_values.c.
 */
#ifndef MPILORA_ANALYZE_SINGULAR_VALUES_H
#define MPILORA_ANALYZE_SINGULAR_VALUES_H

#include "mpilora/analyze.h"

/* What pdgesvd's INFO means, of `count` singular values: ML_NUMERIC (not converged), ML_INTERNAL
 * (ranks disagree, or a bad argument). */
ml_status svd_info_status(int info, int64_t count) ML_NODISCARD;

/* ML_USAGE, saying what is missing, in a build without ScaLAPACK. Local. */
ml_status svd_check_build(void) ML_NODISCARD;

#endif
