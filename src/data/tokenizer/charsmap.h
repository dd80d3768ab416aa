/* The precompiled character map of SentencePiece: a double array (Darts) whose keys are byte
 * strings and whose values point into a list of replacements that end with zeros. */
#ifndef MPILORA_DATA_TOKENIZER_CHARSMAP_H
#define MPILORA_DATA_TOKENIZER_CHARSMAP_H

#include "mpilora/base.h"

typedef struct ml_charsmap ml_charsmap;

/* ML_INPUT for a blob that is none. Local, as all of these. */
ml_status ml_charsmap_create(ml_charsmap **out, const char *blob, int64_t length) ML_NODISCARD;
/* The same from base64, as JSON holds it. */
ml_status ml_charsmap_create_base64(ml_charsmap **out, const char *text,
                                    int64_t length) ML_NODISCARD;
void ml_charsmap_destroy(ml_charsmap *map);

/* The replacement of the longest key that begins text (`longest`), or of the shortest one, and the
 * key's length; NULL: none begins it. */
const char *ml_charsmap_find(const ml_charsmap *map, const char *text, int64_t length, bool longest,
                             int64_t *key);

/* Appends the bytes that base64 says; ML_INPUT. Then the other way. */
ml_status ml_base64_read(ml_text *out, const char *text, int64_t length) ML_NODISCARD;
ml_status ml_base64_add(ml_text *out, const char *bytes, int64_t length) ML_NODISCARD;

#endif
