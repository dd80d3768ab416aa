/* base_json: files of a model's directory, which its base keeps, as JSON. */
#ifndef MPILORA_SESSION_BASE_JSON_H
#define MPILORA_SESSION_BASE_JSON_H

#include "io/json.h"
#include "mpilora/store.h"

/* *out is the caller's, ended with json_decref; NULL where the base has no such file. ML_INPUT
 * naming the file where it is no JSON. Local. */
ml_status ml_session_read_json(json_t **out, const ml_base *base, const char *name) ML_NODISCARD;

#endif
