/* The post-processor of a tokenizer.json: which special tokens stand around one text and around
 * two. */
#ifndef MPILORA_DATA_TOKENIZER_POSTPROCESSOR_H
#define MPILORA_DATA_TOKENIZER_POSTPROCESSOR_H

#include <jansson.h>

#include "data/tokenizer/vocabulary.h"
#include "mpilora/data.h"

typedef struct ml_template {
    ml_template_part *parts;
    int64_t count, capacity;
} ml_template;

typedef struct ml_postprocessor {
    ml_template single, pair;
} ml_postprocessor;

/* Start from {0}; end with ml_postprocessor_destroy. A null or absent JSON: the texts alone.
 * ML_INPUT for what is not known. Local. */
ml_status ml_postprocessor_read(ml_postprocessor *p, const json_t *json,
                                const ml_vocabulary *vocabulary) ML_NODISCARD;
void ml_postprocessor_destroy(ml_postprocessor *p);

#endif
