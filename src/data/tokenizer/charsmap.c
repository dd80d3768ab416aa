/* Reading a precompiled character map. Every index is checked: the blob comes from a file. */
#include "data/tokenizer/charsmap.h"

struct ml_charsmap {
    uint32_t *units;
    int64_t nunits;
    char *replacements; /* ends with a zero */
    int64_t size;
};

/* The parts of a unit of Darts. */
static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
static uint32_t label_of(uint32_t unit) { return unit & ((1u << 31) | 0xff); }
static bool has_leaf(uint32_t unit) { return (unit >> 8) & 1; }
static uint32_t value_of(uint32_t unit) { return unit & 0x7fffffffu; }

ml_status ml_charsmap_create(ml_charsmap **out, const char *blob, int64_t length)
{
    ml_status st = ML_OK;
    ml_charsmap *map = NULL;
    uint32_t bytes = 0;
    for (int i = 0; i < 4 && i < length; i++) bytes |= (uint32_t)(unsigned char)blob[i] << 8 * i;
    if (length < 5 || bytes > length - 5 || bytes < 4 || bytes % 4 || blob[length - 1])
        return ml_fail(ML_INPUT, "the precompiled character map is damaged");
    ML_NEW(map, 1, ML_MEM_OTHER, "a character map");
    map->nunits = bytes / 4;
    map->size = length - 4 - bytes;
    ML_NEW(map->units, map->nunits, ML_MEM_OTHER, "a character map");
    ML_NEW(map->replacements, map->size, ML_MEM_OTHER, "a character map");
    for (int64_t i = 0; i < bytes; i++)
        map->units[i / 4] |= (uint32_t)(unsigned char)blob[4 + i] << 8 * (i % 4);
    memcpy(map->replacements, blob + 4 + bytes, (size_t)map->size);
    *out = map;
    map = NULL;
done:
    ml_charsmap_destroy(map);
    return st;
}

void ml_charsmap_destroy(ml_charsmap *map)
{
    if (!map) return;
    ml_memory_free(map->units);
    ml_memory_free(map->replacements);
    ml_memory_free(map);
}

const char *ml_charsmap_find(const ml_charsmap *map, const char *text, int64_t length, bool longest,
                             int64_t *key)
{
    const char *found = NULL;
    uint64_t node = offset_of(map->units[0]), units = (uint64_t)map->nunits;
    for (int64_t i = 0; i < length && text[i]; i++) {
        node ^= (unsigned char)text[i];
        if (node >= units) break;
        uint32_t unit = map->units[node];
        if (label_of(unit) != (unsigned char)text[i]) break;
        node ^= offset_of(unit);
        if (node >= units) break;
        if (!has_leaf(unit)) continue;
        uint32_t value = value_of(map->units[node]);
        if (value >= map->size) break;
        found = map->replacements + value;
        *key = i + 1;
        if (!longest) break;
    }
    return found;
}

/* ---- base64 -------------------------------------------------------------------------------- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

ml_status ml_base64_add(ml_text *out, const char *bytes, int64_t length)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < length; i += 3) {
        int64_t left = length - i;
        uint32_t word = (uint32_t)(unsigned char)bytes[i] << 16;
        if (left > 1) word |= (uint32_t)(unsigned char)bytes[i + 1] << 8;
        if (left > 2) word |= (uint32_t)(unsigned char)bytes[i + 2];
        char four[4] = {alphabet[word >> 18], alphabet[word >> 12 & 63],
                        left > 1 ? alphabet[word >> 6 & 63] : '=',
                        left > 2 ? alphabet[word & 63] : '='};
        ML_TRY(ml_text_add(out, four, 4));
    }
done:
    return st;
}

ml_status ml_base64_read(ml_text *out, const char *text, int64_t length)
{
    uint32_t word = 0;
    int bits = 0;
    while (length > 0 && text[length - 1] == '=') length--;
    for (int64_t i = 0; i < length; i++) {
        const char *place = text[i] ? strchr(alphabet, text[i]) : NULL;
        if (!place) return ml_fail(ML_INPUT, "the precompiled character map is no base64");
        word = word << 6 | (uint32_t)(place - alphabet);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        char byte = (char)(word >> bits & 0xff);
        ml_status st = ml_text_add(out, &byte, 1);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status ml_charsmap_create_base64(ml_charsmap **out, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    ml_text blob = {0};
    ML_TRY(ml_base64_read(&blob, text, length));
    ML_TRY(ml_charsmap_create(out, blob.data ? blob.data : "", blob.length));
done:
    ml_text_destroy(&blob);
    return st;
}
