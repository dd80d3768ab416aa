/* What a directory of sentence-transformers says of a base: how hidden states become a vector, and
 * how long a text may be. Local. */
#ifndef MPILORA_SESSION_SENTENCE_ENCODER_H
#define MPILORA_SESSION_SENTENCE_ENCODER_H

#include "mpilora/config.h"
#include "mpilora/store.h"

/* ML_POOLING_MEAN and false where the base came from another directory. ML_INPUT naming the file
 * where it asks for what is not known here. */
ml_status sentence_encoder_pooling(const ml_base *base, ml_pooling *pooling,
                                   bool *normalise) ML_NODISCARD;
/* Appends what every text begins with: the prompt that config_sentence_transformers.json names as
 * the default, which most have not. ML_INPUT where it is not among the prompts, or is left out of
 * the vector (include_prompt). */
ml_status sentence_encoder_prompt(const ml_base *base, ml_text *prompt) ML_NODISCARD;
/* sentence_bert_config.json's max_seq_length, else tokenizer_config.json's model_max_length; at
 * most the context. ML_INPUT where one of them is malformed. */
ml_status sentence_encoder_length(const ml_base *base, int64_t *max_len) ML_NODISCARD;

#endif
