/* spectrum: the singular values of a module's weight. Private to analyze/. */
#ifndef MPILORA_ANALYZE_SPECTRUM_H
#define MPILORA_ANALYZE_SPECTRUM_H

#include "mpilora/analyze.h"

/* ml_svd_check of the module that needs most. Collective over the world. */
ml_status spectrum_check_memory(const ml_study *study, int64_t memory) ML_NODISCARD;

/* sigma[min(in, out)]. Collective over the world. */
ml_status spectrum_of_weight(const ml_study *study, const ml_study_module *module,
                             double *sigma) ML_NODISCARD;

#endif
