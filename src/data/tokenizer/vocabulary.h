/* The vocabulary: the text of each id, and the id of each text.
 *
 * Texts are as the source spells them (in the byte-level alphabet, with "▁" for a blank, "##"
 * before what continues a word); added tokens as they stand in text. Two ids may have the same
 * text: the text then means the later one. */
#ifndef MPILORA_DATA_TOKENIZER_VOCABULARY_H
#define MPILORA_DATA_TOKENIZER_VOCABULARY_H

#include "data/tokenizer/trie.h"

enum { ML_LARGEST_VOCABULARY = 1 << 21 };

typedef struct ml_vocabulary {
    ml_text bytes;
    struct vocabulary_token {
        int64_t at; /* in bytes */
        int32_t length;
        int32_t shown_length; /* 0: it is shown as it is spelt */
        int64_t shown;        /* in bytes */
        bool known, special, added;
        bool of_model; /* not of the added tokens alone */
        float score;   /* of a Unigram or SentencePiece model */
        uint8_t kind;  /* of a SentencePiece model */
    } * tokens;        /* [size] by id */
    int64_t size, capacity;
    struct vocabulary_slot {
        uint32_t hash;
        int32_t id; /* −1: a free slot */
    } * slots;
    uint64_t mask;
    int64_t filled;
    ml_trie frozen; /* SentencePiece's user-defined pieces: never part of another one */
} ml_vocabulary;

/* Start from {0}; end with ml_vocabulary_destroy. Local, as all of these. */
void ml_vocabulary_destroy(ml_vocabulary *v);
/* Puts a text at an id. ML_INPUT where the id has another text already, is negative or absurd. */
ml_status ml_vocabulary_set(ml_vocabulary *v, int64_t id, const char *text,
                            int64_t length) ML_NODISCARD;
/* The id of a text, or −1. */
int32_t ml_vocabulary_find(const ml_vocabulary *v, const char *text, int64_t length);
/* The text of an id, whose length goes to *length; "" for an id without one. */
const char *ml_vocabulary_text(const ml_vocabulary *v, int64_t id, int64_t *length);

/* The text that decoding starts from: of an added token that is looked for in normalized text, its
 * normalized spelling. */
const char *ml_vocabulary_shown(const ml_vocabulary *v, int64_t id, int64_t *length);
ml_status ml_vocabulary_show(ml_vocabulary *v, int64_t id, const char *text,
                             int64_t length) ML_NODISCARD;

#endif
