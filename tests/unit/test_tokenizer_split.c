/* split patterns: the scanners written by hand cut as PCRE2 does, on random text of all the
 * characters that the patterns tell apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/tokenizer/pretokenizer.h"
#include "data/tokenizer/scanners.h"
#include "data/tokenizer/stages.h"

enum { LONGEST = 400 };

typedef struct cuts {
    const char *next; /* where the next piece must begin */
    int64_t count, length[LONGEST];
} cuts;

static ml_status keep(void *context, const ml_piece *piece)
{
    cuts *c = context;
    assert_ptr_equal(piece->bytes, c->next);
    assert_true(piece->length > 0);
    c->next = piece->bytes + piece->length;
    c->length[c->count++] = piece->length;
    return ML_OK;
}

/* Stages that isolate the matches of patterns, one after the other. `aside`: each pattern is
 * written so that no scanner knows it, and PCRE2 cuts. */
static ml_pretokenizer *splitter_of(const char *const *patterns, int64_t count, bool aside)
{
    ml_pretokenizer *p;
    json_t *stages = json_array();
    for (int64_t i = 0; i < count; i++) {
        char pattern[1024];
        snprintf(pattern, sizeof pattern, aside ? "(?:%s)" : "%s", patterns[i]);
        json_array_append_new(stages,
                              json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                                        "Regex", pattern, "behavior", "Isolated", "invert", 0));
    }
    json_t *json = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", stages);
    assert_int_equal(ml_pretokenizer_create(&p, json), ML_OK);
    json_decref(json);
    return p;
}

static const char *const parts[] = {
    " ",      " ",    "  ",     "\n",     "\r",  "\t", "a",      "Z",        "'s",     "'S",
    "'t",     "'ll",  "'LL",    "'re",    "'vE", "'d", "'m",     "'",        "'ſ",     "7",
    "12",     "1999", "½",      "Ⅷ",      "٣",   "é",  "ж",      "海",       "ª",      "!",
    "...",    "_",    "\u0301", "🙂",   "𐐀",   "𝟘",  "\u00a0", "\xc2\x85", "\u2003", "\u2028",
    "\u3000", "\x1c", "\x7f",   "\u200b", "'l",  "'r", "€"};

static void compare_on(const char *const *patterns, int64_t count, const char *name)
{
    ml_pretokenizer *scanner = splitter_of(patterns, count, false),
                    *reference = splitter_of(patterns, count, true);
    char text[LONGEST];
    ml_random_key key = ml_random_key_make(1, name);
    for (uint64_t round = 0; round < 20000; round++) {
        int64_t length = 0;
        uint64_t n = ml_random_u64(key, round, 1000) % 24;
        for (uint64_t i = 0; i < n; i++) {
            const char *part = parts[ml_random_u64(key, round, i) % (sizeof parts / sizeof *parts)];
            memcpy(text + length, part, strlen(part));
            length += (int64_t)strlen(part);
        }
        cuts a = {.next = text}, b = {.next = text};
        assert_int_equal(ml_pretokenizer_run(scanner, &(ml_piece){text, length, 1}, keep, &a),
                         ML_OK);
        assert_int_equal(ml_pretokenizer_run(reference, &(ml_piece){text, length, 1}, keep, &b),
                         ML_OK);
        assert_ptr_equal(a.next, text + length);
        assert_ptr_equal(b.next, text + length);
        if (a.count != b.count ||
            memcmp(a.length, b.length, (size_t)a.count * sizeof *a.length) != 0)
            fail_msg("%s cuts \"%.*s\" otherwise than PCRE2", name, (int)length, text);
    }
    ml_pretokenizer_destroy(scanner);
    ml_pretokenizer_destroy(reference);
}

static void gpt2_cuts_as_pcre2(void **state)
{
    (void)state;
    compare_on((const char *[]){ML_PATTERN_GPT2}, 1, "gpt2");
}

static void smollm_cuts_as_pcre2(void **state)
{
    (void)state;
    compare_on((const char *[]){ML_PATTERN_DIGIT, ML_PATTERN_GPT2}, 2, "smollm");
}

static void llama3_cuts_as_pcre2(void **state)
{
    (void)state;
    compare_on((const char *[]){ML_PATTERN_LLAMA3}, 1, "llama3");
}

static void qwen2_cuts_as_pcre2(void **state)
{
    (void)state;
    compare_on((const char *[]){ML_PATTERN_QWEN2}, 1, "qwen2");
}

/* Words and scripts as Oniguruma has them, which PCRE2 has otherwise: ① is no word character, ½ is
 * one except inside brackets, marks are; 。 is shared by scripts and of none. */
static void words_and_scripts_are_those_of_oniguruma(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        int64_t count, length[6];
    } cases[] = {{"\\b", "9½①a", 3, {3, 3, 1}},
                 {"\\B.", "a\xcc\xa3①", 3, {1, 2, 3}},
                 {"\\w+", "a½①", 2, {3, 3}},
                 {"[\\w]+", "a½①", 2, {1, 5}},
                 {"\\W+", "a½①", 2, {3, 3}},
                 {"\\p{Han}+", "。川川a", 3, {3, 6, 1}},
                 {"\\p{^Han}+", "。川川a", 3, {3, 6, 1}},
                 {"[\\P{Han}]+", "。川川a", 3, {3, 6, 1}},
                 {"[^\\W\\d_]+", "a\xcc\xa3½_b7", 4, {3, 3, 1, 1}},
                 {"[\\W7]+", "a\xcc\xa3½7b", 3, {3, 3, 1}},
                 {"[[:punct:]]+", "a+∞!", 2, {1, 5}},
                 {"[[:alpha:]]+", "aⅢ3", 2, {4, 1}},
                 {"[^[:^alpha:]3]+", "aⅢ3", 2, {4, 1}},
                 {"[[:word:]]+", "a\xcc\xa3½", 2, {3, 2}},
                 {"7{,2}", "777", 2, {2, 1}},
                 {"(?m:a.)", "xa\n", 2, {1, 2}},
                 {"\\v", "a\n\v", 2, {2, 1}},
                 {"\\pL", "apLb", 3, {1, 2, 1}},
                 {"\\Qa.\\E", "Qa.EQaxE", 2, {4, 4}},
                 {"[\\u5dDd\\u0061]+", "b川a", 2, {1, 4}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i].text;
        ml_pretokenizer *p = splitter_of(&cases[i].pattern, 1, false);
        cuts made = {.next = text};
        assert_int_equal(
            ml_pretokenizer_run(p, &(ml_piece){text, (int64_t)strlen(text), 1}, keep, &made),
            ML_OK);
        bool same = made.count == cases[i].count;
        for (int64_t j = 0; same && j < made.count; j++)
            same = made.length[j] == cases[i].length[j];
        if (!same) fail_msg("%s cuts %s otherwise", cases[i].pattern, text);
        ml_pretokenizer_destroy(p);
    }
}

static void refused(const char *pre, const char *message)
{
    json_t *json = json_loads(pre, 0, NULL);
    ml_pretokenizer *p;
    ml_error_clear();
    assert_non_null(json);
    assert_int_equal(ml_pretokenizer_create(&p, json), ML_INPUT);
    if (!strstr(ml_error_text(), message)) fail_msg("\"%s\": %s", message, ml_error_text());
    json_decref(json);
}

static void bad_patterns_are_refused(void **state)
{
    (void)state;
    static const char split[] = "{\"type\": \"Split\", \"behavior\": \"%s\", \"pattern\": "
                                "{\"Regex\": \"%s\"}}";
    static const char *const bad[][3] = {{"Isolated", "a(", "a("},
                                         {"Isolated", "[a-z&&[^x]]", "&&"},
                                         {"Isolated", "[a[^x]]", "[^"},
                                         {"Sometimes", "a", "Sometimes"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char json[256];
        snprintf(json, sizeof json, split, bad[i][0], bad[i][1]);
        refused(json, bad[i][2]);
    }
    refused("{\"type\": \"Cut\"}", "Cut");
    refused("{\"type\": \"Sequence\"}", "pretokenizers");
}

/* Every character goes to UTF-8 and back; what is not UTF-8 is seen. */
static void utf8_is_read_and_written(void **state)
{
    (void)state;
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x80\x80",
                                      "\xed\xa0\x80",
                                      "\xf0\x80\x80\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe4\xb8",
                                      "\xff",
                                      "\xc3("};
    int size;
    char bytes[4];
    for (int32_t c = 0; c < 0x110000; c++) {
        int64_t length = (int64_t)ml_utf8_put(c, bytes);
        int32_t back = ml_utf8_next(bytes, length, 0, &size);
        assert_true(c >= 0xd800 && c < 0xe000 ? back == -1 : back == c && size == length);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ml_utf8_next(bad[i], (int64_t)strlen(bad[i]), 0, &size), -1);
        assert_int_equal(size, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_cuts_as_pcre2),
        cmocka_unit_test(smollm_cuts_as_pcre2),
        cmocka_unit_test(llama3_cuts_as_pcre2),
        cmocka_unit_test(qwen2_cuts_as_pcre2),
        cmocka_unit_test(words_and_scripts_are_those_of_oniguruma),
        cmocka_unit_test(bad_patterns_are_refused),
        cmocka_unit_test(utf8_is_read_and_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
