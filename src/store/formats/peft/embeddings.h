/* Embeddings and heads in PEFT directories. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H
#define MPILORA_STORE_FORMATS_PEFT_EMBEDDINGS_H

#include "io/json.h"
#include "mpilora/store.h"
#include "store/formats/safetensors/safetensors.h"

/* What the configuration says of the embedding (0) and of the head (1). */
typedef struct ml_peft_ends {
    const json_t *apart[2]; /* tokens whose rows train alone; NULL: none */
    bool saved[2];          /* it trains whole (modules_to_save) */
} ml_peft_ends;

/* Where the tensor of a PEFT directory, `name` without PEFT's and the family's prefixes, is the
 * embedding or the head of this base, or the head's bias: *found, and out gets what is not the
 * base's own. On a tied base either stands for both, but for one that is saved; of an adapted
 * module's own matrix the rows of tokens that train alone may be any. ML_INPUT for another
 * vocabulary, for a tied model's two ends that differ, and for an adapted module's that is not the
 * base's. */
ml_status ml_peft_read_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                                 const char *name, ml_base *base, const ml_peft_ends *said,
                                 ml_adapter *out, bool *found) ML_NODISCARD;

/* Whether the matrix `entry` holds what the base's tensor of the same shape has, as the base stores
 * it. ML_INPUT and ML_RESOURCE where one cannot be read. */
ml_status ml_peft_is_of_base(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                             ml_base *base, const char *name, bool *same) ML_NODISCARD;

#endif
