/* stored: tensors of the base that a PEFT directory holds whole: those of modules_to_save, and
 * trained biases. An internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_STORED_H
#define MPILORA_STORE_FORMATS_PEFT_STORED_H

#include "mpilora/family.h"
#include "mpilora/store.h"
#include "store/formats/safetensors/image.h"
#include "store/formats/safetensors/safetensors.h"

enum { ML_PEFT_NAME = 256 };

/* A tensor's name in a PEFT directory without "base_model.model." and without the "_orig_mod." that
 * torch.compile puts into names of what it compiled; a head's former name is that of today. */
void ml_peft_plain_name(const ml_family *family, const char *name, char plain[ML_PEFT_NAME]);

/* Where a tensor of the model stands in Hugging Face's model in memory, whose names PEFT takes. */
void ml_peft_place_of(const ml_model_spec *spec, const ml_model_tensor *tensor,
                      ml_stored_place *place);

/* Whether tensor `t` of the untied model is, or is a part of, Hugging Face's tensor `name`, which
 * lacks PEFT's and the family's prefixes. */
bool ml_peft_is_stored(const ml_model_spec *untied, const ml_model_tensor *t, const char *name);
/* Every tensor of the model that is in e, in the adapter. ML_INPUT naming e, found and expected. */
ml_status ml_peft_read_stored(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                              const char *name, const ml_model_spec *untied,
                              ml_adapter *out) ML_NODISCARD;

/* Whether the bias t trains without its module's weight. */
bool ml_peft_is_bias_alone(const ml_adapter *adapter, const ml_model_spec *untied,
                           const ml_model_tensor *t);

/* The tensors of an adapter as items that are put together from their parts; starts from {0}. */
typedef struct ml_peft_stored {
    int64_t count;
    ml_safetensors_item *items; /* owned, names without "base_model.model." */
    float **values;             /* [count]; owned */
    int64_t *filled;            /* [count] rows */
    int64_t *total;
    bool *bias_alone;
} ml_peft_stored;
void ml_peft_stored_destroy(ml_peft_stored *s);
/* ML_USAGE naming a module of which only a part trains. */
ml_status ml_peft_collect_stored(const ml_adapter *adapter, const ml_model_spec *untied,
                                 ml_peft_stored *out) ML_NODISCARD;

#endif
