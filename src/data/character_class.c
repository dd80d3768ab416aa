/* Character classes by PCRE2: \p{L}, \p{N} and White_Space. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/byte_level.h"
#include "data/character_class.h"

enum { PAGE = 256, PAGES = 0x110000 / PAGE };

struct ml_class_table {
    pcre2_code *code;
    pcre2_match_data *match;
    uint8_t known[PAGES];
    uint8_t of[PAGES * PAGE];
};

ml_status ml_class_table_create(ml_class_table **out)
{
    ml_status st = ML_OK;
    static const char pattern[] = "(\\p{L})|(\\p{N})|([\\x{9}-\\x{d}\\x{85}\\p{Z}])";
    int error;
    PCRE2_SIZE where;
    ml_class_table *table;
    ML_NEW(table, 1, ML_MEM_OTHER, "character classes");
    table->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &where, NULL);
    table->match = table->code ? pcre2_match_data_create_from_pattern(table->code, NULL) : NULL;
    if (!table->match) {
        ml_class_table_destroy(table);
        return ml_fail(ML_INTERNAL,
                       "PCRE2 has no Unicode classes; a PCRE2 with Unicode support is needed");
    }
    *out = table;
done:
    return st;
}

void ml_class_table_destroy(ml_class_table *table)
{
    if (!table) return;
    pcre2_match_data_free(table->match);
    pcre2_code_free(table->code);
    ml_memory_free(table);
}

static void learn_page(ml_class_table *table, int32_t page)
{
    for (int32_t c = page * PAGE; c < (page + 1) * PAGE; c++) {
        char one[4];
        size_t size = ml_utf8_put(c, one);
        /* the highest group that took part is the one alternative that matched; for surrogates the
         * match fails */
        int groups = pcre2_match(table->code, (PCRE2_SPTR)one, size, 0, 0, table->match, NULL);
        table->of[c] = (uint8_t)(groups > 1 ? groups : ML_CLASS_OTHER);
    }
    table->known[page] = 1;
}

ml_character_class ml_class_of(ml_class_table *table, int32_t character)
{
    if (!table->known[character / PAGE]) learn_page(table, character / PAGE);
    return (ml_character_class)table->of[character];
}
