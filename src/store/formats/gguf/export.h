/* What the files of GGUF's export share. An internal module of the format. */
#ifndef MPILORA_STORE_FORMATS_GGUF_EXPORT_H
#define MPILORA_STORE_FORMATS_GGUF_EXPORT_H

#include "mpilora/export.h"
#include "mpilora/family.h"
#include "mpilora/store.h"
#include "store/formats/gguf/write.h"

/* export_describe.c: the keys of the model's architecture. ML_INPUT where GGUF has none for the
 * family, or for a head of its own. Local. */
ml_status gguf_describe(gguf_writer *w, const ml_model_spec *spec) ML_NODISCARD;
/* Tensors that stand for rope scaling: adds them to the table; and writes their contents. */
ml_status gguf_add_rope_factors(gguf_writer *w, const ml_model_spec *spec) ML_NODISCARD;
ml_status gguf_put_rope_factors(gguf_writer *w, const ml_model_spec *spec) ML_NODISCARD;
/* Reads the head of the file, which is written, as an import does: ML_INPUT naming the first thing
 * of the model that a reader would take for another. */
ml_status gguf_check_description(const gguf_writer *w, const ml_model_spec *spec) ML_NODISCARD;
/* The architecture of the family; ML_INPUT where GGUF has none. */
ml_status gguf_architecture(const ml_model_spec *spec, const char **out) ML_NODISCARD;

/* export_tokenizer.c: the keys of the base's tokenizer and of the chat templates; a tokenizer that
 * GGUF has no words for is left out with a warning. ML_INPUT, ML_RESOURCE. Local. */
ml_status gguf_describe_tokenizer(gguf_writer *w, const ml_base *base,
                                  const ml_gguf_export_options *options) ML_NODISCARD;

#endif
