/* The normalizer of a tokenizer.json: a chain of stages, each of which turns a whole text (between
 * added tokens) into another one. */
#ifndef MPILORA_DATA_TOKENIZER_NORMALIZER_H
#define MPILORA_DATA_TOKENIZER_NORMALIZER_H

#include <jansson.h>

#include "data/tokenizer/trie.h"
#include "mpilora/base.h"

typedef struct ml_normalizer ml_normalizer;

/* A text and how many of its first bytes come from the first character of the original text, which
 * Metaspace's "first" asks for; 0 where what stood first is gone. */
typedef struct ml_aligned {
    ml_text text;
    int64_t first;
} ml_aligned;

/* *out NULL where the JSON is null or absent. `frozen`: the spellings that SentencePiece's stage
 * leaves as they are; borrowed. ML_INPUT for what is not known. Local, as all of these. */
ml_status ml_normalizer_create(ml_normalizer **out, const json_t *json,
                               const ml_trie *frozen) ML_NODISCARD;
/* The same for another thread: it borrows the stages of `of`, which outlives it. NULL of NULL. */
ml_status ml_normalizer_share(ml_normalizer **out, const ml_normalizer *of) ML_NODISCARD;
void ml_normalizer_destroy(ml_normalizer *normalizer);
/* *out is the normalizer's, valid until the next call. NULL `normalizer` is none. `first`: the text
 * begins where the original one does. */
ml_status ml_normalizer_run(ml_normalizer *normalizer, const char *text, int64_t length, bool first,
                            const ml_aligned **out) ML_NODISCARD;

#endif
