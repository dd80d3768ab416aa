/* singular_values: what its own test looks at beside the public functions. Private to analyze/. */
#ifndef MPILORA_ANALYZE_SINGULAR_VALUES_H
#define MPILORA_ANALYZE_SINGULAR_VALUES_H

#include "mpilora/analyze.h"

/* What pdgesvd's INFO means, of `count` singular values: ML_NUMERIC (not converged), ML_INTERNAL
 * (ranks disagree, or a bad argument). */
ml_status svd_info_status(int info, int64_t count) ML_NODISCARD;

#endif
