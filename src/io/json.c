/* JSON: files and texts of others, read with limits, and strings of any bytes, written. */
#include "io/json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/utf8.h"

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

/* Appends "…" in the place of a word of Python's json that JSON has not, and skips it. */
static ml_status add_quoted(ml_text *out, const char *word, int64_t *at)
{
    *at += (int64_t)strlen(word);
    return ml_text_printf(out, "\"%s\"", word);
}

/* The place behind the string that begins at `at`. */
static int64_t end_of_string(const char *text, int64_t length, int64_t at)
{
    for (at++; at < length && text[at] != '"'; at++)
        if (text[at] == '\\') at++;
    return ml_min(length, at + 1);
}

/* JSON of Python: NaN, Infinity and integers of any length, which it writes, are not JSON or not
 * read by jansson. They become strings and reals: where nobody looks at them they may stand, and
 * ml_json_check refuses them where a number or an integer is needed. *changed: there were any. */
static ml_status replace_python(const char *text, int64_t length, ml_text *out, bool *changed)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    enum { WORDS = sizeof words / sizeof *words, SAFE_DIGITS = 18 };
    ml_status st = ML_OK;
    int64_t at = 0, end;
    *changed = false;
    while (at < length) {
        int word = 0;
        while (word < WORDS && strncmp(text + at, words[word], strlen(words[word])) != 0) word++;
        end = text[at] == '"' ? end_of_string(text, length, at) : at + 1;
        while (text[at] >= '0' && text[at] <= '9' && text[end] >= '0' && text[end] <= '9') end++;
        bool is_long = text[at] != '"' && end - at > SAFE_DIGITS && !strchr(".eE", text[end]);
        *changed = *changed || word < WORDS || is_long;
        if (word < WORDS) {
            ML_TRY(add_quoted(out, words[word], &at));
            continue;
        }
        ML_TRY(ml_text_add(out, text + at, end - at));
        if (is_long) ML_TRY(ml_text_add(out, "e0", 2));
        at = end;
    }
done:
    return st;
}

static ml_status parse_python(json_t **out, const char *name, const char *text, int64_t length,
                              size_t flags)
{
    ml_text plain = {0};
    bool changed = false;
    ml_status st = parse(out, name, text, length, flags);
    if (st != ML_INPUT) return st;
    ml_status replaced = replace_python(text, length, &plain, &changed);
    if (replaced != ML_OK) st = replaced;
    if (replaced == ML_OK && changed) st = parse(out, name, plain.data, plain.length, flags);
    ml_text_destroy(&plain);
    return st;
}

ml_status ml_json_read(json_t **out, const char *name, const char *text, int64_t length)
{
    return parse_python(out, name, text, length, 0);
}

ml_status ml_json_read_file(json_t **out, const char *path, bool reals)
{
    ml_status st = ML_OK;
    char *text = NULL;
    int64_t length;
    ML_TRY(ml_durable_read(path, largest_file, &text, &length));
    ML_TRY(parse_python(out, path, text, length, reals ? JSON_DECODE_INT_AS_REAL : 0));
done:
    ml_memory_free(text);
    return st;
}

/* ---- kinds --------------------------------------------------------------------------------- */

static const struct {
    ml_json_kind kind;
    const char *name;
} kinds[] = {{ML_JSON_OBJECT, "an object"}, {ML_JSON_ARRAY, "an array"},
             {ML_JSON_TEXT, "a string"},    {ML_JSON_INTEGER, "an integer"},
             {ML_JSON_REAL, "a number"},    {ML_JSON_FLAG, "true or false"},
             {ML_JSON_NULL, "null"}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static ml_json_kind kind_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return ML_JSON_OBJECT;
    case JSON_ARRAY:
        return ML_JSON_ARRAY;
    case JSON_STRING:
        return ML_JSON_TEXT;
    case JSON_INTEGER:
        return ML_JSON_INTEGER;
    case JSON_REAL:
        return ML_JSON_REAL;
    case JSON_NULL:
        return ML_JSON_NULL;
    default:
        return ML_JSON_FLAG;
    }
}

static const char *name_of(ml_json_kind kind)
{
    int i = 0;
    while (kinds[i].kind != kind) i++;
    return kinds[i].name;
}

static ml_status refuse_kind(const char *place, ml_json_kind found, unsigned expected)
{
    char names[160] = "";
    for (int i = 0; i < KINDS; i++) {
        size_t used = strlen(names);
        if (expected & kinds[i].kind)
            snprintf(names + used, sizeof names - used, "%s%s", used ? " or " : "", kinds[i].name);
    }
    return ml_fail(ML_INPUT, "key \"%s\" is %s, expected %s", place, name_of(found), names);
}

/* The values that the rest of a path leads to from `value`, which stands at `place`. */
static ml_status check_path(const json_t *value, const char *path, const char *place,
                            unsigned expected)
{
    char next[256];
    if (!value) return ML_OK;
    if (!*path)
        return kind_of(value) & expected ? ML_OK : refuse_kind(place, kind_of(value), expected);
    if (!strncmp(path, "[]", 2)) {
        size_t i;
        json_t *one;
        json_array_foreach(value, i, one)
        {
            snprintf(next, sizeof next, "%.200s[%zu]", place, i);
            ml_status st = check_path(one, path + 2, next, expected);
            if (st != ML_OK) return st;
        }
        return ML_OK;
    }
    if (*path == '.') path++;
    if (*path == '*') {
        const char *name;
        json_t *one;
        json_object_foreach((json_t *)(uintptr_t)value, name, one)
        {
            snprintf(next, sizeof next, "%.120s%s%.80s", place, *place ? "." : "", name);
            ml_status st = check_path(one, path + 1, next, expected);
            if (st != ML_OK) return st;
        }
        return ML_OK;
    }
    char key[64];
    size_t length = strcspn(path, ".[");
    snprintf(key, sizeof key, "%.*s", (int)length, path);
    snprintf(next, sizeof next, "%.180s%s%s", place, *place ? "." : "", key);
    return check_path(json_object_get(value, key), path + length, next, expected);
}

ml_status ml_json_check(const json_t *root, const ml_json_key *table)
{
    ml_status st = ML_OK;
    if (root && !json_is_object(root))
        return ml_fail(ML_INPUT, "is %s, expected an object", name_of(kind_of(root)));
    for (; table->path && st == ML_OK; table++)
        st = check_path(root, table->path, "", table->kinds);
    return st;
}

/* ---- strings: UTF-8 as it is, but for quotes, backslashes and control characters ----------- */

static ml_status add_character(ml_text *json, int32_t c, const char *bytes, int size)
{
    if (c < 0) return ml_text_add(json, UTF8_REPLACEMENT, 3);
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

/* ---- texts and numbers --------------------------------------------------------------------- */

char *ml_json_dump(const json_t *value, size_t flags)
{
    errno = 0;
    char *text = json_dumps(value, flags);
    if (text && errno != ENOMEM) return text;
    free(text);
    return NULL;
}

const char *ml_json_number(char out[ML_JSON_NUMBER], double x)
{
    if (isfinite(x))
        snprintf(out, ML_JSON_NUMBER, "%.17g", x);
    else
        snprintf(out, ML_JSON_NUMBER, "null");
    return out;
}
