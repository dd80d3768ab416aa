/* Embeddings and heads in PEFT directories. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H
#define MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H

#include "mpilora/store.h"
#include "store/formats/safetensors/safetensors.h"

/* Whether the tensor of a PEFT directory, `name` without PEFT's and the family's prefixes, is the
 * embedding or the head of this base; then it has the base's own values, else ML_INPUT. */
ml_status ml_peft_check_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                                  const char *name, ml_base *base, bool *found) ML_NODISCARD;

#endif
