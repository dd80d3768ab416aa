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

/* One JSON value with jansson's flags. ML_INPUT with jansson's text, which *error has, too, with
 * its place; ML_RESOURCE where memory was lacking, of which jansson makes a syntax error. *out is
 * owned by the caller; NULL on failure. */
ml_status ml_json_parse(json_t **out, const char *text, int64_t length, size_t flags,
                        json_error_t *error) ML_NODISCARD;

/* A number as JSON has it, with 17 significant digits: `null` for what is none, NaN and infinities.
 * Returns `out`. */
enum { ML_JSON_NUMBER = 32 };
const char *ml_json_number(char out[ML_JSON_NUMBER], double x);

/* Appends "…", with U+FFFD for bytes that are no UTF-8 (a continuation may end inside a
 * character). */
ml_status json_text_add(ml_text *json, const char *bytes, int64_t length) ML_NODISCARD;

#endif
