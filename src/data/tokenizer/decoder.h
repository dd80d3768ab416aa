/* The decoder of a tokenizer.json: from the texts of tokens, by a chain of stages, to one text. */
#ifndef MPILORA_DATA_TOKENIZER_DECODER_H
#define MPILORA_DATA_TOKENIZER_DECODER_H

#include <jansson.h>

#include "data/tokenizer/vocabulary.h"

typedef struct ml_decoder ml_decoder;

/* A null or absent JSON makes one that puts blanks between tokens, as `tokenizers` does. ML_INPUT
 * for what is not known. Local, as all of these. */
ml_status ml_decoder_create(ml_decoder **out, const json_t *json) ML_NODISCARD;
void ml_decoder_destroy(ml_decoder *decoder);

/* Appends the text of ids; ids beyond the vocabulary and unknown ones have none. Bytes of a
 * byte-level vocabulary come out as they are, whether they are UTF-8 together or not. */
ml_status ml_decoder_run(const ml_decoder *decoder, const ml_vocabulary *vocabulary,
                         const int32_t *ids, int64_t count, ml_text *out) ML_NODISCARD;

#endif
