/* UTF-8 character by character, and GPT-2's byte-level alphabet. */
#include "data/byte_level.h"

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

static bool stands_for_itself(int32_t c) { return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad); }

/* The byte that a character of the alphabet stands for, or −1. */
static int byte_of(int32_t c)
{
    static const struct {
        int32_t first, last, byte; /* the bytes that do not stand for themselves, as U+0100 and up */
    } moved[] = {{0x100, 0x120, 0x00}, {0x121, 0x142, 0x7f}, {0x143, 0x143, 0xad}};
    if (stands_for_itself(c)) return c;
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        if (c >= moved[i].first && c <= moved[i].last) return moved[i].byte + (c - moved[i].first);
    return -1;
}

bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes, ml_status *status)
{
    int size;
    *status = ML_OK;
    for (int64_t at = 0; at < length; at += size) {
        int byte = byte_of(ml_utf8_next(text, length, at, &size));
        if (byte < 0) return false;
        char one = (char)byte;
        *status = ml_text_add(bytes, &one, 1);
        if (*status != ML_OK) return false;
    }
    return true;
}
