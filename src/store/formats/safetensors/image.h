/* safetensors_image: small safetensors files, made in memory. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_SAFETENSORS_IMAGE_H
#define MPILORA_STORE_FORMATS_SAFETENSORS_IMAGE_H

#include "mpilora/base.h"

/* One fp32 matrix, or vector of `rows`, to be written; borrowed. */
typedef struct ml_safetensors_item {
    char name[160];
    int64_t rows, cols;
    bool vector; /* cols 1 */
    const float *values;
} ml_safetensors_item;

/* The bytes of a file with these tensors, in this order. */
ml_status ml_safetensors_image(const ml_safetensors_item *items, int64_t count,
                               ml_text *out) ML_NODISCARD;

#endif
