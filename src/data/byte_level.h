/* The byte-level alphabet of GPT-2: each of the 256 bytes is written as one printable character,
 * so that vocabularies can be kept as text. Printable Latin-1 bytes stand for themselves, the
 * others are U+0100 and up in their order (the blank is U+0120, "Ġ"). */
#ifndef MPILORA_DATA_BYTE_LEVEL_H
#define MPILORA_DATA_BYTE_LEVEL_H

#include "mpilora/base.h"

/* Appends the bytes that `text` stands for; false where a character is outside the alphabet
 * (*status may be ML_RESOURCE then). */
bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes,
                          ml_status *status) ML_NODISCARD;

#endif
