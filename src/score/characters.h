/* Characters of UTF-8 text: validity, blanks, lower case. */
#ifndef MPILORA_SCORE_CHARACTERS_H
#define MPILORA_SCORE_CHARACTERS_H

#include "mpilora/base.h"

/* Where the first byte stands that is not valid UTF-8 (overlong forms, surrogates and what is
 * beyond U+10FFFF are not); −1 where all is. */
int64_t utf8_invalid(const char *text, int64_t length);
/* The character at text[at] of valid UTF-8, and its bytes. */
int32_t utf8_at(const char *text, int64_t at, int *size);
/* What Unicode calls white space. */
bool is_blank(int32_t character);
/* Appends the lower case of text: Latin letters with their supplements, full-width ones, Greek,
 * Cyrillic and Armenian; others stay as they are. */
ml_status add_lower(ml_text *out, const char *text, int64_t length) ML_NODISCARD;
/* Drops the blanks at both ends. */
void trim(const char **text, int64_t *length);

#endif
