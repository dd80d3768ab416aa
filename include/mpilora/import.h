/* import: pretrained weights from other programs' files to base files. Streams on all threads:
 * a thread holds half a million weights, or a row where that is longer. Local. */
#ifndef MPILORA_IMPORT_H
#define MPILORA_IMPORT_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/config.h"
#include "mpilora/model.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* What an import makes of a source. */
typedef struct ml_import_options {
    const char *hf_config;  /* for a GGUF file, the config.json that it was converted from, whose
                               description of the model takes the place of the file's (the family of
                               an architecture that several share, sliding windows); NULL: the
                               file's own, with a warning of what GGUF cannot say */
    const char *tokenizer;  /* for a GGUF file, a directory whose tokenizer, with its files, takes
                               the place of the file's; NULL: the file's own */
    ml_dtype dtype;         /* fp32 or bf16: of matrices in no blocks; norms and biases are fp32 */
    const char *add_tokens; /* a file of tokens that the tokenizer learns (ml_tokenizer_grow); the
                               rows of new ones, of embedding and head, are the mean of the old
                               tokens'; NULL: none */
    bool keep;              /* matrices that the source has in blocks, or packed as blocks say it
                               exactly, stay in them */
    const ml_block_format *quantise; /* what matrices become; NULL: they become `dtype` */
    const ml_block_format *head; /* with `quantise`, what the head (of a tied model the embedding)
                                    becomes; NULL: llama.cpp's choice */
    int64_t memory; /* bytes that the process may take while it imports a source; 0: as it is said
                       above */
} ml_import_options;

/* Imports a Hugging Face directory or a GGUF file. An existing `out` is replaced only on success.
 * What blocks would save, or have saved, is said.
 * Shapes: as the family's table says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE where hf_config or tokenizer stands beside a directory, or keep where nothing is
 * in blocks, or where `memory` is less than is needed, or add_tokens beside a source without a
 * tokenizer that can be read; ML_INPUT naming file, tensor, what was found and what was expected;
 * ML_RESOURCE where `out` cannot be written. */
ml_status ml_import(const char *source, const ml_import_options *options,
                    const char *out) ML_NODISCARD;

/* The formats of a base that is quantised to options->quantise, as llama.cpp chooses them a tensor
 * at a time: positions stay in options->dtype; the head becomes Q6_K, beside Q8_0, MXFP4 and rows
 * that do not fit Q8_0; where rows are no multiple of 256, Q4_K falls back to Q5_0, Q5_K to Q5_1,
 * Q6_K to Q8_0, and where 32 does not divide them either, they stay. What falls back is said.
 * Shapes: formats[ml_model_formats(spec)].
 * Ownership: all borrowed; `formats` is the caller's.
 * Local.
 * Errors: none. */
void ml_import_formats(const ml_model_spec *spec, const ml_import_options *options,
                       ml_dtype *formats);

/* Makes a base of any shape: matrices normal(0, 0.02), those that write to the residual stream (o,
 * proj, down) divided by √(2·layers), norms 1, biases 0; every number a function of (seed, tensor,
 * place), in options->dtype or options->quantise. `tokenizer`: a directory, whose chat template,
 * names of special tokens and ends of an answer the base takes, too; or NULL.
 * Shapes: as `spec` says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT of the tokenizer; ML_RESOURCE where `out` cannot be written. */
ml_status ml_import_random(const ml_model_spec *spec, uint64_t seed, const char *tokenizer,
                           const ml_import_options *options, const char *out) ML_NODISCARD;

ML_END_DECLS

#endif
