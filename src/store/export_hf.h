/* export_hf: the weights of a Hugging Face directory. Local; private to store/. */
#ifndef MPILORA_STORE_EXPORT_HF_H
#define MPILORA_STORE_EXPORT_HF_H

#include "mpilora/store.h"

/* model.safetensors, streamed; an older file is replaced once the new one is whole. ML_RESOURCE, or ML_INPUT where the base cannot be read. */
ml_status export_hf_weights(ml_base *base, const char *path) ML_NODISCARD;

#endif
