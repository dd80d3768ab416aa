/* Bytes of others as text. */
#ifndef MPILORA_IO_UTF8_H
#define MPILORA_IO_UTF8_H

#include "mpilora/base.h"

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Appends bytes as UTF-8: one that belongs to no character becomes U+FFFD. Local. ML_RESOURCE. */
ml_status ml_utf8_add(ml_text *text, const char *bytes, int64_t length) ML_NODISCARD;

#endif
