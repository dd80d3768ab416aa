/* What reading and writing a config.json have in common. An internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_CONFIG_VALUES_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_CONFIG_VALUES_H

#include "store/formats/huggingface/huggingface.h"

/* The value of a key whose kind is checked already; where it is absent or null `*otherwise`, NULL:
 * ML_INPUT. Local. */
ml_status hf_get_int(const json_t *o, const char *name, const int64_t *otherwise,
                     int64_t *out) ML_NODISCARD;
ml_status hf_get_real(const json_t *o, const char *name, const double *otherwise,
                      double *out) ML_NODISCARD;
bool hf_get_bool(const json_t *o, const char *name, bool otherwise);

/* The activation of a key's word; nothing where it is absent. `gelu`: every GELU is that with tanh,
 * whatever the file says. ML_INPUT for a word that is not known. And the word of an activation.
 * Local. */
ml_status hf_get_activation(const json_t *o, const char *name, bool gelu,
                            ml_activation *out) ML_NODISCARD;
const char *hf_activation_word(const ml_model_spec *s, ml_activation activation);

/* windows.c: s->window and s->full_layers. Written, 0 where there was memory. Local. */
ml_status hf_windows_read(const json_t *o, const ml_window_keys *keys,
                          ml_model_spec *s) ML_NODISCARD;
int hf_windows_write(json_t *o, const ml_model_spec *s);

#endif
