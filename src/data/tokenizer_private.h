/* The canonical tokenizer, between its sources, the encoder and its export.
 *
 * {"format": "mpilora-tokenizer", "version": 1,
 *  "tokens": [text or null, …]      by id; in the byte-level alphabet, added tokens as they are
 *    spelt; null: no such id
 *  "added": [{"id": n, "special": true}, …]   tokens that are found in text by their spelling, not
 *    by merging
 *  "merges": ["left right", …]      in order of rank
 *  "split": [pattern, …]            see pretokenize.h
 *  "whole_pieces": false            see bpe.h
 *  "begin": id or −1, "end": id or −1}   what goes before and after a text
 */
#ifndef MPILORA_DATA_TOKENIZER_PRIVATE_H
#define MPILORA_DATA_TOKENIZER_PRIVATE_H

#include <jansson.h>

#include "data/pretokenize.h"
#include "io/json.h"
#include "mpilora/data.h"

enum { ML_LARGEST_VOCABULARY = 1 << 24 };

/* The canonical tokenizer while a source is being read. */
typedef struct ml_vocabulary {
    json_t *tokens, *added, *merges, *split; /* arrays */
    bool whole_pieces;
    int32_t begin, end;
} ml_vocabulary;

ml_status ml_vocabulary_create(ml_vocabulary *out) ML_NODISCARD;
void ml_vocabulary_destroy(ml_vocabulary *vocabulary);
/* Puts `text` at `id`; ML_INPUT where another text is there already or the id is negative or
 * absurd. */
ml_status ml_vocabulary_set(ml_vocabulary *vocabulary, int64_t id, const char *text) ML_NODISCARD;
ml_status ml_vocabulary_add(ml_vocabulary *vocabulary, int64_t id, const char *text,
                            bool special) ML_NODISCARD;
ml_status ml_vocabulary_merge(ml_vocabulary *vocabulary, const char *left, size_t left_length,
                              const char *right) ML_NODISCARD;
ml_status ml_vocabulary_split(ml_vocabulary *vocabulary, const char *pattern) ML_NODISCARD;
/* The id of a token by its text, or −1. */
int32_t ml_vocabulary_find(const ml_vocabulary *vocabulary, const char *text);
/* Settles `end` where it is still −1, checks that a tokenizer can be made of it, and appends the
 * canonical JSON to *json. */
ml_status ml_vocabulary_write(ml_vocabulary *vocabulary, ml_text *json) ML_NODISCARD;

/* Appends the bytes that `text`, of the byte-level alphabet, stands for; false where a character is
 * outside of it (*status may be ML_RESOURCE then). */
bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes,
                          ml_status *status) ML_NODISCARD;

/* The keys that ml_tokenizer_json_read looks at, with the kinds that they may have. */
extern const ml_json_key ml_tokenizer_json_keys[];
/* The same of tokenizer_config.json and special_tokens_map.json, and of generation_config.json and
 * config.json. */
extern const ml_json_key ml_token_text_keys[], ml_token_id_keys[];
/* tokenizer.json (Hugging Face) into an empty vocabulary; `path` for messages. */
ml_status ml_tokenizer_json_read(ml_vocabulary *vocabulary, const json_t *root) ML_NODISCARD;

#endif
