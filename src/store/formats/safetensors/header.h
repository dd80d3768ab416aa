/* safetensors_header: the JSON header of a safetensors file, checked. An internal module. */
#ifndef MPILORA_STORE_FORMATS_SAFETENSORS_HEADER_H
#define MPILORA_STORE_FORMATS_SAFETENSORS_HEADER_H

#include <jansson.h>

#include "store/formats/safetensors/safetensors.h"

/* Entries sorted by offset, owned by the caller; their names and types are borrowed from `header`.
 * `data` is where the data begin in the file, `size` the file's bytes. */
ml_status ml_safetensors_entries(const json_t *header, int64_t data, int64_t size,
                                 ml_safetensors_entry **entries, int64_t *count) ML_NODISCARD;

#endif
