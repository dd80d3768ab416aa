/* tokenizer: what it is read from (tokenizer.json, vocabularies and merges, word lists, GGUF's
 * arrays), the faults of these, and the export. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "data/tokenizer/sources.h"
#include "data/tokenizer/tokenizer_json.h"
#include "kinds_case.h"
#include "tokenizer_case.h"

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

/* Beside a tokenizer.json add_bos_token says nothing, as in transformers 5: its post-processor
 * does, also where that is none. */
static void a_post_processor_alone_begins_texts(void **state)
{
    (void)state;
    static const char model[] =
        "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"<s>\": 0, \"x\": 1}, \"unk_token\": "
        "\"x\"}, \"added_tokens\": [{\"id\": 0, \"content\": \"<s>\", \"special\": true}]";
    static const char post[] =
        ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
        "{\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
        "\"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"special_tokens\": "
        "{\"<s>\": "
        "{\"id\": \"<s>\", \"ids\": [0], \"tokens\": [\"<s>\"]}}}";
    static const char *const files[] = {"tokenizer_config.json", "config.json",
                                        "generation_config.json"};
    char text[1024];
    for (int with = 0; with < 2; with++)
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            for (int said = 0; said < 2; said++) {
                snprintf(text, sizeof text, "%s%s}", model, with ? post : "");
                write_file("tokenizer.json", text);
                snprintf(text, sizeof text, "{\"bos_token%s\": %s, \"add_bos_token\": %s}",
                         i ? "_id" : "", i ? "0" : "\"<s>\"", said ? "true" : "false");
                write_file(files[i], text);
                ml_tokenizer *tokenizer = tokenizer_of(folder);
                assert_int_equal(ml_tokenizer_begin_of_text(tokenizer), with ? 0 : -1);
                ml_tokenizer_destroy(tokenizer);
            }
}

/* GLM-4's post-processor has two tokens before a text: both go before one. */
static void several_tokens_may_begin_a_text(void **state)
{
    (void)state;
    static const char part[] = "{\"SpecialToken\": {\"id\": \"%s\", \"type_id\": 0}}, ";
    char text[1024], first[80], second[80];
    snprintf(first, sizeof first, part, "<s>");
    snprintf(second, sizeof second, part, "<t>");
    for (int many = 1; many <= 2; many++) {
        snprintf(text, sizeof text,
                 "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"<s>\": 0, \"<t>\": 1, \"x\": "
                 "2}, \"unk_token\": \"x\"}, \"post_processor\": {\"type\": "
                 "\"TemplateProcessing\", \"single\": [%s%s{\"Sequence\": {\"id\": \"A\", "
                 "\"type_id\": 0}}], \"pair\": []}}",
                 first, many > 1 ? second : "");
        write_file("tokenizer.json", text);
        ml_tokenizer *tokenizer = tokenizer_of(folder);
        ml_ids ids = {0};
        assert_int_equal(ml_tokenizer_begin(tokenizer, &ids), ML_OK);
        assert_int_equal(ids.count, many);
        for (int i = 0; i < many; i++) assert_int_equal(ids.data[i], i);
        ml_ids_destroy(&ids);
        ml_tokenizer_destroy(tokenizer);
    }
}

static void expect_ids(const char *json, const char *text, const int32_t *wanted, int64_t count)
{
    ml_ids ids = {0};
    write_file("tokenizer.json", json);
    ml_tokenizer *tokenizer = tokenizer_of(folder);
    assert_int_equal(ml_tokenizer_encode(tokenizer, text, (int64_t)strlen(text), true, &ids),
                     ML_OK);
    assert_int_equal(ids.count, count);
    assert_memory_equal(ids.data, wanted, (size_t)count * sizeof *wanted);
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
}

/* A character without a token leaves none, and what stands around it is merged, as `tokenizers`
 * 0.23 has it. */
static void neighbours_of_lost_characters_are_merged(void **state)
{
    (void)state;
    expect_ids("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"t\": 0, \"h\": 1, \"e\": 2, \"he\": "
               "3, \"the\": 4}, \"merges\": [\"h e\", \"t he\"]}}",
               "t he tt", (const int32_t[]){4, 0, 0}, 3);
}

/* A blank that a token has taken with rstrip is no second one where that has lstrip, too. */
static void blanks_are_taken_once(void **state)
{
    (void)state;
    expect_ids("{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"x\": 0, \"\\n\": 1}, "
               "\"unk_token\": \"x\"}, \"added_tokens\": [{\"id\": 1, \"content\": \"\\n\", "
               "\"lstrip\": true, \"rstrip\": true, \"normalized\": false}]}",
               "x\n \n\nx\n", (const int32_t[]){0, 1, 0, 1}, 4);
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
                                   .add_bos = -1,
                                   .add_eos = -1};
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

/* Metaspace's "first" is what the text begins with, also where a normalizer has copied more than a
 * character at a time before it (ids by `tokenizers` 0.23). */
static void a_normalizer_leaves_one_place_first(void **state)
{
    (void)state;
    static const char *const normalizers[] = {
        "null", "{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}",
        "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \"▁\"}",
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \"b\"}, \"content\": \"b\"}"};
    static const char *const texts[] = {"Xa b", "a b", "aXb"};
    static const int32_t wanted[2][3][3] = {{{6, 3, 2}, {1, 2, -1}, {1, 6, 4}},
                                            {{6, 3, 4}, {1, 4, -1}, {1, 6, 4}}};
    for (size_t n = 0; n < sizeof normalizers / sizeof *normalizers; n++)
        for (int words = 0; words < 2; words++) {
            ml_text json = {0};
            (void)!ml_text_printf(
                &json,
                "{\"added_tokens\": [{\"id\": 6, \"content\": \"X\", \"normalized\": true, "
                "\"special\": "
                "false, \"single_word\": false, \"lstrip\": false, \"rstrip\": false}], "
                "\"normalizer\": %s, \"pre_tokenizer\": {\"type\": \"Sequence\", "
                "\"pretokenizers\": [%s"
                "{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"first\", "
                "\"split\": true}]}, \"model\": {\"type\": \"WordLevel\", \"unk_token\": "
                "\"<unk>\", "
                "\"vocab\": {\"<unk>\": 0, \"▁a\": 1, \"▁b\": 2, \"a\": 3, \"b\": 4, \"▁\": 5, "
                "\"X\": 6}}}",
                normalizers[n], words ? "{\"type\": \"WhitespaceSplit\"}, " : "");
            write_file("tokenizer.json", json.data);
            ml_tokenizer *tokenizer = tokenizer_of(folder);
            for (int i = 0; i < 3; i++) {
                ml_ids ids = {0};
                assert_int_equal(
                    ml_tokenizer_encode(tokenizer, texts[i], (int64_t)strlen(texts[i]), true, &ids),
                    ML_OK);
                assert_int_equal(ids.count, wanted[words][i][2] < 0 ? 2 : 3);
                assert_memory_equal(ids.data, wanted[words][i], (size_t)ids.count * 4);
                ml_ids_destroy(&ids);
            }
            ml_tokenizer_destroy(tokenizer);
            ml_text_destroy(&json);
        }
}

/* add_eos_token counts for a byte-level BPE, too (Qwen3-Embedding's files): the end goes behind a
 * text, once, and nothing does where the file is silent. */
static void gguf_ends_texts_where_it_says_so(void **state)
{
    (void)state;
    static const char *const tokens[] = {"<s>", "a", "</s>"}, *const merges[] = {NULL};
    static const int32_t types[] = {3, 1, 3};
    for (int said = -1; said < 2; said++)
        for (int begins = 0; begins < 2; begins++) {
            const ml_gguf_vocabulary gguf = {.model = "gpt2",
                                             .pre = "qwen2",
                                             .ntokens = 3,
                                             .tokens = tokens,
                                             .merges = merges,
                                             .types = types,
                                             .bos = 0,
                                             .eos = 2,
                                             .add_bos = begins,
                                             .add_eos = said};
            ml_text json = {0};
            ml_tokenizer *tokenizer = NULL;
            int64_t count;
            assert_int_equal(ml_tokenizer_from_gguf(&gguf, &json), ML_OK);
            assert_int_equal(ml_tokenizer_create(&tokenizer, json.data, json.length), ML_OK);
            const ml_template_part *part = ml_tokenizer_template(tokenizer, false, &count);
            assert_int_equal(count, 1 + begins + (said == 1));
            assert_int_equal(part[0].id, begins ? 0 : ML_TEMPLATE_A);
            assert_int_equal(part[count - 1].id, said == 1 ? 2 : ML_TEMPLATE_A);
            assert_int_equal(ml_tokenizer_end_of_text(tokenizer), 2);
            ml_tokenizer_destroy(tokenizer);
            ml_text_destroy(&json);
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
        cmocka_unit_test_teardown(vocabulary_and_merges_files, empty_folder),
        cmocka_unit_test_teardown(a_post_processor_alone_begins_texts, empty_folder),
        cmocka_unit_test_teardown(several_tokens_may_begin_a_text, empty_folder),
        cmocka_unit_test_teardown(neighbours_of_lost_characters_are_merged, empty_folder),
        cmocka_unit_test_teardown(blanks_are_taken_once, empty_folder),
        cmocka_unit_test_teardown(added_tokens_are_found_by_kind, empty_folder),
        cmocka_unit_test_teardown(bad_vocabularies_are_refused, empty_folder),
        cmocka_unit_test_teardown(unknown_kinds_are_refused, empty_folder),
        cmocka_unit_test_teardown(values_of_other_kinds_are_refused, empty_folder),
        cmocka_unit_test_teardown(configured_ids_count_for_added_tokens_only, empty_folder),
        cmocka_unit_test(gguf_arrays_give_the_same_ids),
        cmocka_unit_test_teardown(a_normalizer_leaves_one_place_first, empty_folder),
        cmocka_unit_test(every_pre_of_gguf_is_known),
        cmocka_unit_test(gguf_ends_texts_where_it_says_so),
        cmocka_unit_test_teardown(added_tokens_of_slow_files, empty_folder),
        cmocka_unit_test_teardown(word_lists_and_templates, empty_folder),
        cmocka_unit_test_teardown(the_export_is_read_back_the_same, empty_folder),
        cmocka_unit_test(a_damaged_canonical_text_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
