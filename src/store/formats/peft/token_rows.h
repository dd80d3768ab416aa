/* token_rows: PEFT's trainable_token_indices. An internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_TOKEN_ROWS_H
#define MPILORA_STORE_FORMATS_PEFT_TOKEN_ROWS_H

#include "mpilora/family.h"
#include "mpilora/store.h"
#include "store/formats/peft/config.h"
#include "store/formats/safetensors/image.h"
#include "store/formats/safetensors/safetensors.h"

/* The factor's name within its module. */
extern const char ml_peft_token_factor[];

/* The list that the configuration has for the embedding, or for the head; NULL: none. On a tied
 * base a list of the embedding is the head's, too. ML_INPUT naming what a base of this kind cannot
 * have. */
ml_status ml_peft_token_list(const ml_peft_config *config, const ml_model_spec *spec, bool head,
                             const json_t **list) ML_NODISCARD;
/* The rows e[n, d] of these tokens into the adapter, in ascending order. ML_INPUT. */
ml_status ml_peft_read_tokens(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                              const json_t *list, const ml_model_spec *spec, bool head,
                              ml_adapter *out) ML_NODISCARD;

/* That e has the same rows as the adapter, of which the list is: those of a head that is tied.
 * ML_INPUT. */
ml_status ml_peft_check_tokens(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                               const json_t *list, const ml_adapter *adapter) ML_NODISCARD;

/* What an adapter has of them for adapter_config.json, a new reference: null where there is
 * nothing; and as items, which borrow the rows, *count of them added. */
json_t *ml_peft_token_indices(const ml_adapter *adapter, const ml_model_spec *spec);
void ml_peft_put_tokens(const ml_adapter *adapter, const ml_model_spec *spec,
                        ml_safetensors_item *items, int64_t *count);

#endif
