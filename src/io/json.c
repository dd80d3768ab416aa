/* JSON: files and texts of others, read with limits, and strings of any bytes, written. */
#include "io/json.h"

#include "io/durable.h"

static const int64_t largest_file = 256 << 20;

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status parse(json_t **out, const char *name, const char *text, int64_t length,
                       size_t flags)
{
    json_error_t error;
    *out =
        json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &error);
    if (!*out)
        return ml_fail(ML_INPUT, "%s: line %d, column %d: not valid JSON: %s", name, error.line,
                       error.column, error.text);
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
