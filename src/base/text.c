/* Growing byte strings, UTF-8 character by character, and the nearest word for messages about
 * misspelt names. */
#include <stdarg.h>
#include <stdlib.h>

#include "mpilora/base.h"

static ml_status reserve(ml_text *text, int64_t more)
{
    ml_status st = ML_OK;
    int64_t need = text->length + more + 1;
    if (need <= text->capacity) return ML_OK;
    int64_t capacity = ml_max(need, text->capacity * 2);
    if (!text->data) {
        ML_NEW(text->data, capacity, ML_MEM_OTHER, "text");
    } else {
        char *grown = ml_memory_resize(text->data, capacity, 1, "text");
        if (!grown) return ML_RESOURCE;
        text->data = grown;
    }
    text->capacity = capacity;
done:
    return st;
}

ml_status ml_text_add(ml_text *text, const void *bytes, int64_t count)
{
    ml_status st = reserve(text, count);
    if (st != ML_OK) return st;
    if (count > 0) memcpy(text->data + text->length, bytes, (size_t)count);
    text->length += count;
    text->data[text->length] = '\0';
    return ML_OK;
}

ml_status ml_text_printf(ml_text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int need = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    ml_status st = need < 0
                       ? ml_fail(ML_INTERNAL, "text: the format \"%s\" cannot be printed", format)
                       : reserve(text, need);
    if (st == ML_OK) {
        vsnprintf(text->data + text->length, (size_t)need + 1, format, again);
        text->length += need;
    }
    va_end(again);
    return st;
}

void ml_text_destroy(ml_text *text)
{
    ml_memory_free(text->data);
    *text = (ml_text){0};
}

enum { LONGEST = 63 };

/* Levenshtein distance of words of at most LONGEST letters. */
static int distance(const char *a, const char *b)
{
    int row[LONGEST + 1];
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

int ml_find_word(const char *word, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (!strcmp(words[i], word)) return i;
    return -1;
}

const char *ml_nearest_word(const char *word, const char *const *words)
{
    const char *nearest = NULL;
    size_t length = strlen(word);
    if (length > LONGEST) return NULL;
    int best = (int)length / 2 + 1;
    for (; *words; words++) {
        if (strlen(*words) > LONGEST) continue;
        int d = distance(word, *words);
        if (d < best) {
            best = d;
            nearest = *words;
        }
    }
    return nearest;
}

/* ---- UTF-8 --------------------------------------------------------------------------------- */

int32_t ml_utf8_next(const char *bytes, int64_t length, int64_t at, int *size)
{
    const unsigned char *b = (const unsigned char *)bytes + at;
    int64_t left = length - at;
    *size = 1;
    if (b[0] < 0x80) return b[0];
    int more = b[0] >= 0xf0 ? 3 : b[0] >= 0xe0 ? 2 : 1;
    if (b[0] < 0xc2 || b[0] > 0xf4 || left <= more) return -1;
    int32_t c = b[0] & (0x3f >> more);
    for (int i = 1; i <= more; i++) {
        if ((b[i] & 0xc0) != 0x80) return -1;
        c = c << 6 | (b[i] & 0x3f);
    }
    static const int32_t smallest[4] = {0, 0x80, 0x800, 0x10000};
    if (c < smallest[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return -1;
    *size = more + 1;
    return c;
}

size_t ml_utf8_put(int32_t character, char bytes[4])
{
    if (character < 0x80) {
        bytes[0] = (char)character;
        return 1;
    }
    size_t size = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        bytes[i] = (char)(0x80 | (character & 0x3f));
        character >>= 6;
    }
    bytes[0] = (char)((0xf00 >> size & 0xf0) | character);
    return size;
}
