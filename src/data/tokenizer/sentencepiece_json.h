/* The parts of a SentencePiece model, from its own file or from GGUF, and the tokenizer.json of
 * them: with stages that encode as that library does, or, for other programs, with those that
 * `tokenizers` knows. */
#ifndef MPILORA_DATA_TOKENIZER_SENTENCEPIECE_JSON_H
#define MPILORA_DATA_TOKENIZER_SENTENCEPIECE_JSON_H

#include <jansson.h>

#include "mpilora/base.h"

typedef struct ml_sentencepiece {
    json_t *pieces, *added; /* owned */
    const char *algorithm;  /* "bpe", "unigram" or "char" */
    bool byte_fallback, suffix, dummy_prefix, remove_extra, escape;
    ml_text charsmap, unknown_surface; /* owned; empty: none, the usual one */
} ml_sentencepiece;

/* Sets what a file does not say; end with ml_sentencepiece_destroy. Local, as all of these. */
ml_status ml_sentencepiece_start(ml_sentencepiece *s) ML_NODISCARD;
void ml_sentencepiece_destroy(ml_sentencepiece *s);
/* The next piece; `kind`: ml_piece_kind. ML_INPUT. */
ml_status ml_sentencepiece_add(ml_sentencepiece *s, const char *text, int64_t length, float score,
                               int64_t kind) ML_NODISCARD;
int64_t ml_sentencepiece_count(const ml_sentencepiece *s);
/* A tokenizer.json that puts `begin` before and `end` after a text (−1: nothing); the caller ends
 * *root with json_decref. */
ml_status ml_sentencepiece_json(const ml_sentencepiece *s, int64_t begin, int64_t end,
                                json_t **root) ML_NODISCARD;
/* Such a tokenizer.json in the stages of `tokenizers`, as transformers converts such models. */
ml_status ml_sentencepiece_convert(const json_t *root, json_t **converted) ML_NODISCARD;

#endif
