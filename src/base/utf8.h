/* utf8: UTF-8 character by character. An internal module. */
#ifndef MPILORA_BASE_UTF8_H
#define MPILORA_BASE_UTF8_H

#include "mpilora/base.h"

/* The next character of valid or invalid UTF-8 at bytes[at] and its length in bytes; −1 and 1
 * where it is not valid (overlong, surrogate, beyond U+10FFFF, cut short). */
int32_t ml_utf8_next(const char *bytes, int64_t length, int64_t at, int *size);

/* The UTF-8 form of a character; returns its 1 to 4 bytes. */
size_t ml_utf8_put(int32_t character, char bytes[4]);

#endif
