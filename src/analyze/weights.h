/* weights: reading the weights of a study's modules. Private to analyze/. */
#ifndef MPILORA_ANALYZE_WEIGHTS_H
#define MPILORA_ANALYZE_WEIGHTS_H

#include "mpilora/analyze.h"

/* The context of weight_reader_rows. */
typedef struct weight_reader {
    const ml_study *study;
    const ml_study_module *module;
} weight_reader;

/* An ml_rows_reader of a module's W: of GPT-2's fused projection the rows of q, k and v one after
 * the other. ML_INPUT naming the place of a NaN or Inf. */
ml_status weight_reader_rows(void *context, int64_t first, int64_t count, float *out) ML_NODISCARD;

#endif
