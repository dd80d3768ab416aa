/* The stages of a tokenizer.json as its JSON describes them: objects with a "type", alone or in a
 * Sequence of Sequences. Each part of the pipeline has a table of the types that it knows. */
#ifndef MPILORA_DATA_TOKENIZER_STAGES_H
#define MPILORA_DATA_TOKENIZER_STAGES_H

#include "io/json.h"

/* How deep Sequences may lie in each other: nobody writes two levels. */
enum { ML_DEEPEST_SEQUENCE = 16 };

enum {
    ML_STAGE_FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    ML_STAGE_TEXT = ML_JSON_TEXT | ML_JSON_NULL,
    ML_STAGE_PATTERN = ML_JSON_OBJECT | ML_JSON_TEXT
};

/* Calls `one` for every object with a type, in order; `list` is the key of a Sequence's list, and
 * `part` names the part of the pipeline in messages. NULL and null are no stage. ML_INPUT. */
ml_status ml_stages_each(const json_t *json, const char *part, const char *list,
                         ml_status (*one)(void *self, const char *type, const json_t *json),
                         void *self) ML_NODISCARD;

/* A member's text ("" where it is none), truth or whole number, with a value for absence. */
const char *ml_stage_text(const json_t *json, const char *key);
bool ml_stage_flag(const json_t *json, const char *key, bool absent);

#endif
