/* Bytes to characters of GPT-2's alphabet and back. */
#include "data/tokenizer/byte_level.h"

static bool stands_for_itself(int32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
}

/* The bytes that do not stand for themselves, as U+0100 and up. */
static const struct {
    int32_t first, last, byte;
} moved[] = {{0x100, 0x120, 0x00}, {0x121, 0x142, 0x7f}, {0x143, 0x143, 0xad}};

/* The byte that a character of the alphabet stands for, or −1. */
static int byte_of(int32_t c)
{
    if (stands_for_itself(c)) return c;
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        if (c >= moved[i].first && c <= moved[i].last) return moved[i].byte + (c - moved[i].first);
    return -1;
}

bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes, ml_status *status)
{
    int size;
    int64_t before = bytes->length;
    *status = ML_OK;
    for (int64_t at = 0; at < length && *status == ML_OK; at += size) {
        int byte = byte_of(ml_utf8_next(text, length, at, &size));
        if (byte < 0) {
            bytes->length = before;
            return false;
        }
        char one = (char)byte;
        *status = ml_text_add(bytes, &one, 1);
    }
    return *status == ML_OK;
}

ml_status ml_byte_level_encode(const char *bytes, int64_t length, ml_text *text)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < length && st == ML_OK; i++) {
        int32_t c = (unsigned char)bytes[i];
        for (size_t j = 0; !stands_for_itself(c) && c < 0x100; j++) {
            int32_t span = moved[j].last - moved[j].first;
            if (c >= moved[j].byte && c <= moved[j].byte + span)
                c = moved[j].first + (c - moved[j].byte);
        }
        char one[4];
        st = ml_text_add(text, one, (int64_t)ml_utf8_put(c, one));
    }
    return st;
}
