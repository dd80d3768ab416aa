/* Strings of JSON from any bytes. */
#ifndef MPILORA_IO_JSON_TEXT_H
#define MPILORA_IO_JSON_TEXT_H

#include "mpilora/base.h"

/* Appends "…", with U+FFFD for bytes that are no UTF-8 (a continuation may end inside a
 * character). */
ml_status json_text_add(ml_text *json, const char *bytes, int64_t length) ML_NODISCARD;

#endif
