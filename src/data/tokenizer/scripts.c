/* Scripts by PCRE2, 256 characters at a time when a character of such a page is met for the first
 * time. Known are the scripts of Unicode 9, as in `tokenizers`; a character of a later script has
 * none. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/tokenizer/scripts.h"

enum { PAGE = 256, PAGES = 0x110000 / PAGE, HAN = 1 };

struct ml_scripts {
    pcre2_code *code;
    pcre2_match_data *match;
    uint8_t known[PAGES];
    uint8_t of[PAGES * PAGE];
};

/* Their order is of no meaning; kana count as Han, which is the first. */
static const char *const names[] = {
    "Latin",
    "Common",
    "Inherited",
    "Greek",
    "Cyrillic",
    "Armenian",
    "Hebrew",
    "Arabic",
    "Syriac",
    "Thaana",
    "Devanagari",
    "Bengali",
    "Gurmukhi",
    "Gujarati",
    "Oriya",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Sinhala",
    "Thai",
    "Lao",
    "Tibetan",
    "Myanmar",
    "Georgian",
    "Hangul",
    "Ethiopic",
    "Cherokee",
    "Canadian_Aboriginal",
    "Ogham",
    "Runic",
    "Khmer",
    "Mongolian",
    "Bopomofo",
    "Yi",
    "Old_Italic",
    "Gothic",
    "Deseret",
    "Tagalog",
    "Hanunoo",
    "Buhid",
    "Tagbanwa",
    "Limbu",
    "Tai_Le",
    "Linear_B",
    "Ugaritic",
    "Shavian",
    "Osmanya",
    "Cypriot",
    "Braille",
    "Buginese",
    "Coptic",
    "New_Tai_Lue",
    "Glagolitic",
    "Tifinagh",
    "Syloti_Nagri",
    "Old_Persian",
    "Kharoshthi",
    "Balinese",
    "Cuneiform",
    "Phoenician",
    "Phags_Pa",
    "Nko",
    "Sundanese",
    "Lepcha",
    "Ol_Chiki",
    "Vai",
    "Saurashtra",
    "Kayah_Li",
    "Rejang",
    "Lycian",
    "Carian",
    "Lydian",
    "Cham",
    "Tai_Tham",
    "Tai_Viet",
    "Avestan",
    "Egyptian_Hieroglyphs",
    "Samaritan",
    "Lisu",
    "Bamum",
    "Javanese",
    "Meetei_Mayek",
    "Imperial_Aramaic",
    "Old_South_Arabian",
    "Inscriptional_Parthian",
    "Inscriptional_Pahlavi",
    "Old_Turkic",
    "Kaithi",
    "Batak",
    "Brahmi",
    "Mandaic",
    "Chakma",
    "Meroitic_Cursive",
    "Meroitic_Hieroglyphs",
    "Miao",
    "Sharada",
    "Sora_Sompeng",
    "Takri",
    "Caucasian_Albanian",
    "Bassa_Vah",
    "Duployan",
    "Elbasan",
    "Grantha",
    "Pahawh_Hmong",
    "Khojki",
    "Linear_A",
    "Mahajani",
    "Manichaean",
    "Mende_Kikakui",
    "Modi",
    "Mro",
    "Old_North_Arabian",
    "Nabataean",
    "Palmyrene",
    "Pau_Cin_Hau",
    "Old_Permic",
    "Psalter_Pahlavi",
    "Siddham",
    "Khudawadi",
    "Tirhuta",
    "Warang_Citi",
    "Ahom",
    "Anatolian_Hieroglyphs",
    "Hatran",
    "Multani",
    "Old_Hungarian",
    "SignWriting",
    "Adlam",
    "Bhaiksuki",
    "Marchen",
    "Newa",
    "Osage",
    "Tangut",
};

static ml_status compile(ml_scripts *scripts)
{
    ml_status st = ML_OK;
    ml_text pattern = {0};
    int error;
    PCRE2_SIZE where;
    ML_TRY(ml_text_printf(&pattern, "([\\p{sc:Han}\\p{sc:Hiragana}\\p{sc:Katakana}])"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ML_TRY(ml_text_printf(&pattern, "|(\\p{sc:%s})", names[i]));
    scripts->code = pcre2_compile((PCRE2_SPTR)pattern.data, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &where, NULL);
    if (scripts->code) scripts->match = pcre2_match_data_create_from_pattern(scripts->code, NULL);
    if (scripts->code) (void)pcre2_jit_compile(scripts->code, PCRE2_JIT_COMPLETE);
    if (!scripts->code && error != PCRE2_ERROR_HEAP_FAILED)
        st = ml_fail(ML_INPUT, "this PCRE2 does not know scripts by \\p{sc:…}; 10.40 does");
    else if (!scripts->match)
        st = ml_fail(ML_RESOURCE, "out of memory: scripts of characters");
done:
    ml_text_destroy(&pattern);
    return st;
}

ml_status ml_scripts_create(ml_scripts **out)
{
    ml_status st = ML_OK;
    ml_scripts *scripts = NULL;
    ML_NEW(scripts, 1, ML_MEM_OTHER, "scripts of characters");
    ML_TRY(compile(scripts));
    *out = scripts;
    scripts = NULL;
done:
    ml_scripts_destroy(scripts);
    return st;
}

void ml_scripts_destroy(ml_scripts *scripts)
{
    if (!scripts) return;
    pcre2_match_data_free(scripts->match);
    pcre2_code_free(scripts->code);
    ml_memory_free(scripts);
}

static void learn_page(ml_scripts *scripts, int32_t page)
{
    for (int32_t c = page * PAGE; c < (page + 1) * PAGE; c++) {
        char one[4];
        /* the highest group that took part is the one alternative that matched */
        int groups = pcre2_match(scripts->code, (PCRE2_SPTR)one, ml_utf8_put(c, one), 0, 0,
                                 scripts->match, NULL);
        scripts->of[c] = (uint8_t)(groups > 1 ? groups - 1 : ML_SCRIPT_ANY);
    }
    scripts->known[page] = 1;
}

int ml_script_of(ml_scripts *scripts, int32_t c)
{
    if (c == ' ') return ML_SCRIPT_ANY;
    if (c == 0x30fc) return HAN;             /* the mark of long vowels is of no script by itself */
    if (c == 0x589 || c == 0x61c) c = ',';   /* common at that time */
    if (c == 0x953 || c == 0x954) c = 0x950; /* Devanagari's until they were everybody's */
    if (!scripts->known[c / PAGE]) learn_page(scripts, c / PAGE);
    return scripts->of[c];
}
