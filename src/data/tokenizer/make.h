/* Making a tokenizer.json from parts: what sources that have none are turned into. */
#ifndef MPILORA_DATA_TOKENIZER_MAKE_H
#define MPILORA_DATA_TOKENIZER_MAKE_H

#include <jansson.h>

#include "mpilora/base.h"

/* The parts so far. Start with ml_maker_start; end with ml_maker_destroy, after a failure, too. */
typedef struct ml_maker {
    json_t *vocab, *merges, *added, *split; /* owned */
    bool whole_pieces;
    int64_t splits;
} ml_maker;

/* ML_RESOURCE where memory is lacking, as all of these. Local, as all of these. */
ml_status ml_maker_start(ml_maker *m, bool whole_pieces) ML_NODISCARD;
void ml_maker_destroy(ml_maker *m);
ml_status ml_maker_token(ml_maker *m, int64_t id, const char *text) ML_NODISCARD;
/* Also found in texts by its spelling. ML_INPUT for an empty one. */
ml_status ml_maker_added(ml_maker *m, int64_t id, const char *text, bool special) ML_NODISCARD;
/* "left right". ML_INPUT where it is not two tokens with one blank between them. */
ml_status ml_maker_merge(ml_maker *m, const char *merge) ML_NODISCARD;
/* The next pattern; its matches become pieces, and what lies between them. */
ml_status ml_maker_split(ml_maker *m, const char *pattern) ML_NODISCARD;

/* The tokenizer.json of a byte-level BPE, with `begin` before and `end` behind every text (−1:
 * nothing). The caller ends *root with json_decref. */
ml_status ml_maker_byte_level(ml_maker *m, int64_t begin, int64_t end, json_t **root) ML_NODISCARD;
/* {"type": "TemplateProcessing", …} that puts `begin` before and `end` after texts; null where both
 * are −1; the texts of both come from `vocab`, an object of ids by text. A new reference, NULL for
 * want of memory. */
json_t *ml_make_template(const char *begin_text, int64_t begin, const char *end_text, int64_t end);
/* Appends a tokenizer.json's text and takes the reference. */
ml_status ml_make_dump(json_t *root, ml_text *out) ML_NODISCARD;

#endif
