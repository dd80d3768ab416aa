/* Hugging Face model directories: configuration, tensor names and layouts, of the GPT-2 and Llama
 * families. An internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H

#include "mpilora/model.h"

/* config.json of `directory`. ML_INPUT naming the key: what changes the mathematics and is not
 * known here is refused, never ignored. */
ml_status hf_config_read(const char *directory, ml_model_spec *out) ML_NODISCARD;
/* The same, written; `dtype` becomes torch_dtype. */
ml_status hf_config_write(const ml_model_spec *spec, ml_dtype dtype, int32_t end_of_text,
                          ml_text *out) ML_NODISCARD;

/* Where a tensor of mpilora lies in a Hugging Face model: tensor `name` (without "transformer." or
 * "model."), columns (or elements) first … first + its own rows where it is a part of the fused
 * c_attn; `transposed`: stored in × out (GPT-2's Conv1D). */
typedef struct hf_place {
    char name[96];
    bool outside; /* not under the prefix: lm_head.weight */
    bool transposed;
    int64_t first, total; /* this tensor's outputs among `total` of the stored one */
} hf_place;

void hf_place_of(const ml_model_spec *spec, const ml_model_tensor *tensor, hf_place *out);
/* "transformer." or "model.". */
const char *hf_prefix(const ml_model_spec *spec);

#endif
