/* safetensors_image: small safetensors files, made in memory. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_SAFETENSORS_IMAGE_H
#define MPILORA_STORE_FORMATS_SAFETENSORS_IMAGE_H

#include "mpilora/base.h"

/* What the header of every file that is written here begins with: whose it is. */
#define ML_SAFETENSORS_BEGINNING "{\"__metadata__\":{\"format\":\"pt\",\"writer\":\"mpilora\"}"

/* Whether the file at `path` is one of these. */
bool ml_safetensors_is_own(const char *path);

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
