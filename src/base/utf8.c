/* UTF-8 character by character. */
#include "base/utf8.h"

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
