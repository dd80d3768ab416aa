/* Hugging Face model directories: config.json, as the family's table maps its keys. An internal
 * module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H

#include "io/json.h"
#include "mpilora/family.h"
#include "mpilora/model.h"

/* The keys that hf_config_read looks at in a config.json of one family, with the kinds that they
 * may have: those of the family's table, of rotary positions and of windows. `keys` points into the
 * family and into `element`: not to be copied. */
enum { HF_CONFIG_KEYS = 64 };
typedef struct hf_config_keys {
    ml_json_key keys[HF_CONFIG_KEYS]; /* ended by a NULL path */
    int64_t count;
    char element[64];
} hf_config_keys;
ml_status hf_config_keys_of(const ml_family *family, hf_config_keys *out) ML_NODISCARD;

/* The file `path`, a config.json. ML_INPUT naming the key: what changes the mathematics and is not
 * known here is refused, never ignored. */
ml_status hf_config_read(const char *path, ml_model_spec *out) ML_NODISCARD;
/* The same, written; `dtype` becomes torch_dtype. ML_INPUT where the family's config.json has no
 * key for a feature of this model. */
ml_status hf_config_write(const ml_model_spec *spec, ml_dtype dtype, int32_t end_of_text,
                          ml_text *out) ML_NODISCARD;

#endif
