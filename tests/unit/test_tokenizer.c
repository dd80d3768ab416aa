/* tokenizer: ids as the `tokenizers` library has them (golden files), GPT-2's 44 vectors, every
 * byte string there and back, special tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "data/tokenizer/models/model.h"
#include "tokenizer_case.h"

/* The folder of the real GPT-2 vocabulary, or NULL where it is absent. */
static const char *gpt2_folder(void)
{
    static char path[4096];
    const char *shared = getenv("MPILORA_SHARED_DATA"), *source = getenv("MPILORA_SOURCE_DIR");
    if (shared)
        snprintf(path, sizeof path, "%s/gpt2-bpe", shared);
    else
        snprintf(path, sizeof path, "%s/../shared/data/gpt2-bpe", source ? source : ".");
    return access(path, R_OK) == 0 ? path : NULL;
}

static void comes_back(ml_tokenizer *tokenizer, const char *bytes, int64_t length, bool specials)
{
    ml_ids ids = {0};
    ml_text back = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, bytes, length, specials, &ids), ML_OK);
    assert_int_equal(ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back), ML_OK);
    assert_int_equal(back.length, length);
    assert_memory_equal(back.data, bytes, (size_t)length);
    ml_ids_destroy(&ids);
    ml_text_destroy(&back);
}

static void ids_equal_the_tokenizers_library(void **state)
{
    (void)state;
    json_t *golden = json_load_file(golden_path("golden.json"), JSON_ALLOW_NUL, NULL);
    json_t *texts = json_object_get(golden, "texts"), *text;
    assert_true(json_array_size(texts) > 150);
    for (size_t v = 0; v < 4; v++) {
        json_t *ids = json_object_get(json_object_get(golden, "ids"), variants[v]);
        ml_tokenizer *tokenizer = tokenizer_of(golden_path(variants[v]));
        size_t i;
        json_array_foreach(texts, i, text)
            encodes_to(tokenizer, text, true, json_array_get(ids, i));
        ml_tokenizer_destroy(tokenizer);
    }
    json_decref(golden);
}

/* Each kind of model and stage: ids and texts as the library has them that it was made with. */
static void kinds_equal_their_libraries(void **state)
{
    (void)state;
    json_t *golden = json_load_file(golden_path("kinds.json"), JSON_ALLOW_NUL, NULL);
    json_t *texts = json_object_get(golden, "texts"), *kind, *wanted;
    const char *name;
    assert_true(json_object_size(json_object_get(golden, "kinds")) >= 18);
    json_object_foreach(json_object_get(golden, "kinds"), name, kind)
    {
        ml_tokenizer *tokenizer = tokenizer_of(golden_path(name));
        bool plain = !strncmp(name, "sentencepiece", 13); /* finds no control symbols in text */
        size_t i;
        json_array_foreach(json_object_get(kind, "ids"), i, wanted)
        {
            const json_t *text = json_array_get(json_object_get(kind, "decoded"), i);
            ml_ids ids = {0};
            ml_text back = {0};
            encodes_to(tokenizer, json_array_get(texts, i), !plain, wanted);
            json_t *id;
            size_t j;
            json_array_foreach(wanted, j, id)
                assert_int_equal(ml_ids_add(&ids, (int32_t)json_integer_value(id)), ML_OK);
            assert_int_equal(ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back), ML_OK);
            /* the others show bytes that are no UTF-8 as U+FFFD */
            if (!strchr(json_string_value(text), 0xef) &&
                (back.length != (int64_t)json_string_length(text) ||
                 memcmp(back.data ? back.data : "", json_string_value(text), (size_t)back.length)))
                fail_msg("%s: \"%s\" is decoded as \"%.*s\"", name, json_string_value(text),
                         (int)back.length, back.data);
            ml_ids_destroy(&ids);
            ml_text_destroy(&back);
        }
        ml_tokenizer_destroy(tokenizer);
    }
    json_decref(golden);
}

static void gpt2_vectors(void **state)
{
    (void)state;
    if (!gpt2_folder()) {
        print_message("the real GPT-2 vocabulary is not here: skipped\n");
        skip();
    }
    char path[4200];
    snprintf(path, sizeof path, "%s/test_vectors.json", gpt2_folder());
    json_t *vectors = json_load_file(path, JSON_ALLOW_NUL, NULL), *one;
    assert_int_equal(json_array_size(vectors), 44);
    ml_tokenizer *tokenizer = tokenizer_of(gpt2_folder());
    size_t i;
    json_array_foreach(vectors, i, one)
        encodes_to(tokenizer, json_object_get(one, "text"), false, json_object_get(one, "ids"));
    assert_int_equal(ml_tokenizer_size(tokenizer), 50257);
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 50256);
    assert_int_equal(ml_tokenizer_begin_of_text(tokenizer), -1);
    ml_tokenizer_destroy(tokenizer);
    json_decref(vectors);
}

static void every_byte_string_comes_back(void **state)
{
    (void)state;
    char bytes[400];
    ml_random_key key = ml_random_key_make(1, "bytes");
    for (size_t v = 0; v < 4; v++) {
        ml_tokenizer *tokenizer = tokenizer_of(golden_path(variants[v]));
        for (int i = 0; i < 256; i++) bytes[i] = (char)i;
        comes_back(tokenizer, bytes, 256, true);
        for (uint64_t round = 0; round < 500; round++) {
            int64_t length = (int64_t)(ml_random_u64(key, round, 1000) % sizeof bytes);
            for (int64_t i = 0; i < length; i++) {
                uint64_t r = ml_random_u64(key, round, (uint64_t)i);
                bytes[i] = (char)(round % 2 ? r
                                  : r % 3   ? 97 + r % 7
                                            : 0xc0 + r % 64); /* also nearly valid UTF-8 */
            }
            comes_back(tokenizer, bytes, length, round % 3 == 0);
        }
        ml_tokenizer_destroy(tokenizer);
    }
}

static void special_tokens_stay_text_unless_asked_for(void **state)
{
    (void)state;
    static const char text[] = "the<|endoftext|> river";
    ml_tokenizer *tokenizer = tokenizer_of(golden_path("gpt2"));
    int32_t end = ml_tokenizer_end_of_text(tokenizer);
    assert_int_equal(end, 0);
    assert_true(ml_tokenizer_is_special(tokenizer, end));
    assert_false(ml_tokenizer_is_special(tokenizer, 5));
    assert_false(ml_tokenizer_is_special(tokenizer, -1));
    for (int specials = 0; specials < 2; specials++) {
        ml_ids ids = {0};
        int seen = 0;
        assert_int_equal(
            ml_tokenizer_encode(tokenizer, text, (int64_t)strlen(text), specials, &ids), ML_OK);
        for (int64_t i = 0; i < ids.count; i++) seen += ids.data[i] == end;
        assert_int_equal(seen, specials);
        ml_ids_destroy(&ids);
        comes_back(tokenizer, text, (int64_t)strlen(text), specials);
    }
    ml_text out = {0};
    /* a padded vocabulary's */
    assert_int_equal(ml_tokenizer_decode(tokenizer, (int32_t[]){401}, 1, &out), ML_OK);
    assert_int_equal(out.length, 0);
    assert_int_equal(ml_tokenizer_decode(tokenizer, (int32_t[]){-1}, 1, &out), ML_INPUT);
    ml_text_destroy(&out);
    ml_tokenizer_destroy(tokenizer);
}

/* A zero byte that ends a word is a character with a suffix, not the suffix alone. */
static void zero_bytes_take_affixes(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"end_of_word_suffix\": "
        "\"</w>\", \"vocab\": {\"<unk>\": 0, \"</w>\": 1, \"a\": 2}, \"merges\": []}}";
    ml_ids ids = {0};
    write_file("tokenizer.json", json);
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    assert_int_equal(ml_tokenizer_encode(tokenizer, "a\0", 2, true, &ids), ML_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.data[0], 2);
    assert_int_equal(ids.data[1], 0);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

/* A megabyte without a blank, or of nothing else, or of marks: seconds would mean that the work
 * grows with the square. */
static void long_words_take_no_square_time(void **state)
{
    (void)state;
    enum { LENGTH = 1000000 };
    static const char *const names[] = {"gpt2",
                                        "llama3",
                                        "llama",
                                        "unigram",
                                        "bert",
                                        "suffix",
                                        "next",
                                        "wordpiece",
                                        "words",
                                        "blank-before",
                                        "sentencepiece-bpe",
                                        "sentencepiece-unigram"};
    static const char *const parts[] = {"there", " ", "\n", "\u0301\u0323", "<user>", "<"};
    char *bytes = ml_memory_alloc(LENGTH, 1, ML_MEM_OTHER, "test");
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        ml_tokenizer *tokenizer = tokenizer_of(golden_path(names[n]));
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            ml_ids ids = {0};
            ml_text back = {0};
            for (size_t i = 0; i < LENGTH; i++) bytes[i] = parts[p][i % strlen(parts[p])];
            double start = ml_seconds();
            assert_int_equal(ml_tokenizer_encode(tokenizer, bytes, LENGTH, true, &ids), ML_OK);
            assert_int_equal(ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back), ML_OK);
            if (ml_seconds() - start > 20) fail_msg("%s: too slow on \"%s\"", names[n], parts[p]);
            ml_ids_destroy(&ids);
            ml_text_destroy(&back);
        }
        ml_tokenizer_destroy(tokenizer);
    }
    ml_memory_free(bytes);
}

/* Writes a tokenizer with `count` more added tokens, all of one beginning, and opens it; *seconds
 * are those of this process, since others may have the cores. */
static ml_tokenizer *with_added_tokens(int count, double *seconds)
{
    json_t *root = json_load_file(golden_path("llama/tokenizer.json"), 0, NULL);
    json_t *added = json_object_get(root, "added_tokens");
    for (int i = 0; i < count; i++) {
        char text[32];
        snprintf(text, sizeof text, "<extra_%d>", i);
        json_array_append_new(added,
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 2000 + i,
                                        "content", text, "single_word", 0, "lstrip", 0, "rstrip", 0,
                                        "normalized", i % 2, "special", 0));
    }
    char *text = json_dumps(root, 0);
    write_file("tokenizer.json", text);
    free(text);
    json_decref(root);
    clock_t start = clock();
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    *seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    return tokenizer;
}

/* Ten times as many added tokens take some ten times as long to open, where a square of their
 * number takes a hundred times: both are measured, for a busy machine slows both. */
static void many_added_tokens_open_at_once(void **state)
{
    (void)state;
    enum { COUNT = 30000 };
    double few_take, all_take;
    ml_tokenizer_destroy(with_added_tokens(COUNT / 10, &few_take));
    ml_tokenizer *tokenizer = with_added_tokens(COUNT, &all_take);
    if (all_take > 40 * few_take)
        fail_msg("%d added tokens take %.3f s, a tenth of them %.3f s", COUNT, all_take, few_take);
    assert_int_equal(ml_tokenizer_size(tokenizer), 2000 + COUNT);
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, "<extra_29998>", 13, true, &ids), ML_OK);
    assert_int_equal(ids.count, 1);
    assert_int_equal(ids.data[0], 2000 + 29998);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

/* The text of a base file that an earlier version wrote. */
static void the_first_version_stays_readable(void **state)
{
    (void)state;
    static const char old[] =
        "{\"added\":[{\"id\":4,\"special\":true}],\"begin\":-1,\"end\":4,\"format\":"
        "\"mpilora-tokenizer\",\"merges\":[\"t h\"],\"split\":[\"\\\\p{N}\",\"(?s).+\"],"
        "\"tokens\":[\"t\",\"h\",\"\\u0120\",\"th\",\"<end>\",null,\"1\"],\"version\":1,"
        "\"whole_pieces\":false}";
    static const int32_t wanted[] = {3, 6, 6, 2, 4};
    ml_tokenizer *tokenizer = NULL;
    ml_ids ids = {0};
    ml_text tokenizer_json = {0}, config = {0};
    int64_t length = (int64_t)strlen(old);
    assert_int_equal(ml_tokenizer_create(&tokenizer, old, length), ML_OK);
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 4);
    assert_int_equal(ml_tokenizer_size(tokenizer), 7);
    assert_int_equal(ml_tokenizer_encode(tokenizer, "th11 <end>", 10, true, &ids), ML_OK);
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.data, wanted, sizeof wanted);
    assert_int_equal(ml_tokenizer_to_huggingface(old, length, &tokenizer_json, &config), ML_OK);
    assert_non_null(strstr(tokenizer_json.data, "\"<end>\""));
    ml_text_destroy(&tokenizer_json);
    ml_text_destroy(&config);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_tokenizers_library),
        cmocka_unit_test(kinds_equal_their_libraries),
        cmocka_unit_test(gpt2_vectors),
        cmocka_unit_test(every_byte_string_comes_back),
        cmocka_unit_test(special_tokens_stay_text_unless_asked_for),
        cmocka_unit_test_teardown(zero_bytes_take_affixes, empty_folder),
        cmocka_unit_test(long_words_take_no_square_time),
        cmocka_unit_test_teardown(many_added_tokens_open_at_once, empty_folder),
        cmocka_unit_test(the_first_version_stays_readable),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
