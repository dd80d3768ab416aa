/* The vocabulary of a tokenizer.json, and the kinds of the keys that are looked at. */
#ifndef MPILORA_DATA_TOKENIZER_TOKENIZER_JSON_H
#define MPILORA_DATA_TOKENIZER_TOKENIZER_JSON_H

#include "data/tokenizer/models/model.h"
#include "io/json.h"

/* Of the model and the added tokens; the stages have tables of their own. */
extern const ml_json_key ml_tokenizer_json_keys[];

/* The kind of a model; ML_INPUT for one that is not known. Local, as all of these. */
ml_status ml_tokenizer_json_kind(const json_t *model, const ml_model_kind **kind) ML_NODISCARD;
/* The texts of the model and of the added tokens; `plain`: what was cut out of *root. ML_INPUT. */
ml_status ml_tokenizer_json_vocabulary(ml_vocabulary *vocabulary, const json_t *root,
                                       const ml_plain_model *plain) ML_NODISCARD;

#endif
