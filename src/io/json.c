/* JSON: files and texts of others, read with limits, and strings of any bytes, written. */
#include "io/json.h"

#include <errno.h>
#include <math.h>

#include "io/durable.h"

static const int64_t largest_file = 256 << 20;

/* ---- reading ------------------------------------------------------------------------------- */

ml_status ml_json_parse(json_t **out, const char *text, int64_t length, size_t flags,
                        json_error_t *error)
{
    errno = 0;
    *out = json_loadb(text, (size_t)length, flags, error);
    if (*out) return ML_OK;
    if (errno == ENOMEM) return ml_fail(ML_RESOURCE, "out of memory while JSON was read");
    return ml_fail(ML_INPUT, "%s", error->text);
}

static ml_status parse(json_t **out, const char *name, const char *text, int64_t length,
                       size_t flags)
{
    json_error_t error;
    ml_status st =
        ml_json_parse(out, text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &error);
    if (st != ML_OK)
        return ml_fail_within(st, "%s: line %d, column %d: not valid JSON", name, error.line,
                              error.column);
    return ML_OK;
}

ml_status ml_json_read(json_t **out, const char *name, const char *text, int64_t length)
{
    return parse(out, name, text, length, 0);
}

ml_status ml_json_read_file(json_t **out, const char *path, bool reals)
{
    ml_status st = ML_OK;
    char *text = NULL;
    int64_t length;
    ML_TRY(ml_durable_read(path, largest_file, &text, &length));
    ML_TRY(parse(out, path, text, length, reals ? JSON_DECODE_INT_AS_REAL : 0));
done:
    ml_memory_free(text);
    return st;
}

/* ---- strings: UTF-8 as it is, but for quotes, backslashes and control characters ----------- */

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

/* ---- numbers ------------------------------------------------------------------------------- */

const char *ml_json_number(char out[ML_JSON_NUMBER], double x)
{
    if (isfinite(x))
        snprintf(out, ML_JSON_NUMBER, "%.17g", x);
    else
        snprintf(out, ML_JSON_NUMBER, "null");
    return out;
}
