/* json: JSON of other programs read with limits, and strings of JSON from any bytes. Local. */
#ifndef MPILORA_IO_JSON_H
#define MPILORA_IO_JSON_H

#include <jansson.h>

#include "mpilora/base.h"

/* A JSON file or text of at most 256 MiB, duplicates refused; ML_INPUT naming `name`. `text` ends
 * with a zero byte. What Python's json writes beside JSON is taken for another kind: NaN and
 * Infinity for strings, integers of more than 18 digits for reals. The caller ends it with
 * json_decref. `reals`: every number is read as a real, for files that may hold
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

/* The kinds that the value of a key may have, as bits. */
typedef enum ml_json_kind {
    ML_JSON_OBJECT = 1,
    ML_JSON_ARRAY = 2,
    ML_JSON_TEXT = 4,
    ML_JSON_INTEGER = 8,
    ML_JSON_REAL = 16, /* a number that is not read as an integer */
    ML_JSON_FLAG = 32,
    ML_JSON_NULL = 64
} ml_json_kind;

/* A key that a reader looks at: "model.type"; "added_tokens[].id" is the key of every element,
 * "rank_pattern.*" every member of an object. A table of them ends with a NULL path. */
typedef struct ml_json_key {
    const char *path;
    unsigned kinds;
} ml_json_key;

/* The root is an object, and every key of the table that is there has one of its kinds; a root of
 * NULL, a file that is not there, has none. Checked once, before anything is read,
 * so that no value of another kind is taken for one that is missing. ML_INPUT naming the key with
 * its place, the kind found and the kinds expected. */
ml_status ml_json_check(const json_t *root, const ml_json_key *table) ML_NODISCARD;

/* json_dumps, whose result the caller frees with free; but NULL where memory was lacking: jansson
 * (2.14) leaves out the key that it had no room for, and calls that a success. */
char *ml_json_dump(const json_t *value, size_t flags) ML_NODISCARD;

/* A number as JSON has it, with 17 significant digits: `null` for what is none, NaN and infinities.
 * Returns `out`. */
enum { ML_JSON_NUMBER = 32 };
const char *ml_json_number(char out[ML_JSON_NUMBER], double x);

/* Appends "…", with U+FFFD for bytes that are no UTF-8 (a continuation may end inside a
 * character). */
ml_status json_text_add(ml_text *json, const char *bytes, int64_t length) ML_NODISCARD;

#endif
