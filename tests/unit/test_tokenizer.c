/* tokenizer: ids as the `tokenizers` library has them (golden files), GPT-2's 44 vectors, every
 * byte string there and back, special tokens, the sources and their faults, the export. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include <cmocka.h>

#include "data/tokenizer/sources.h"
#include "data/tokenizer/tokenizer_json.h"
#include "kinds_case.h"
#include "mpilora/data.h"

static const char *const variants[] = {"gpt2", "smollm", "llama3", "other"};
static char folder[64];

/* ---- help ---------------------------------------------------------------------------------- */

static const char *golden_path(const char *name)
{
    static char path[4096];
    const char *source = getenv("MPILORA_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s", source ? source : ".", name);
    return path;
}

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

static ml_tokenizer *tokenizer_of(const char *directory)
{
    ml_text json = {0};
    bool found;
    ml_tokenizer *tokenizer = NULL;
    assert_int_equal(ml_tokenizer_from_directory(directory, &json, &found), ML_OK);
    assert_true(found);
    assert_int_equal(ml_tokenizer_create(&tokenizer, json.data, json.length), ML_OK);
    ml_text_destroy(&json);
    return tokenizer;
}

static void encodes_to(ml_tokenizer *tokenizer, const json_t *text, bool specials,
                       const json_t *wanted)
{
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, json_string_value(text),
                                         (int64_t)json_string_length(text), specials, &ids),
                     ML_OK);
    if ((size_t)ids.count != json_array_size(wanted))
        fail_msg("%lld ids for \"%s\"", (long long)ids.count, json_string_value(text));
    for (int64_t i = 0; i < ids.count; i++)
        assert_int_equal(ids.data[i], json_integer_value(json_array_get(wanted, (size_t)i)));
    ml_ids_destroy(&ids);
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

static void write_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "test_tokenizer-%ld", (long)getpid());
    return mkdir(folder, 0777);
}

static int empty_folder(void **state)
{
    (void)state;
    static const char *const names[] = {
        "tokenizer.json",        "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json",
        "tokenizer_config.json", "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return 0;
}

static int remove_folder(void **state)
{
    empty_folder(state);
    return rmdir(folder);
}

/* ---- ids ----------------------------------------------------------------------------------- */

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

/* ---- sources ------------------------------------------------------------------------------- */

/* A vocab.json of the small letters, "th" and "the", and `more`. */
static void write_small_vocab(const char *more)
{
    ml_text json = {0};
    (void)!ml_text_printf(&json, "{");
    for (int c = 'a'; c <= 'z'; c++) (void)!ml_text_printf(&json, "\"%c\": %d, ", c, c - 'a');
    (void)!ml_text_printf(&json, "\"th\": 26, \"the\": 27%s}", more);
    write_file("vocab.json", json.data);
    ml_text_destroy(&json);
}

static void refused(const char *part_of_message)
{
    ml_text json = {0};
    bool found;
    ml_error_clear();
    assert_int_equal(ml_tokenizer_from_directory(folder, &json, &found), ML_INPUT);
    if (!strstr(ml_error_text(), part_of_message))
        fail_msg("\"%s\" says nothing of \"%s\"", ml_error_text(), part_of_message);
    assert_non_null(strstr(ml_error_text(), folder));
    ml_text_destroy(&json);
}

static void vocabulary_and_merges_files(void **state)
{
    (void)state;
    write_small_vocab(", \"<end>\": 28, \"<|endoftext|>\": 29");
    write_file("merges.txt", "#version: 0.2\nt h\nth e\n");
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 29);
    assert_int_equal(ml_tokenizer_encode(tokenizer, "thethx", 6, true, &ids), ML_OK);
    assert_int_equal(ids.count, 3);
    assert_int_equal(ids.data[0], 27);
    assert_int_equal(ids.data[1], 26);
    assert_int_equal(ids.data[2], 'x' - 'a');
    assert_int_equal(ml_tokenizer_encode(tokenizer, "A b", 3, true, &ids),
                     ML_OK); /* two bytes that the vocabulary lacks */
    assert_int_equal(ids.count, 4);
    assert_int_equal(ml_tokenizer_lost(tokenizer), 2);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
    write_file(
        "tokenizer_config.json",
        "{\"eos_token\": {\"content\": \"<end>\"}, \"bos_token\": \"a\", \"add_bos_token\": true,"
        " \"model_max_length\": 1000000000000000019884624838656}"); /* transformers: no limit */
    tokenizer = tokenizer_of(folder);
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 28);
    assert_int_equal(ml_tokenizer_begin_of_text(tokenizer), 0);
    ml_tokenizer_destroy(tokenizer);
}

/* An added token that is not special is found in any text, a special one only where it is asked
 * for; the longest of several is taken. */
static void added_tokens_are_found_by_kind(void **state)
{
    (void)state;
    write_file("tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"<\": 0, \">\": 1, "
                                 "\"x\": 2}, \"merges\": []}, "
                                 "\"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                                 "\"add_prefix_space\": false}, \"added_tokens\": ["
                                 "{\"id\": 3, \"content\": \"<x\", \"special\": false}, {\"id\": "
                                 "4, \"content\": \"<x>\", \"special\": true}]}");
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, "x<x>", 4, true, &ids), ML_OK);
    assert_int_equal(ml_tokenizer_encode(tokenizer, "x<x>", 4, false, &ids), ML_OK);
    static const int32_t wanted[] = {2, 4, 2, 3, 1};
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.data, wanted, sizeof wanted);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

static void bad_vocabularies_are_refused(void **state)
{
    (void)state;
    ml_text json = {0};
    bool found = true;
    assert_int_equal(ml_tokenizer_from_directory(folder, &json, &found), ML_OK);
    assert_false(found);
    write_small_vocab("");
    refused("merges.txt");
    write_file("merges.txt", "t h\nt\n");
    refused("line 2");
    write_file("merges.txt", "t h\nt e\n");
    refused("makes no token");
    write_file("merges.txt", "t é\n");
    refused("no token");
    write_file("merges.txt", "t h\n");
    write_small_vocab(", \"x\": 28");
    refused("duplicate");
    write_small_vocab(", \"new\": 3");
    refused("same id 3");
    write_small_vocab(", \"new\": -3");
    refused("-3");
    write_small_vocab(", \"new\": 3000000000");
    refused("3000000000");
    write_small_vocab(", \"new\": 1.5");
    refused("integer");
    write_small_vocab(", ");
    refused("JSON");
}

static void unknown_kinds_are_refused(void **state)
{
    (void)state;
    static const char model[] =
        "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": []}";
    static const char pre[] =
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
    static const struct {
        const char *first, *second, *message;
    } bad[] = {
        {model, "\"pre_tokenizer\": {\"type\": \"Metaspace\"}", "replacement"},
        {model, "\"pre_tokenizer\": {\"type\": \"Cut\"}", "\"Cut\": is not known"},
        {model,
         "\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Gone\", \"pattern\": "
         "{\"Regex\": \"a\"}}",
         "Gone"},
        {model,
         "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
         "\"behavior\": \"Isolated\", \"pattern\": "
         "{\"Regex\": \"(\"}}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}",
         "split pattern"},
        {pre, "\"model\": {\"type\": \"Guess\", \"vocab\": {}}", "Guess"},
        {pre, "\"model\": {\"type\": \"Unigram\", \"vocab\": {\"a\": 0}}", "Unigram"},
        {pre, "\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}", "piece 0"},
        {pre, "\"model\": {\"type\": \"Unigram\", \"unk_id\": 7, \"vocab\": [[\"a\", 0]]}",
         "unk_id"},
        {pre,
         "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": "
         "0.1}",
         "dropout"},
        {pre, "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}",
         "merge 0"},
        {pre, "\"x\": 1", "model"},
        {model, "\"normalizer\": {\"type\": \"NFX\"}", "normalizer \"NFX\": is not known"},
        {model, "\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AA\"}",
         "character map"},
        {model, "\"decoder\": {\"type\": \"Undo\"}", "decoder \"Undo\""},
        {model, "\"post_processor\": {\"type\": \"Wrap\"}", "post-processor \"Wrap\""},
        {model,
         "\"post_processor\": {\"type\": \"BertProcessing\", \"cls\": [\"x\", 7], \"sep\": "
         "[\"x\", 8]}",
         "not in the vocabulary"},
        {model, "\"added_tokens\": [{\"id\": 0, \"content\": \"<x>\"}]", "same id 0"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char json[2048];
        snprintf(json, sizeof json, "{%s, %s}", bad[i].first, bad[i].second);
        write_file("tokenizer.json", json);
        refused(bad[i].message);
    }
    write_file("tokenizer.json", "");
    refused("JSON");
}

static const char *document_name;

static void document_refused(const char *document, const char *message)
{
    write_file(document_name, document);
    refused(message);
}

/* Each key that the readers of tokenizer.json and of the files beside it look at, in a document
 * that has nothing else. */
static void values_of_other_kinds_are_refused(void **state)
{
    (void)state;
    document_name = "tokenizer.json";
    try_other_kinds(ml_tokenizer_json_keys, "", false, document_refused);
    write_file("tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, "
                                 "\"merges\": []}, \"added_tokens\": \"<x>\"}");
    refused("key \"added_tokens\" is a string, expected an array or null");
    empty_folder(NULL);
    write_small_vocab("");
    write_file("merges.txt", "t h\nth e\n");
    document_name = "tokenizer_config.json";
    document_refused("[]", "is an array, expected an object");
    try_other_kinds(ml_token_text_keys, "", true, document_refused);
    write_file("tokenizer_config.json", "{}");
    document_name = "config.json";
    try_other_kinds(ml_token_id_keys, "", false, document_refused);
}

/* The default ids of a model's configuration may mean another tokenizer: an ordinary token does
 * not become the end of texts by them. */
static void configured_ids_count_for_added_tokens_only(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizer.json", golden_path("gpt2"));
    json_t *root = json_load_file(path, 0, NULL);
    char *text = json_dumps(root, 0);
    write_file("tokenizer.json", text);
    write_file("tokenizer_config.json", "{}");
    write_file("config.json", "{\"eos_token_id\": 2, \"bos_token_id\": 1}");
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 0);
    ml_tokenizer_destroy(tokenizer);
    write_file("config.json", "{\"eos_token_id\": [400, 0]}");
    tokenizer = tokenizer_of(folder);
    assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 400);
    ml_tokenizer_destroy(tokenizer);
    write_file("tokenizer_config.json",
               "{\"eos_token\": \"he\"}"); /* an ordinary token, which merges go on making */
    tokenizer = tokenizer_of(folder);
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, " the", 4, false, &ids), ML_OK);
    assert_int_equal(ids.count, 1);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
    free(text);
    json_decref(root);
}

/* The golden tokenizer's arrays as GGUF has them. */
static void gguf_arrays_give_the_same_ids(void **state)
{
    (void)state;
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizer.json", golden_path("smollm"));
    json_t *root = json_load_file(path, 0, NULL), *id, *merge;
    json_t *model = json_object_get(root, "model");
    const char *tokens[401] = {NULL}, *merges[401], *text;
    char joined[401][64];
    int32_t types[401] = {0};
    json_object_foreach(json_object_get(model, "vocab"), text, id) tokens[json_integer_value(id)] =
        text;
    tokens[400] = "<|user|>";
    for (int i = 0; i <= 400; i++) types[i] = i == 0 || i == 400 ? 3 : 1;
    size_t i;
    json_array_foreach(json_object_get(model, "merges"), i, merge)
    {
        snprintf(joined[i], 64, "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        merges[i] = joined[i];
    }
    ml_gguf_vocabulary gguf = {.model = "gpt2",
                               .pre = "smollm",
                               .ntokens = 401,
                               .tokens = tokens,
                               .merges = merges,
                               .types = types,
                               .nmerges =
                                   (int64_t)json_array_size(json_object_get(model, "merges")),
                               .bos = 400,
                               .eos = 0,
                               .add_bos = true};
    ml_text a = {0};
    ml_tokenizer *tokenizer = NULL;
    assert_int_equal(ml_tokenizer_from_gguf(&gguf, &a), ML_OK);
    assert_int_equal(ml_tokenizer_create(&tokenizer, a.data, a.length), ML_OK);
    assert_int_equal(ml_tokenizer_begin_of_text(tokenizer), 400);
    json_t *golden = json_load_file(golden_path("golden.json"), JSON_ALLOW_NUL, NULL), *one;
    json_t *ids = json_object_get(json_object_get(golden, "ids"), "smollm");
    json_array_foreach(json_object_get(golden, "texts"), i, one)
        encodes_to(tokenizer, one, true, json_array_get(ids, i));
    ml_text again = {0};
    gguf.model = "rwkv";
    assert_int_equal(ml_tokenizer_from_gguf(&gguf, &again), ML_INPUT);
    gguf.model = "gpt2";
    gguf.pre = "smol";
    assert_int_equal(ml_tokenizer_from_gguf(&gguf, &again), ML_INPUT);
    gguf.pre = "smollm";
    gguf.eos = 401;
    assert_int_equal(ml_tokenizer_from_gguf(&gguf, &again), ML_INPUT);
    ml_tokenizer_destroy(tokenizer);
    ml_text_destroy(&a);
    ml_text_destroy(&again);
    json_decref(root);
    json_decref(golden);
}

/* Every name that llama.cpp knows is a pattern that compiles; who begins a text where the file does
 * not say is by the name. */
static void every_pre_of_gguf_is_known(void **state)
{
    (void)state;
    static const char *const names[] = {
        "default",     "gpt-2",     "phi-2",        "mpt",
        "olmo",        "smollm",    "starcoder",    "refact",
        "command-r",   "llama3",    "llama-bpe",    "falcon3",
        "pixtral",     "dbrx",      "smaug-bpe",    "glm4",
        "qwen2",       "stablelm2", "qwen35",       "ufakzeka",
        "tekken",      "gpt-4o",    "llama4",       "granite-embed-multi-97m",
        "tiny_aya",    "jais-2",    "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "spark2_5",  "youtu",        "falcon",
        "bloom",       "poro-chat", "viking",       "chameleon",
        "kimi-k2",     "superbpe",  "bailingmoe",   "seed-coder",
        "afmoe",       "laguna",    "exaone-moe",   "minicpm5"};
    static const char *const begins[] = {"llama3",  "llama-bpe", "falcon3",
                                         "pixtral", "tekken",    "chameleon"};
    static const char *const tokens[] = {"<s>", "a", "1", "\u0120"}, *const merges[] = {NULL};
    static const int32_t types[] = {3, 1, 1, 1};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ml_gguf_vocabulary gguf = {.model = "gpt2",
                                   .pre = names[i],
                                   .ntokens = 4,
                                   .tokens = tokens,
                                   .merges = merges,
                                   .types = types,
                                   .bos = 0,
                                   .eos = 0,
                                   .add_bos = -1};
        for (int said = -1; said < 2; said++) {
            ml_text json = {0};
            ml_tokenizer *tokenizer = NULL;
            bool usual = false;
            for (size_t j = 0; j < sizeof begins / sizeof *begins; j++)
                usual = usual || !strcmp(begins[j], names[i]);
            gguf.add_bos = said;
            if (ml_tokenizer_from_gguf(&gguf, &json) != ML_OK)
                fail_msg("%s: %s", names[i], ml_error_text());
            assert_int_equal(ml_tokenizer_create(&tokenizer, json.data, json.length), ML_OK);
            if (ml_tokenizer_begin_of_text(tokenizer) != ((said < 0 ? usual : said) ? 0 : -1))
                fail_msg("%s, add_bos %d: it begins with %d", names[i], said,
                         ml_tokenizer_begin_of_text(tokenizer));
            ml_tokenizer_destroy(tokenizer);
            ml_text_destroy(&json);
        }
    }
}

/* added_tokens.json and added_tokens_decoder beside vocab.json and merges.txt: tokens there are
 * found in text, with their flags. */
static void added_tokens_of_slow_files(void **state)
{
    (void)state;
    static const int32_t wanted[] = {41, 'h' - 'a', 40, 42, 'x' - 'a'};
    write_small_vocab("");
    write_file("merges.txt", "t h\nth e\n");
    write_file("added_tokens.json", "{\"<sep>\": 40, \"<user>\": 41}");
    write_file("tokenizer_config.json",
               "{\"added_tokens_decoder\": {\"42\": {\"content\": \"<wide>\", \"lstrip\": true, "
               "\"rstrip\": true, \"normalized\": false, \"special\": true}}}");
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    ml_ids ids = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, "<user>h<sep>  <wide> x", 22, true, &ids),
                     ML_OK);
    assert_int_equal(ids.count, 5);
    assert_memory_equal(ids.data, wanted, sizeof wanted);
    assert_true(ml_tokenizer_is_special(tokenizer, 42));
    assert_int_equal(ml_tokenizer_spelled(tokenizer, "<wide><sep><wide>", 17), 2);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

/* BERT's word list, and what stands around one text and two. */
static void word_lists_and_templates(void **state)
{
    (void)state;
    static const ml_template_part pair[] = {
        {1, 0}, {ML_TEMPLATE_A, 0}, {2, 0}, {ML_TEMPLATE_B, 1}, {2, 1}};
    static const int32_t wanted[] = {3, 4, 0};
    int64_t count;
    write_file("vocab.txt", "[UNK]\n[CLS]\n[SEP]\nriver\n##s\n");
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    ml_ids ids = {0};
    ml_text back = {0};
    assert_int_equal(ml_tokenizer_encode(tokenizer, "R\u00edvers sea", 11, true, &ids), ML_OK);
    assert_int_equal(ids.count, 3);
    assert_memory_equal(ids.data, wanted, sizeof wanted);
    assert_int_equal(ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back), ML_OK);
    assert_string_equal(back.data, "rivers [UNK]");
    const ml_template_part *parts = ml_tokenizer_template(tokenizer, true, &count);
    assert_int_equal(count, 5);
    assert_memory_equal(parts, pair, sizeof pair);
    assert_int_equal(ml_tokenizer_begin_of_text(tokenizer), 1);
    ml_ids_destroy(&ids);
    ml_text_destroy(&back);
    ml_tokenizer_destroy(tokenizer);
}

static void the_export_is_read_back_the_same(void **state)
{
    (void)state;
    for (size_t v = 0; v < 4; v++) {
        ml_text json = {0}, again = {0}, tokenizer = {0}, config = {0};
        bool found;
        assert_int_equal(ml_tokenizer_from_directory(golden_path(variants[v]), &json, &found),
                         ML_OK);
        assert_int_equal(ml_tokenizer_to_huggingface(json.data, json.length, &tokenizer, &config),
                         ML_OK);
        write_file("tokenizer.json", tokenizer.data);
        write_file("tokenizer_config.json", config.data);
        assert_int_equal(ml_tokenizer_from_directory(folder, &again, &found), ML_OK);
        assert_string_equal(json.data, again.data);
        ml_text_destroy(&json);
        ml_text_destroy(&again);
        ml_text_destroy(&tokenizer);
        ml_text_destroy(&config);
    }
}

static void a_damaged_canonical_text_is_refused(void **state)
{
    (void)state;
    ml_text json = {0};
    bool found;
    ml_tokenizer *tokenizer = NULL;
    assert_int_equal(ml_tokenizer_from_directory(golden_path("gpt2"), &json, &found), ML_OK);
    assert_int_equal(ml_tokenizer_create(&tokenizer, json.data, json.length / 2), ML_INPUT);
    assert_int_equal(ml_tokenizer_create(&tokenizer, "{}", 2), ML_INPUT);
    assert_int_equal(ml_tokenizer_create(&tokenizer, "[]", 2), ML_INPUT);
    ml_random_key key = ml_random_key_make(2, "damage");
    for (uint64_t i = 0; i < 300; i++) {
        int64_t at = (int64_t)(ml_random_u64(key, 0, i) % (uint64_t)json.length);
        char before = json.data[at];
        json.data[at] = "0,]}\"x-[:9"[ml_random_u64(key, 1, i) % 10];
        if (ml_tokenizer_create(&tokenizer, json.data, json.length) == ML_OK)
            ml_tokenizer_destroy(tokenizer);
        json.data[at] = before;
    }
    ml_text_destroy(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_tokenizers_library),
        cmocka_unit_test(kinds_equal_their_libraries),
        cmocka_unit_test(gpt2_vectors),
        cmocka_unit_test(every_byte_string_comes_back),
        cmocka_unit_test(special_tokens_stay_text_unless_asked_for),
        cmocka_unit_test(long_words_take_no_square_time),
        cmocka_unit_test_teardown(many_added_tokens_open_at_once, empty_folder),
        cmocka_unit_test(the_first_version_stays_readable),
        cmocka_unit_test_teardown(vocabulary_and_merges_files, empty_folder),
        cmocka_unit_test_teardown(added_tokens_are_found_by_kind, empty_folder),
        cmocka_unit_test_teardown(bad_vocabularies_are_refused, empty_folder),
        cmocka_unit_test_teardown(unknown_kinds_are_refused, empty_folder),
        cmocka_unit_test_teardown(values_of_other_kinds_are_refused, empty_folder),
        cmocka_unit_test_teardown(configured_ids_count_for_added_tokens_only, empty_folder),
        cmocka_unit_test(gguf_arrays_give_the_same_ids),
        cmocka_unit_test(every_pre_of_gguf_is_known),
        cmocka_unit_test_teardown(added_tokens_of_slow_files, empty_folder),
        cmocka_unit_test_teardown(word_lists_and_templates, empty_folder),
        cmocka_unit_test_teardown(the_export_is_read_back_the_same, empty_folder),
        cmocka_unit_test(a_damaged_canonical_text_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
