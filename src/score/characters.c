/* The few facts about Unicode that scoring needs. */
#include "score/characters.h"

/* Bytes of the valid character at text[at]; 0 where there is none. */
static int size_at(const char *text, int64_t length, int64_t at)
{
    const unsigned char *b = (const unsigned char *)text + at;
    int64_t left = length - at;
    int size = b[0] < 0x80 ? 1 : b[0] < 0xc2 ? 0 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : b[0] < 0xf5 ? 4 : 0;
    if (size == 0 || left < size) return 0;
    for (int i = 1; i < size; i++)
        if ((b[i] & 0xc0) != 0x80) return 0;
    bool overlong = (b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xf0 && b[1] < 0x90);
    bool surrogate = b[0] == 0xed && b[1] > 0x9f, beyond = b[0] == 0xf4 && b[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : size;
}

int64_t utf8_invalid(const char *text, int64_t length)
{
    for (int64_t at = 0; at < length;) {
        int size = size_at(text, length, at);
        if (size == 0) return at;
        at += size;
    }
    return -1;
}

int32_t utf8_at(const char *text, int64_t at, int *size)
{
    const unsigned char *b = (const unsigned char *)text + at;
    *size = b[0] < 0x80 ? 1 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    int32_t c = *size == 1 ? b[0] : b[0] & (0x7f >> *size);
    for (int i = 1; i < *size; i++) c = c << 6 | (b[i] & 0x3f);
    return c;
}

bool is_blank(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static int32_t lower(int32_t c)
{
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (c >= 0xc0 && c <= 0xde) return c == 0xd7 ? c : c + 32;
    if (c == 0x178) return 0xff;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e)) return c & 1 ? c + 1 : c;
    if (c >= 0x100 && c <= 0x177 && c != 0x130 && c != 0x138 && c != 0x149) return c | 1;
    if (c >= 0x391 && c <= 0x3a9) return c + 32;
    if (c >= 0x400 && c <= 0x40f) return c + 80;
    if (c >= 0x410 && c <= 0x42f) return c + 32;
    return c == 0x1e9e ? 0xdf : c == 0x212a ? 'k' : c == 0x212b ? 0xe5 : c;
}

ml_status add_lower(ml_text *out, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    int size = 0;
    for (int64_t at = 0; at < length; at += size) {
        int32_t c = utf8_at(text, at, &size), l = lower(c);
        char two[2] = {(char)(0xc0 | (l >> 6)), (char)(0x80 | (l & 0x3f))};
        if (c == l)
            ML_TRY(ml_text_add(out, text + at, size));
        else if (l < 0x80)
            ML_TRY(ml_text_add(out, &(char){(char)l}, 1));
        else
            ML_TRY(ml_text_add(out, two, 2)); /* every lower case letter of the table is below U+0800 */
    }
done:
    return st;
}

void trim(const char **text, int64_t *length)
{
    int size = 0;
    while (*length > 0 && is_blank(utf8_at(*text, 0, &size))) *text += size, *length -= size;
    while (*length > 0) {
        int64_t last = *length - 1;
        while (last > 0 && ((unsigned char)(*text)[last] & 0xc0) == 0x80) last--;
        if (!is_blank(utf8_at(*text, last, &size))) break;
        *length = last;
    }
}
