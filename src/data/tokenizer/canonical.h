/* The text that a tokenizer travels as, in base files and to its hash.
 *
 * Version 2 is one line of JSON, {"format": "mpilora-tokenizer", "version": 2, "begin": id or −1,
 * "end": id or −1}, and behind it a tokenizer.json of Hugging Face's `tokenizers`: byte for byte
 * the file that it came from where there was one, else made from another source, and then there may
 * be stages that only this library knows ("SentencePiece").
 *
 * Version 1, in older base files, is one JSON object of a byte-level BPE (canonical_v1.c). */
#ifndef MPILORA_DATA_TOKENIZER_CANONICAL_H
#define MPILORA_DATA_TOKENIZER_CANONICAL_H

#include <jansson.h>

#include "data/tokenizer/plain_model.h"

typedef struct ml_canonical {
    int64_t begin, end; /* what goes before and after a text; −1: nothing */
    const char *json;   /* of version 2: the tokenizer.json inside the text, borrowed; else NULL */
    int64_t length;
} ml_canonical;

/* Appends the text of version 2; ML_INPUT where no tokenizer can be made of it. Local. */
ml_status ml_canonical_write(const ml_canonical *canonical, ml_text *out) ML_NODISCARD;
/* The tokenizer.json of a text of any version as *root, which the caller ends with json_decref.
 * `plain`: takes the members of a BPE model that are large out of it; NULL: *root is whole.
 * ML_INPUT. Local. */
ml_status ml_canonical_read(ml_canonical *canonical, json_t **root, ml_plain_model *plain,
                            const char *text, int64_t length) ML_NODISCARD;
/* The tokenizer.json that an object of version 1 means, as *root. Local. */
ml_status ml_canonical_convert_v1(ml_canonical *canonical, json_t **root,
                                  const json_t *old) ML_NODISCARD;

#endif
