/* json: JSON of other programs read with limits, and strings of JSON from any bytes. Local. */
#ifndef MPILORA_IO_JSON_H
#define MPILORA_IO_JSON_H

#include <jansson.h>

#include "mpilora/base.h"

/* A JSON file or text of at most 256 MiB, duplicates refused; ML_INPUT naming `name`. The caller
 * ends it with json_decref. `reals`: every number is read as a real, for files that may hold
 * integers beyond 64 bits: transformers writes 10^30 for "no limit" (model_max_length of
 * tokenizer_config.json). */
ml_status ml_json_read_file(json_t **out, const char *path, bool reals) ML_NODISCARD;
ml_status ml_json_read(json_t **out, const char *name, const char *text,
                       int64_t length) ML_NODISCARD;

/* Appends "…", with U+FFFD for bytes that are no UTF-8 (a continuation may end inside a
 * character). */
ml_status json_text_add(ml_text *json, const char *bytes, int64_t length) ML_NODISCARD;

#endif
