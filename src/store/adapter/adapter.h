/* adapter: what adapter.h5, PEFT directories and the study of adapters share. For modules inside
 * the library. */
#ifndef MPILORA_STORE_ADAPTER_ADAPTER_H
#define MPILORA_STORE_ADAPTER_ADAPTER_H

#include "mpilora/store.h"

/* A kind of module: what comes behind "layers.N.", and the module that Hugging Face's model of the
 * family has for it. */
typedef struct ml_module_kind {
    const char *name;   /* "attn.q" */
    const char *module; /* "self_attn.q_proj"; GPT-2's q, k and v share "attn.c_attn" */
} ml_module_kind;

/* The kinds of a family, ended by a NULL name. */
const ml_module_kind *ml_module_kinds(ml_family family);

/* Input and output width of a kind of module. */
void ml_module_shape(const ml_model_spec *spec, const char *kind, int64_t *in, int64_t *out);
/* First row of a kind within its module's output: that of k and v in GPT-2's fused projection,
 * else 0. */
int64_t ml_module_first_row(const ml_model_spec *spec, const char *kind);
/* Splits "layers.3.attn.q" into 3 and the family's kind; NULL where the model has no such module.
 */
const ml_module_kind *ml_module_parse(const ml_model_spec *spec, const char *module,
                                      int64_t *layer);

float ml_adapter_scale(double alpha, int64_t rank, bool rslora);

/* Appends a pair with room for its factors; *pair stays valid until the next call. */
ml_status ml_adapter_add(ml_adapter *adapter, int64_t *capacity, const char *module, int64_t rank,
                         int64_t in, int64_t out, ml_adapter_pair **pair) ML_NODISCARD;
/* Room for a pair's magnitudes. */
ml_status ml_adapter_add_magnitudes(ml_adapter_pair *pair) ML_NODISCARD;
/* Sites, shapes, ranks and values of all pairs: ML_INPUT naming module, found and expected. Sorts
 * the pairs into the model's order. */
ml_status ml_adapter_check(ml_adapter *adapter, const ml_model_spec *spec) ML_NODISCARD;

ml_status ml_adapter_read_file(ml_adapter *out, const char *path) ML_NODISCARD;
ml_status ml_adapter_read_peft(ml_adapter *out, const char *directory,
                               const ml_model_spec *spec) ML_NODISCARD;

#endif
