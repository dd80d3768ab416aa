/* The few facts about Unicode that scoring needs: which characters are blank, which are capitals
 * and what their small letters are, and where a text is not UTF-8. */
#include "score/characters.h"

int64_t utf8_invalid(const char *text, int64_t length)
{
    int size;
    for (int64_t at = 0; at < length; at += size)
        if (ml_utf8_next(text, length, at, &size) < 0) return at;
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
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Capitals from first to last, every step-th; the lower case of each is `further` characters on. */
static const struct {
    int32_t first, last, step, further;
} capitals[] = {
    {0xc0, 0xd6, 1, 32},        {0xd8, 0xde, 1, 32},     {0x100, 0x12e, 2, 1},
    {0x132, 0x136, 2, 1},       {0x139, 0x147, 2, 1},    {0x14a, 0x176, 2, 1},
    {0x178, 0x178, 1, -121},    {0x179, 0x17d, 2, 1},    {0x1a0, 0x1a4, 2, 1},
    {0x1af, 0x1af, 1, 1},       {0x1c4, 0x1c4, 1, 2},    {0x1c5, 0x1c5, 1, 1},
    {0x1c7, 0x1c7, 1, 2},       {0x1c8, 0x1c8, 1, 1},    {0x1ca, 0x1ca, 1, 2},
    {0x1cb, 0x1db, 2, 1},       {0x1de, 0x1ee, 2, 1},    {0x1f1, 0x1f1, 1, 2},
    {0x1f2, 0x1f4, 2, 1},       {0x1f8, 0x21e, 2, 1},    {0x222, 0x232, 2, 1},
    {0x386, 0x386, 1, 38},      {0x388, 0x38a, 1, 37},   {0x38c, 0x38c, 1, 64},
    {0x38e, 0x38f, 1, 63},      {0x391, 0x3a1, 1, 32},   {0x3a3, 0x3ab, 1, 32},
    {0x400, 0x40f, 1, 80},      {0x410, 0x42f, 1, 32},   {0x460, 0x480, 2, 1},
    {0x48a, 0x4be, 2, 1},       {0x4c0, 0x4c0, 1, 15},   {0x4c1, 0x4cd, 2, 1},
    {0x4d0, 0x52e, 2, 1},       {0x531, 0x556, 1, 48},   {0x1e00, 0x1e94, 2, 1},
    {0x1e9e, 0x1e9e, 1, -7615}, {0x1ea0, 0x1efe, 2, 1},  {0x212a, 0x212a, 1, -8383},
    {0x212b, 0x212b, 1, -8262}, {0xff21, 0xff3a, 1, 32},
};
enum { DOTTED_CAPITAL_I = 0x130 };

static int32_t lower(int32_t c)
{
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    for (size_t i = 0; i < sizeof capitals / sizeof *capitals; i++)
        if (c >= capitals[i].first && c <= capitals[i].last &&
            (c - capitals[i].first) % capitals[i].step == 0)
            return c + capitals[i].further;
    return c;
}

/* Below U+10000. */
static ml_status add_character(ml_text *out, int32_t c)
{
    char bytes[3] = {(char)(0xe0 | (c >> 12)), (char)(0x80 | ((c >> 6) & 0x3f)),
                     (char)(0x80 | (c & 0x3f))};
    if (c >= 0x800) return ml_text_add(out, bytes, 3);
    if (c < 0x80) return ml_text_add(out, &(char){(char)c}, 1);
    bytes[1] = (char)(0xc0 | (c >> 6));
    return ml_text_add(out, bytes + 1, 2);
}

ml_status add_lower(ml_text *out, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    int size = 0;
    for (int64_t at = 0; at < length; at += size) {
        int32_t c = utf8_at(text, at, &size), l = lower(c);
        if (c == DOTTED_CAPITAL_I)
            ML_TRY(ml_text_add(out, "i\u0307", 3)); /* two characters, the dot by itself */
        else if (c == l)
            ML_TRY(ml_text_add(out, text + at, size));
        else
            ML_TRY(add_character(out, l));
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
