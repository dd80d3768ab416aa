/* Lines for a person, on standard error. */
#include <stdarg.h>

#include "mpilora/base.h"

static bool enabled = true;

void ml_log_enable(bool on) { enabled = on; }

static void print_line(const char *prefix, const char *format, va_list arguments)
{
    if (!enabled) return;
    flockfile(stderr); /* a checkpoint's thread may warn while a line is written */
    fputs(prefix, stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    funlockfile(stderr);
}

void ml_log(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line("", format, arguments);
    va_end(arguments);
}

void ml_warn(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_line("warning: ", format, arguments);
    va_end(arguments);
}
