/* GPT-2's byte-level alphabet. */
#include "data/byte_level.h"

static bool stands_for_itself(int32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
}

/* The byte that a character of the alphabet stands for, or −1. */
static int byte_of(int32_t c)
{
    static const struct {
        int32_t first, last,
            byte; /* the bytes that do not stand for themselves, as U+0100 and up */
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
