/* export: a base file as other programs' files. Streams: memory stays below 1 GiB, whatever the
 * model's size. Local. */
#ifndef MPILORA_EXPORT_H
#define MPILORA_EXPORT_H

#include "mpilora/base.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* A Hugging Face directory that transformers loads: config.json, model.safetensors (matrices in
 * the base's dtype, norms and biases fp32; GPT-2 with its fused c_attn, in × out), and
 * tokenizer.json with tokenizer_config.json where the base has a tokenizer.
 * Shapes: as the family's table says.
 * Ownership: borrows `base`.
 * Local.
 * Errors: ML_USAGE where `directory` holds anything but an earlier export; ML_INPUT where the
 * format cannot say what the model is; ML_RESOURCE where it cannot be written. */
ml_status ml_export_huggingface(ml_base *base, const char *directory) ML_NODISCARD;

ML_END_DECLS

#endif
