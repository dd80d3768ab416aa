/* Bytes of others as text: what a model has written may end within a character, and the name of a
 * folder may be in any encoding. */
#include "io/utf8.h"

ml_status ml_utf8_add(ml_text *text, const char *bytes, int64_t length)
{
    ml_status st = ML_OK;
    int size;
    for (int64_t at = 0; at < length && st == ML_OK; at += size) {
        bool valid = ml_utf8_next(bytes, length, at, &size) >= 0;
        st = valid ? ml_text_add(text, bytes + at, size) : ml_text_add(text, UTF8_REPLACEMENT, 3);
    }
    return st;
}
