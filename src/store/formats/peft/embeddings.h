/* Embeddings and heads in PEFT directories. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H
#define MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H

#include "mpilora/store.h"
#include "store/formats/safetensors/safetensors.h"

/* Where the tensor of a PEFT directory, `name` without PEFT's and the family's prefixes, is the
 * embedding or the head of this base: *found, and out gets what is not the base's own. ML_INPUT for
 * another vocabulary, and for a tied model's two ends that differ. */
ml_status ml_peft_read_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                                 const char *name, ml_base *base, ml_adapter *out,
                                 bool *found) ML_NODISCARD;

/* Whether the matrix `entry` holds what the base's tensor of the same shape has, as the base stores
 * it. ML_INPUT and ML_RESOURCE where one cannot be read. */
ml_status ml_peft_is_of_base(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                             ml_base *base, const char *name, bool *same) ML_NODISCARD;

#endif
