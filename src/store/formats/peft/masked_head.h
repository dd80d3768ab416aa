/* A head for masked tokens in PEFT directories, with modules_to_save: PEFT saves all of the module,
 * also the matrix that a tied model shares with the embedding, whose copy it trains apart, and its
 * bias a second time. What it loads must have all of that. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_MASKED_HEAD_H
#define MPILORA_STORE_FORMATS_PEFT_MASKED_HEAD_H

#include "mpilora/store.h"
#include "store/formats/peft/stored.h"
#include "store/formats/safetensors/safetensors.h"

/* Where the base has no such head and the directory has, `spec` gets it, under the names that the
 * directory has. */
void ml_peft_find_masked_head(const ml_safetensors *tensors, ml_model_spec *spec);

/* Where `name`, which lacks prefixes, is the head's matrix or its bias's second name: *found, and
 * out gets what is not the base's own. ML_INPUT for another vocabulary. `base` NULL: only its
 * specification is at hand. */
ml_status ml_peft_read_masked_head(const ml_safetensors *tensors, const ml_safetensors_entry *entry,
                                   const char *name, const ml_model_spec *spec, ml_base *base,
                                   ml_adapter *out, bool *found) ML_NODISCARD;

/* What the adapter's new head lacks of PEFT's tensors, the matrix read from `base`. */
ml_status ml_peft_add_masked_head(const ml_model_spec *spec, ml_base *base,
                                  ml_peft_stored *stored) ML_NODISCARD;

#endif
