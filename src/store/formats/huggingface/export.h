/* export_hf: the weights of a Hugging Face directory. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_EXPORT_H

#include "mpilora/store.h"

/* model.safetensors, streamed; an older file is replaced once the new one is whole. ML_RESOURCE,
 * or ML_INPUT where the base cannot be read. */
ml_status export_hf_weights(ml_base *base, const char *path) ML_NODISCARD;

#endif
