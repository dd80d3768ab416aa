/* Scanners for the patterns of GPT-2, Llama-3, Qwen2 and single digits. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/tokenizer/scanners.h"

/* ---- Unicode's classes that split patterns speak of, a byte a character -------------------- */

/* PCRE2's tables are asked, 256 characters at a time, when a character of such a page is met for
 * the first time. */
typedef enum character_class {
    CLASS_OTHER = 1,
    CLASS_LETTER,
    CLASS_NUMBER,
    CLASS_SPACE
} character_class;

enum { PAGE = 256, PAGES = 0x110000 / PAGE };

typedef struct class_table {
    pcre2_code *code;
    pcre2_match_data *match;
    uint8_t known[PAGES];
    uint8_t of[PAGES * PAGE];
} class_table;

static void destroy_classes(class_table *table)
{
    if (!table) return;
    pcre2_match_data_free(table->match);
    pcre2_code_free(table->code);
    ml_memory_free(table);
}

static ml_status create_classes(class_table **out)
{
    ml_status st = ML_OK;
    static const char pattern[] = "(\\p{L})|(\\p{N})|([\\x{9}-\\x{d}\\x{85}\\p{Z}])";
    int error;
    PCRE2_SIZE where;
    class_table *table;
    ML_NEW(table, 1, ML_MEM_OTHER, "character classes");
    table->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &where, NULL);
    table->match = table->code ? pcre2_match_data_create_from_pattern(table->code, NULL) : NULL;
    if (!table->match) {
        bool lacking = table->code || error == PCRE2_ERROR_HEAP_FAILED;
        destroy_classes(table);
        if (lacking) return ml_fail(ML_RESOURCE, "out of memory: character classes");
        return ml_fail(ML_INTERNAL,
                       "PCRE2 has no Unicode classes; a PCRE2 with Unicode support is needed");
    }
    *out = table;
done:
    return st;
}

static void learn_page(class_table *table, int32_t page)
{
    for (int32_t c = page * PAGE; c < (page + 1) * PAGE; c++) {
        char one[4];
        size_t size = ml_utf8_put(c, one);
        /* the highest group that took part is the one alternative that matched; for surrogates the
         * match fails */
        int groups = pcre2_match(table->code, (PCRE2_SPTR)one, size, 0, 0, table->match, NULL);
        table->of[c] = (uint8_t)(groups > 1 ? groups : CLASS_OTHER);
    }
    table->known[page] = 1;
}

static character_class class_of(class_table *table, int32_t character)
{
    if (!table->known[character / PAGE]) learn_page(table, character / PAGE);
    return (character_class)table->of[character];
}

/* ---- scanners ------------------------------------------------------------------------------ */

struct ml_scanner {
    int64_t (*end)(const ml_scanner *s, const char *text, int64_t length, int64_t at);
    int numbers; /* the most that one piece has */
    class_table *classes;
};

/* ---- what the scanners are made of --------------------------------------------------------- */

static character_class class_at(const ml_scanner *s, const char *text, int64_t length, int64_t at,
                                int *size)
{
    static const uint8_t ascii[128] = {
        1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, /* control */
        4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, /* blank, digits */
        1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
        2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, /* capitals */
        1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
        2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, /* small letters */
    };
    *size = 1;
    if (!(text[at] & 0x80)) return (character_class)ascii[(unsigned char)text[at]];
    return class_of(s->classes, ml_utf8_next(text, length, at, size));
}

static int64_t end_of_run(const ml_scanner *s, const char *text, int64_t length, int64_t at,
                          character_class of)
{
    int size;
    while (at < length && class_at(s, text, length, at, &size) == of) at += size;
    return at;
}

/* \s+(?!\S)|\s+ : blanks leave the last one to what follows them. */
static int64_t end_of_blanks(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size;
    int64_t last = at, end = at;
    while (end < length && class_at(s, text, length, end, &size) == CLASS_SPACE) {
        last = end;
        end += size;
    }
    return end < length && last > at ? last : end;
}

/* The end of 's, 't, 'm, 'd, 're, 've or 'll at `at`, or `at`; `fold`: in any case, with ſ for
 * s. */
static int64_t end_of_contraction(const char *text, int64_t length, int64_t at, bool fold)
{
    if (text[at] != '\'' || at + 1 >= length) return at;
    char a = text[at + 1], b = at + 2 < length ? text[at + 2] : '\0';
    if (fold) {
        if (a == '\xc5' && b == '\xbf') return at + 3;
        if (a >= 'A' && a <= 'Z') a = (char)(a | 0x20);
        if (b >= 'A' && b <= 'Z') b = (char)(b | 0x20);
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
    return at;
}

/* ---- the known patterns -------------------------------------------------------------------- */

static int64_t scan_gpt2(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size;
    int64_t contraction = end_of_contraction(text, length, at, false);
    if (contraction > at) return contraction;
    int64_t word = at + (text[at] == ' ' && at + 1 < length);
    character_class class = class_at(s, text, length, word, &size);
    if (class != CLASS_SPACE) return end_of_run(s, text, length, word, class);
    return end_of_blanks(s, text, length, at);
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

/* \s*[\r\n]+ : up to the last newline of a run of blanks; `at` where there is none. */
static int64_t end_of_newlines(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size;
    int64_t end = at;
    for (int64_t i = at; i < length && class_at(s, text, length, i, &size) == CLASS_SPACE;
         i += size)
        if (is_newline(text[i])) end = i + 1;
    return end;
}

static int64_t end_of_numbers(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size;
    for (int i = 0;
         i < s->numbers && at < length && class_at(s, text, length, at, &size) == CLASS_NUMBER; i++)
        at += size;
    return at;
}

static int64_t scan_llama3(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size, next_size;
    int64_t contraction = end_of_contraction(text, length, at, true);
    if (contraction > at) return contraction;
    character_class class = class_at(s, text, length, at, &size);
    int64_t next = at + size;
    character_class following =
        next < length ? class_at(s, text, length, next, &next_size) : CLASS_SPACE;
    if (class == CLASS_NUMBER) return end_of_numbers(s, text, length, at);
    if (class == CLASS_LETTER || (following == CLASS_LETTER && !is_newline(text[at])))
        return end_of_run(s, text, length, next, CLASS_LETTER);
    if (class == CLASS_OTHER || (text[at] == ' ' && following == CLASS_OTHER)) {
        int64_t end = end_of_run(s, text, length, next, CLASS_OTHER);
        while (end < length && is_newline(text[end])) end++;
        return end;
    }
    int64_t newlines = end_of_newlines(s, text, length, at);
    return newlines > at ? newlines : end_of_blanks(s, text, length, at);
}

static int64_t scan_digit(const ml_scanner *s, const char *text, int64_t length, int64_t at)
{
    int size;
    if (class_at(s, text, length, at, &size) == CLASS_NUMBER) return at + size;
    while (at < length && class_at(s, text, length, at, &size) != CLASS_NUMBER) at += size;
    return at;
}

/* ---- making one ---------------------------------------------------------------------------- */

ml_status ml_scanner_create(ml_scanner **out, const char *pattern)
{
    static const struct {
        const char *pattern;
        int64_t (*end)(const ml_scanner *s, const char *text, int64_t length, int64_t at);
        int numbers;
    } known[] = {{ML_PATTERN_GPT2, scan_gpt2, 0},
                 {ML_PATTERN_LLAMA3, scan_llama3, 3},
                 {ML_PATTERN_QWEN2, scan_llama3, 1},
                 {ML_PATTERN_DIGIT, scan_digit, 0}};
    ml_status st = ML_OK;
    ml_scanner *s = NULL;
    *out = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].pattern, pattern) != 0) continue;
        ML_NEW(s, 1, ML_MEM_OTHER, "a scanner");
        s->end = known[i].end;
        s->numbers = known[i].numbers;
        ML_TRY(create_classes(&s->classes));
        *out = s;
        return ML_OK;
    }
done:
    ml_scanner_destroy(s);
    return st;
}

ml_status ml_scanner_share(ml_scanner **out, const ml_scanner *of)
{
    ml_status st = ML_OK;
    ml_scanner *s = NULL;
    *out = NULL;
    ML_NEW(s, 1, ML_MEM_OTHER, "a scanner");
    s->end = of->end;
    s->numbers = of->numbers;
    ML_TRY(create_classes(&s->classes));
    *out = s;
    s = NULL;
done:
    ml_scanner_destroy(s);
    return st;
}

void ml_scanner_destroy(ml_scanner *s)
{
    if (!s) return;
    destroy_classes(s->classes);
    ml_memory_free(s);
}

ml_status ml_scanner_cut(const ml_scanner *s, const ml_piece *piece, ml_piece_sink sink,
                         void *context)
{
    for (int64_t at = 0, end; at < piece->length; at = end) {
        end = s->end(s, piece->bytes, piece->length, at);
        ml_status st = ml_piece_send(piece, at, end, sink, context);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}
