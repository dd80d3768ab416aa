/* plain model: the vocabulary and the merges of a BPE read without a tree of JSON values are those
 * that the JSON library reads, and what it refuses is refused here, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <jansson.h>

#include <cmocka.h>

#include "data/tokenizer/plain_model.h"
#include "mpilora/data.h"

#define DOCUMENT(vocab, merges)                                                                  \
    "{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", \"other\": [\"}\", {\"vocab\": [1]}]" \
    ", \"vocab\": " vocab " , \"merges\":" merges "}, \"decoder\": null}"

typedef struct list {
    ml_text text; /* "left|right\n" of every merge */
    int32_t count;
} list;

static ml_status keep(void *self, const char *left, int64_t left_length, const char *right,
                      int64_t right_length, int32_t rank)
{
    list *l = self;
    assert_int_equal(rank, l->count++);
    return ml_text_printf(&l->text, "%.*s|%.*s\n", (int)left_length, left, (int)right_length,
                          right);
}

static ml_status read_both(const char *document, ml_vocabulary *vocabulary, list *merges, bool *cut)
{
    ml_plain_model model = {0};
    assert_int_equal(ml_plain_model_cut(&model, document, (int64_t)strlen(document)), ML_OK);
    *cut = model.vocab.text != NULL;
    ml_status st = *cut ? ml_plain_model_vocab(&model, vocabulary) : ML_OK;
    if (st == ML_OK && *cut) st = ml_plain_model_merges(&model, keep, merges);
    ml_plain_model_destroy(&model);
    return st;
}

/* The rest is JSON in which the two members are empty, and everything else is as it was. */
static void the_rest_is_what_was_not_cut(void **state)
{
    (void)state;
    static const char *const documents[] = {
        DOCUMENT("{\"a\": 0}", "[\"a b\"]"),
        "{\"model\":{\"merges\":[[\"]\",\"\\\"\"]],\"vocab\":{\"}\":1}},\"x\":[]}"};
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        ml_plain_model model = {0};
        json_t *whole = json_loads(documents[i], 0, NULL);
        json_t *in = json_object_get(whole, "model");
        assert_int_equal(ml_plain_model_cut(&model, documents[i], (int64_t)strlen(documents[i])),
                         ML_OK);
        json_object_set_new(in, "vocab", json_object());
        json_object_set_new(in, "merges", json_array());
        json_t *rest = json_loadb(model.rest.data, (size_t)model.rest.length, 0, NULL);
        assert_true(json_equal(rest, whole));
        json_decref(rest);
        json_decref(whole);
        ml_plain_model_destroy(&model);
    }
}

static void texts_and_merges_are_those_of_json(void **state)
{
    (void)state;
    static const char document[] = DOCUMENT(
        "{ \"a\" :0,\n\"\\u00e9\\ud83d\\ude42\":3, \"\\\"\\\\\\/\\b\\f\\n\\r\\t\" : 1,\"Ġ海\":2}",
        "[ \"a \\u0062\", [\"a b\" , \"\\u00e9\"],\"海 x\"]");
    ml_vocabulary vocabulary = {0};
    list merges = {0};
    bool cut;
    assert_int_equal(read_both(document, &vocabulary, &merges, &cut), ML_OK);
    assert_true(cut);
    json_t *whole = json_loads(document, 0, NULL);
    const json_t *vocab = json_object_get(json_object_get(whole, "model"), "vocab");
    const char *text;
    size_t length;
    json_t *id;
    assert_int_equal(vocabulary.size, 4);
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, text, length, id) assert_int_equal(
        ml_vocabulary_find(&vocabulary, text, (int64_t)length), json_integer_value(id));
    assert_string_equal(merges.text.data, "a|b\na b|é\n海|x\n");
    json_decref(whole);
    ml_text_destroy(&merges.text);
    ml_vocabulary_destroy(&vocabulary);
}

/* Of these the plain reader makes nothing; the tokenizer is refused with the JSON library's words
 * or the model's. */
static void what_is_not_plain_is_left_to_json(void **state)
{
    (void)state;
    static const char *const documents[] = {DOCUMENT("{\"a\": 0, \"a\": 1}", "[]"),
                                            DOCUMENT("{\"a\": 0, \"a\": 0}", "[]"),
                                            DOCUMENT("{\"a\": 0, \"b\": 0}", "[]"),
                                            DOCUMENT("{\"a\": -1}", "[]"),
                                            DOCUMENT("{\"a\": 1.5}", "[]"),
                                            DOCUMENT("{\"a\": 01}", "[]"),
                                            DOCUMENT("{\"a\": 99999999999999}", "[]"),
                                            DOCUMENT("{\"a\": }", "[]"),
                                            DOCUMENT("{\"a\": 0,}", "[]"),
                                            DOCUMENT("{\"a\" 0}", "[]"),
                                            DOCUMENT("{\"a\": \"0\"}", "[]"),
                                            DOCUMENT("{a: 0}", "[]"),
                                            DOCUMENT("{\"\\ud800\": 0}", "[]"),
                                            DOCUMENT("{\"\\ud800\\u0041\": 0}", "[]"),
                                            DOCUMENT("{\"\\udc00\": 0}", "[]"),
                                            DOCUMENT("{\"\\x\": 0}", "[]"),
                                            DOCUMENT("{\"\\u12g4\": 0}", "[]"),
                                            DOCUMENT("{\"\xff\": 0}", "[]"),
                                            DOCUMENT("{\"a\nb\": 0}", "[]"),
                                            DOCUMENT("{\"\\u0000\": 0}", "[]"),
                                            DOCUMENT("{\"a\": 0}", "[\"a\"]"),
                                            DOCUMENT("{\"a\": 0}", "[\"a a a\"]"),
                                            DOCUMENT("{\"a\": 0}", "[[\"a\"]]"),
                                            DOCUMENT("{\"a\": 0}", "[\"a a\",]"),
                                            DOCUMENT("{\"a\": 0}", "[[\"a\",\"a\",1]]"),
                                            DOCUMENT("{\"a\": 0}", "[1]"),
                                            DOCUMENT("{\"a\": 0}", "[\"a a\" \"a a\"]"),
                                            DOCUMENT("{\"a\": 0}]", "[]"),
                                            DOCUMENT("{\"a\": 0", "[]"),
                                            DOCUMENT("{\"a\": 0}", "[\"a")};
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        ml_vocabulary vocabulary = {0};
        list merges = {0};
        bool cut;
        ml_text text = {0};
        ml_tokenizer *tokenizer = NULL;
        ml_status st = read_both(documents[i], &vocabulary, &merges, &cut);
        if (cut && st != ML_INPUT) fail_msg("read: %s", documents[i]);
        (void)!ml_text_printf(&text,
                              "{\"format\": \"mpilora-tokenizer\", \"version\": 2, "
                              "\"begin\": -1, \"end\": -1}\n%s",
                              documents[i]);
        if (ml_tokenizer_create(&tokenizer, text.data, text.length) != ML_INPUT)
            fail_msg("made of: %s", documents[i]);
        if (strstr(ml_error_text(), "plain")) fail_msg("%s", ml_error_text());
        ml_text_destroy(&text);
        ml_text_destroy(&merges.text);
        ml_vocabulary_destroy(&vocabulary);
    }
}

/* Other models have members of these names, too. */
static void other_models_are_not_cut(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}, \"merges\": []}}",
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"merges\": []}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}}}",
        "{\"model\": []}",
        "{",
        ""};
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        bool cut;
        assert_int_equal(read_both(documents[i], NULL, NULL, &cut), ML_OK);
        assert_false(cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rest_is_what_was_not_cut),
        cmocka_unit_test(texts_and_merges_are_those_of_json),
        cmocka_unit_test(what_is_not_plain_is_left_to_json),
        cmocka_unit_test(other_models_are_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
