/* split patterns: the scanners written by hand cut as PCRE2 does, on random text of all the
 * characters that the patterns tell apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/tokenizer_private.h"

enum { LONGEST = 400 };

typedef struct cuts {
    const char *next; /* where the next piece must begin */
    int64_t count, length[LONGEST];
} cuts;

static ml_status keep(void *context, const char *piece, int64_t length)
{
    cuts *c = context;
    assert_ptr_equal(piece, c->next);
    assert_true(length > 0);
    c->next = piece + length;
    c->length[c->count++] = length;
    return ML_OK;
}

static const char *const parts[] = {
    " ",      " ",    "  ",     "\n",     "\r",  "\t", "a",      "Z",        "'s",     "'S",
    "'t",     "'ll",  "'LL",    "'re",    "'vE", "'d", "'m",     "'",        "'ſ",     "7",
    "12",     "1999", "½",      "Ⅷ",      "٣",   "é",  "ж",      "海",       "ª",      "!",
    "...",    "_",    "\u0301", "🙂",   "𐐀",   "𝟘",  "\u00a0", "\xc2\x85", "\u2003", "\u2028",
    "\u3000", "\x1c", "\x7f",   "\u200b", "'l",  "'r", "€"};

static void compare_on(const char *const *patterns, int64_t count, const char *name)
{
    ml_splitter *scanner, *reference;
    char text[LONGEST];
    ml_random_key key = ml_random_key_make(1, name);
    assert_int_equal(ml_splitter_create(&scanner, patterns, count, true), ML_OK);
    assert_int_equal(ml_splitter_create(&reference, patterns, count, false), ML_OK);
    for (uint64_t round = 0; round < 20000; round++) {
        int64_t length = 0;
        uint64_t n = ml_random_u64(key, round, 1000) % 24;
        for (uint64_t i = 0; i < n; i++) {
            const char *part = parts[ml_random_u64(key, round, i) % (sizeof parts / sizeof *parts)];
            memcpy(text + length, part, strlen(part));
            length += (int64_t)strlen(part);
        }
        cuts a = {.next = text}, b = {.next = text};
        assert_int_equal(ml_splitter_run(scanner, text, length, keep, &a), ML_OK);
        assert_int_equal(ml_splitter_run(reference, text, length, keep, &b), ML_OK);
        assert_ptr_equal(a.next, text + length);
        assert_ptr_equal(b.next, text + length);
        if (a.count != b.count ||
            memcmp(a.length, b.length, (size_t)a.count * sizeof *a.length) != 0)
            fail_msg("%s cuts \"%.*s\" otherwise than PCRE2", name, (int)length, text);
    }
    ml_splitter_destroy(scanner);
    ml_splitter_destroy(reference);
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

static void bad_patterns_are_refused(void **state)
{
    (void)state;
    ml_splitter *splitter;
    assert_int_equal(ml_splitter_create(&splitter, (const char *[]){"a("}, 1, true), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "a("));
    assert_int_equal(ml_splitter_create(&splitter, NULL, 0, true), ML_INPUT);
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
        cmocka_unit_test(gpt2_cuts_as_pcre2),       cmocka_unit_test(smollm_cuts_as_pcre2),
        cmocka_unit_test(llama3_cuts_as_pcre2),     cmocka_unit_test(bad_patterns_are_refused),
        cmocka_unit_test(utf8_is_read_and_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
