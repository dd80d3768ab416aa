/* CRC-32C bit by bit: what is checked with it here is short. */
#include "io/crc32c.h"

uint32_t ml_crc32c(const void *data, size_t bytes)
{
    const uint32_t polynomial = 0x82f63b78u; /* reflected */
    const unsigned char *at = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1u ? polynomial : 0);
    }
    return ~crc;
}
