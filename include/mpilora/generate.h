/* generate: from a prompt's text to a continuation's text, on one tensor-parallel group of all ranks. */
#ifndef MPILORA_GENERATE_H
#define MPILORA_GENERATE_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"

typedef struct ml_generate_options {
    const char *base, *adapter, *prompt; /* adapter: adapter.h5, a PEFT directory, or NULL */
    ml_dtype precision;
    ml_generation generation; /* `end` is taken from the tokenizer */
} ml_generate_options;

/* Appends the continuation's bytes to *out, the same on every rank. tp = all ranks. ML_USAGE, ML_INPUT (no tokenizer, bad files), ML_RESOURCE, ML_NUMERIC.
 * Collective over the world. */
ml_status ml_generate_run(const ml_generate_options *options, ml_text *out) ML_NODISCARD;

#endif
