/* The byte-level alphabet of GPT-2: each of the 256 bytes written as one printable character, so
 * that vocabularies can be kept as text. Printable Latin-1 bytes stand for themselves, the others
 * are U+0100 and up in their order (the blank is U+0120, "Ġ"). */
#ifndef MPILORA_DATA_TOKENIZER_BYTE_LEVEL_H
#define MPILORA_DATA_TOKENIZER_BYTE_LEVEL_H

#include "mpilora/base.h"

/* Appends the bytes that `text` stands for; false, and nothing appended, where a character is
 * outside of the alphabet (*status may be ML_RESOURCE then). Local. */
bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes,
                          ml_status *status) ML_NODISCARD;
/* Appends the characters that stand for the bytes. ML_RESOURCE. Local. */
ml_status ml_byte_level_encode(const char *bytes, int64_t length, ml_text *text) ML_NODISCARD;

#endif
