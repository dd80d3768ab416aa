/* Hugging Face model directories: config.json, as the family's table maps its keys. An internal
 * module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_HUGGINGFACE_H

#include "io/json.h"
#include "mpilora/family.h"
#include "mpilora/model.h"
#include "store/formats/packed/packed.h"

/* The keys that hf_config_read looks at in a config.json of one family, with the kinds that they
 * may have: those of the family's table, of rotary positions and of windows. `keys` points into
 * `text`: not to be copied. */
enum { HF_CONFIG_KEYS = 160 };
typedef struct hf_config_keys {
    ml_json_key keys[HF_CONFIG_KEYS]; /* ended by a NULL path */
    int64_t count;
    char text[8192]; /* the paths */
    size_t used;
    bool full; /* there was no room for all */
} hf_config_keys;
/* The key `place` with `key` behind it; nothing where it may have no kind. */
void hf_config_add_key(hf_config_keys *to, const char *place, const char *key, unsigned kinds);
ml_status hf_config_keys_of(const ml_family *family, hf_config_keys *out) ML_NODISCARD;
/* config_unread.c: one warning that names the keys of `o` that are neither in `read` nor known to
 * say nothing. */
void hf_config_warn_of_unread(const json_t *o, const ml_family *family, const hf_config_keys *read,
                              const char *path);

/* The file `path`, a config.json. ML_INPUT naming the key: what changes the mathematics and is not
 * known here is refused, never ignored. `packed`: what it says of matrices that are packed; NULL:
 * it must say nothing of them. */
ml_status hf_config_read(const char *path, ml_model_spec *out, packed_config *packed) ML_NODISCARD;
ml_status hf_config_parse(const json_t *root, const char *path, ml_model_spec *out,
                          packed_config *packed) ML_NODISCARD;
/* config_write.c: the same, written; `dtype` becomes torch_dtype, and the ids of special tokens are
 * those of `source`, the config.json that the model came with, else `end_of_text` (−1: none).
 * ML_INPUT where the family's config.json cannot say what this model is. */
ml_status hf_config_write(const ml_model_spec *spec, ml_dtype dtype, int32_t end_of_text,
                          const ml_text *source, ml_text *out) ML_NODISCARD;

/* shape.c: whether a tensor lies there in × out; the shape that it has there, whose dimensions are
 * returned. */
enum { HF_DIMS = 3 };
bool hf_is_transposed(const ml_model_tensor *tensor, const ml_stored_place *place);
int hf_shape(const ml_model_spec *spec, const ml_model_tensor *tensor, const ml_stored_place *place,
             int64_t shape[HF_DIMS]);

/* relative_keys.c: DeBERTa's, from ML_KEY_SOLE on. */
ml_status hf_relative_read(const json_t *o, const ml_family_key *k, ml_model_spec *s) ML_NODISCARD;
json_t *hf_relative_json(const ml_model_spec *s, const ml_family_key *k);

/* rope.c: the keys of rotary positions: those that are looked at; read; written, 0 where there was
 * memory. */
void hf_rope_keys(const ml_family *family, hf_config_keys *to);
ml_status hf_rope_read(const json_t *root, ml_model_spec *s) ML_NODISCARD;
int hf_rope_write(json_t *o, const ml_model_spec *s);

#endif
