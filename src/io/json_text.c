/* Strings of JSON: valid UTF-8 as it is, but for quotes, backslashes and control characters. */
#include "io/json_text.h"

static ml_status add_character(ml_text *json, int32_t c, const char *bytes, int size)
{
    if (c < 0) return ml_text_printf(json, "\xEF\xBF\xBD");
    if (c == '"' || c == '\\') return ml_text_printf(json, "\\%c", (char)c);
    if (c == '\n') return ml_text_printf(json, "\\n");
    if (c < 0x20) return ml_text_printf(json, "\\u%04x", (unsigned)c);
    return ml_text_add(json, bytes, size);
}

ml_status json_text_add(ml_text *json, const char *bytes, int64_t length)
{
    int size;
    ml_status st = ml_text_add(json, "\"", 1);
    for (int64_t at = 0; at < length && st == ML_OK; at += size) {
        int32_t c = ml_utf8_next(bytes, length, at, &size);
        st = add_character(json, c, bytes + at, size);
    }
    return st == ML_OK ? ml_text_add(json, "\"", 1) : st;
}
