/* peft_export: what the exports to PEFT share. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_EXPORT_H
#define MPILORA_STORE_FORMATS_PEFT_EXPORT_H

#include <jansson.h>

#include "mpilora/store.h"
#include "store/formats/safetensors/image.h"

/* The directory's two files. Takes `config` over; NULL counts as out of memory. */
ml_status ml_peft_write(const char *directory, json_t *config, const ml_safetensors_item *items,
                        int64_t count) ML_NODISCARD;

#endif
