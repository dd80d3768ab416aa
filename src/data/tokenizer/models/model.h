/* A model: from a piece of text to ids. Each kind is a file beside this one. */
#ifndef MPILORA_DATA_TOKENIZER_MODELS_MODEL_H
#define MPILORA_DATA_TOKENIZER_MODELS_MODEL_H

#include <jansson.h>

#include "data/tokenizer/plain_model.h"
#include "data/tokenizer/vocabulary.h"
#include "mpilora/data.h"

/* Where ids go, and how they are made. */
typedef struct ml_encoding {
    ml_ids *ids;
    int64_t *lost; /* bytes that no id stands for */
    bool specials; /* the text of a special token may become it */
} ml_encoding;

typedef struct ml_model_kind {
    const char *type; /* in tokenizer.json */
    /* `plain`: what was cut out of the model's JSON. `bytes`: pieces are bytes, tokens are written
     * in the byte-level alphabet. The vocabulary is borrowed. ML_INPUT for what is not supported.
     */
    ml_status (*create)(void **out, const json_t *json, const ml_plain_model *plain,
                        const ml_vocabulary *vocabulary, bool bytes);
    /* The same model for another thread: tables are borrowed from `of`, which outlives it, what
     * encoding writes is its own. */
    ml_status (*share)(void **out, const void *of);
    void (*destroy)(void *self);
    ml_status (*encode)(void *self, const char *piece, int64_t length, const ml_encoding *to);
    bool takes_bytes; /* it can work on bytes */
} ml_model_kind;

extern const ml_model_kind ml_bpe_kind, ml_unigram_kind, ml_wordpiece_kind, ml_wordlevel_kind,
    ml_sentencepiece_kind;

/* What a SentencePiece vocabulary says of a piece (vocabulary_token.kind), as its files have it. */
typedef enum ml_piece_kind {
    ML_PIECE_NORMAL = 1,
    ML_PIECE_UNKNOWN,
    ML_PIECE_CONTROL,
    ML_PIECE_USER_DEFINED,
    ML_PIECE_UNUSED,
    ML_PIECE_BYTE
} ml_piece_kind;

/* Appends ids. ML_RESOURCE. */
ml_status ml_ids_append(ml_ids *ids, const int32_t *more, int64_t count) ML_NODISCARD;
/* Appends one id. ML_RESOURCE. */
ml_status ml_ids_add(ml_ids *ids, int32_t id) ML_NODISCARD;

/* The ids of the tokens "<0x00>" … "<0xFF>", −1 where there is none; whether all are there. */
bool ml_byte_tokens(const ml_vocabulary *vocabulary, int32_t ids[256]);
/* The byte that the text of a token stands for, "<0x0A>", or −1. */
int ml_byte_token_value(const char *text, int64_t length);

#endif
