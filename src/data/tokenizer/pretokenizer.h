/* The pre-tokenizer of a tokenizer.json: a chain of stages, each of which cuts every piece of the
 * stage before it (and may rewrite it); inside what comes out the model works. */
#ifndef MPILORA_DATA_TOKENIZER_PRETOKENIZER_H
#define MPILORA_DATA_TOKENIZER_PRETOKENIZER_H

#include <jansson.h>

#include "data/tokenizer/split.h"

typedef struct ml_pretokenizer ml_pretokenizer;

/* A null or absent JSON makes one of no stages. ML_INPUT for what is not known. Local, as all of
 * these. */
ml_status ml_pretokenizer_create(ml_pretokenizer **out, const json_t *json) ML_NODISCARD;
/* The same for another thread: of `of`, which outlives it, it borrows compiled patterns. */
ml_status ml_pretokenizer_share(ml_pretokenizer **out, const ml_pretokenizer *of) ML_NODISCARD;
void ml_pretokenizer_destroy(ml_pretokenizer *pretokenizer);

/* Whether the last stage writes pieces in the byte-level alphabet; from now on it does not, and
 * pieces are the bytes themselves, for a model that works on bytes. */
bool ml_pretokenizer_ends_in_bytes(const ml_pretokenizer *pretokenizer);
void ml_pretokenizer_keep_bytes(ml_pretokenizer *pretokenizer);

/* Hands each piece of `text`, valid UTF-8, to `sink`, in order. */
ml_status ml_pretokenizer_run(ml_pretokenizer *pretokenizer, const ml_piece *text,
                              ml_piece_sink sink, void *context) ML_NODISCARD;

#endif
