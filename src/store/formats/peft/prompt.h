/* peft_prompt: virtual tokens before a sequence in PEFT directories, both ways. Local; an internal
 * module.
 *
 * Both of PEFT's methods have one tensor, prompt_embeddings, a row a token:
 *   PROMPT_TUNING   [l_p, d]                         the embedding of the token, to which its
 *     position's is added: prefix_embed
 *   PREFIX_TUNING   [l_p, 2·L·(key/value heads × h)]   key and value of layer 0, of layer 1, …, as
 *     attention takes them: prefix_kv */
#ifndef MPILORA_STORE_FORMATS_PEFT_PROMPT_H
#define MPILORA_STORE_FORMATS_PEFT_PROMPT_H

#include "mpilora/store.h"
#include "store/formats/peft/config.h"
#include "store/formats/safetensors/safetensors.h"

/* Method, sizes and tensors of `out`. ML_INPUT naming key or tensor, what was found and what this
 * base needs. */
ml_status ml_peft_prompt_read(ml_adapter *out, const ml_peft_config *config,
                              const ml_safetensors *tensors,
                              const ml_model_spec *spec) ML_NODISCARD;
/* ML_USAGE where the adapter has tokens between prompt and completion, which PEFT has not. */
ml_status ml_peft_prompt_write(const ml_adapter *adapter, const ml_model_spec *spec,
                               const char *base_name, const char *directory) ML_NODISCARD;

#endif
