/* import: pretrained weights from other programs' files to base files. Streams: memory stays below
 * 1 GiB and the largest tensor. Local. */
#ifndef MPILORA_IMPORT_H
#define MPILORA_IMPORT_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/model.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* What an import makes of a source. */
typedef struct ml_import_options {
    const char *hf_config; /* for a GGUF file, the config.json that it was converted from, whose
                              description of the model takes the place of the file's (the family of
                              an architecture that several share, sliding windows); NULL: the
                              file's own, with a warning of what GGUF cannot say */
    ml_dtype dtype;        /* fp32 or bf16: of matrices in no blocks; norms and biases are fp32 */
    bool keep;             /* matrices that the source has in blocks stay in them */
} ml_import_options;

/* Imports a Hugging Face directory or a GGUF file. An existing `out` is replaced only on success.
 * What blocks would save, or have saved, is said.
 * Shapes: as the family's table says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE where hf_config stands beside a directory, or keep where nothing is in blocks;
 * ML_INPUT naming file, tensor, what was found and what was expected; ML_RESOURCE where `out`
 * cannot be written. */
ml_status ml_import(const char *source, const ml_import_options *options,
                    const char *out) ML_NODISCARD;

/* Makes a base of any shape: matrices normal(0, 0.02), those that write to the residual stream (o,
 * proj, down) divided by √(2·layers), norms 1, biases 0; every number a function of (seed, tensor,
 * place). `tokenizer`: a directory, or NULL.
 * Shapes: as `spec` says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT of the tokenizer; ML_RESOURCE where `out` cannot be written. */
ml_status ml_import_random(const ml_model_spec *spec, uint64_t seed, const char *tokenizer,
                           ml_dtype dtype, const char *out) ML_NODISCARD;

ML_END_DECLS

#endif
