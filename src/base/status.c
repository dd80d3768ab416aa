/* The error text of a thread: one line, kept until the next failure. */
#include <stdarg.h>

#include "mpilora/base.h"

enum { TEXT_BYTES = 2048 };
static _Thread_local char error_text[TEXT_BYTES];

ml_status ml_fail(ml_status status, const char *format, ...)
{
    char line[TEXT_BYTES]; /* the arguments may point into error_text */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ') *c = ' '; /* quoted input must not break the one line */
    memcpy(error_text, line, sizeof line);
    return status;
}

ml_status ml_fail_within(ml_status status, const char *format, ...)
{
    char prefix[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    size_t used = strlen(prefix), kept = strlen(error_text);
    if (used > TEXT_BYTES - 3) used = TEXT_BYTES - 3;
    if (kept > TEXT_BYTES - 3 - used) kept = TEXT_BYTES - 3 - used;
    memmove(error_text + used + 2, error_text, kept);
    memcpy(error_text, prefix, used);
    memcpy(error_text + used, ": ", 2);
    error_text[used + 2 + kept] = '\0';
    return status;
}

const char *ml_error_text(void) { return error_text; }

void ml_error_clear(void) { error_text[0] = '\0'; }
