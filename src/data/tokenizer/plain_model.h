/* The two large members of a BPE model in a tokenizer.json, "vocab" and "merges", read without a
 * tree of JSON values: making that tree is most of what opening a tokenizer would cost.
 *
 * Only what is plainly written is read so. Whatever looks otherwise is ML_INPUT here and left to
 * the JSON library, which also has the words for what is wrong: the caller reads the text again
 * without cutting it. */
#ifndef MPILORA_DATA_TOKENIZER_PLAIN_MODEL_H
#define MPILORA_DATA_TOKENIZER_PLAIN_MODEL_H

#include "data/tokenizer/vocabulary.h"

typedef struct ml_plain_span {
    const char *text; /* NULL: not cut */
    int64_t length;
} ml_plain_span;

typedef struct ml_plain_model {
    ml_plain_span vocab, merges; /* with their brackets; borrowed from the text that was cut */
    ml_text rest;                /* that text with both of them empty */
} ml_plain_model;

/* Cuts both members out of a tokenizer.json, or neither. Start from {0}; end with
 * ml_plain_model_destroy. Local, as all of these. ML_RESOURCE. */
ml_status ml_plain_model_cut(ml_plain_model *model, const char *json, int64_t length) ML_NODISCARD;
void ml_plain_model_destroy(ml_plain_model *model);

/* Puts the texts of "vocab" at their ids. ML_INPUT, also for a text that comes twice. */
ml_status ml_plain_model_vocab(const ml_plain_model *model, ml_vocabulary *vocabulary) ML_NODISCARD;

/* Takes the two parts of a merge, whose place in the list is `rank`. */
typedef ml_status (*ml_merge_sink)(void *self, const char *left, int64_t left_length,
                                   const char *right, int64_t right_length, int32_t rank);
/* Hands on the merges, texts "left right" or pairs, one after the other. ML_INPUT. */
ml_status ml_plain_model_merges(const ml_plain_model *model, ml_merge_sink take,
                                void *self) ML_NODISCARD;

#endif
