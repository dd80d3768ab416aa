/* Split patterns: hand-written scanners for GPT-2, Llama-3 and single digits, PCRE2 for anything
 * else. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/pretokenize.h"

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

/* ---- splitters ----------------------------------------------------------------------------- */

enum { MOST_STEPS = 16 };

typedef struct step step;
/* The end of the piece of text[0 … length) that begins at `at`. */
typedef int64_t (*scanner)(const step *s, const char *text, int64_t length, int64_t at);

struct step {
    scanner scan;
    class_table *classes; /* borrowed from the splitter */
    pcre2_code *code;
    pcre2_match_data *match;
};

struct ml_splitter {
    int64_t count;
    step steps[MOST_STEPS];
    class_table *classes;
};

/* ---- what the scanners are made of --------------------------------------------------------- */

static character_class class_at(const step *s, const char *text, int64_t length, int64_t at,
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

static int64_t end_of_run(const step *s, const char *text, int64_t length, int64_t at,
                          character_class of)
{
    int size;
    while (at < length && class_at(s, text, length, at, &size) == of) at += size;
    return at;
}

/* \s+(?!\S)|\s+ : blanks leave the last one to what follows them. */
static int64_t end_of_blanks(const step *s, const char *text, int64_t length, int64_t at)
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

static int64_t scan_gpt2(const step *s, const char *text, int64_t length, int64_t at)
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
static int64_t end_of_newlines(const step *s, const char *text, int64_t length, int64_t at)
{
    int size;
    int64_t end = at;
    for (int64_t i = at; i < length && class_at(s, text, length, i, &size) == CLASS_SPACE;
         i += size)
        if (is_newline(text[i])) end = i + 1;
    return end;
}

static int64_t end_of_three_numbers(const step *s, const char *text, int64_t length, int64_t at)
{
    int size;
    for (int i = 0; i < 3 && at < length && class_at(s, text, length, at, &size) == CLASS_NUMBER;
         i++)
        at += size;
    return at;
}

static int64_t scan_llama3(const step *s, const char *text, int64_t length, int64_t at)
{
    int size, next_size;
    int64_t contraction = end_of_contraction(text, length, at, true);
    if (contraction > at) return contraction;
    character_class class = class_at(s, text, length, at, &size);
    int64_t next = at + size;
    character_class following =
        next < length ? class_at(s, text, length, next, &next_size) : CLASS_SPACE;
    if (class == CLASS_NUMBER) return end_of_three_numbers(s, text, length, at);
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

static int64_t scan_digit(const step *s, const char *text, int64_t length, int64_t at)
{
    int size;
    if (class_at(s, text, length, at, &size) == CLASS_NUMBER) return at + size;
    while (at < length && class_at(s, text, length, at, &size) != CLASS_NUMBER) at += size;
    return at;
}

/* ---- any other pattern --------------------------------------------------------------------- */

static int64_t scan_pattern(const step *s, const char *text, int64_t length, int64_t at)
{
    const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int found = pcre2_match(s->code, (PCRE2_SPTR)text, (PCRE2_SIZE)length, (PCRE2_SIZE)at, options,
                            s->match, NULL);
    if (found < 0) return length; /* no match, or one that costs too much: one piece to the end */
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->match);
    int64_t start = (int64_t)span[0], end = (int64_t)span[1];
    if (start > at) return start;
    return end > at ? end : length; /* \K can put the end before the start */
}

static ml_status compile(step *s, const char *pattern)
{
    int error;
    PCRE2_SIZE where;
    s->scan = scan_pattern;
    s->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                            &error, &where, NULL);
    if (!s->code && error == PCRE2_ERROR_HEAP_FAILED)
        return ml_fail(ML_RESOURCE, "out of memory: the split pattern of a tokenizer");
    if (!s->code) {
        char reason[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        return ml_fail(ML_INPUT,
                       "tokenizer: the split pattern \"%s\" is not understood at its byte %zu: %s",
                       pattern, (size_t)where, reason);
    }
    (void)pcre2_jit_compile(s->code,
                            PCRE2_JIT_COMPLETE); /* without it matching is slow, not wrong */
    s->match = pcre2_match_data_create_from_pattern(s->code, NULL);
    return s->match ? ML_OK
                    : ml_fail(ML_RESOURCE, "out of memory: the split pattern of a tokenizer");
}

/* ---- the splitter -------------------------------------------------------------------------- */

static scanner known_scanner(const char *pattern)
{
    if (!strcmp(pattern, ML_PATTERN_GPT2)) return scan_gpt2;
    if (!strcmp(pattern, ML_PATTERN_LLAMA3)) return scan_llama3;
    if (!strcmp(pattern, ML_PATTERN_DIGIT)) return scan_digit;
    return NULL;
}

ml_status ml_splitter_create(ml_splitter **out, const char *const *patterns, int64_t count,
                             bool scanners)
{
    ml_status st = ML_OK;
    ml_splitter *splitter = NULL;
    if (count < 1 || count > MOST_STEPS)
        return ml_fail(ML_INPUT, "tokenizer: it has %lld split patterns, expected 1 to %d",
                       (long long)count, MOST_STEPS);
    ML_NEW(splitter, 1, ML_MEM_OTHER, "a splitter");
    ML_TRY(create_classes(&splitter->classes));
    for (int64_t i = 0; i < count; i++) {
        step *s = &splitter->steps[splitter->count++];
        s->classes = splitter->classes;
        s->scan = scanners ? known_scanner(patterns[i]) : NULL;
        if (!s->scan) ML_TRY(compile(s, patterns[i]));
    }
    *out = splitter;
    splitter = NULL;
done:
    ml_splitter_destroy(splitter);
    return st;
}

void ml_splitter_destroy(ml_splitter *splitter)
{
    if (!splitter) return;
    for (int64_t i = 0; i < splitter->count; i++) {
        pcre2_match_data_free(splitter->steps[i].match);
        pcre2_code_free(splitter->steps[i].code);
    }
    destroy_classes(splitter->classes);
    ml_memory_free(splitter);
}

static ml_status run_from(const ml_splitter *splitter, int64_t first, const char *text,
                          int64_t length, ml_piece_sink piece, void *context)
{
    if (first == splitter->count) return piece(context, text, length);
    const step *s = &splitter->steps[first];
    for (int64_t at = 0, end; at < length; at = end) {
        end = s->scan(s, text, length, at);
        ml_status st = run_from(splitter, first + 1, text + at, end - at, piece, context);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status ml_splitter_run(ml_splitter *splitter, const char *text, int64_t length,
                          ml_piece_sink piece, void *context)
{
    return run_from(splitter, 0, text, length, piece, context);
}
