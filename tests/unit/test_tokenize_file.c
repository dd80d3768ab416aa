/* from text files to data sets: the formats, what is a target, the report, and every kind of bad
 * line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "mpilora/data.h"

static char in[64], out[64];
static ml_tokenizer *tokenizer; /* <|endoftext|> 0, a single byte each but for a few merges */

static int start(void **state)
{
    (void)state;
    snprintf(in, sizeof in, "test_tokenize_file-%ld.in", (long)getpid());
    snprintf(out, sizeof out, "test_tokenize_file-%ld.h5", (long)getpid());
    char path[4096];
    const char *source = getenv("MPILORA_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/gpt2", source ? source : ".");
    ml_text json = {0};
    bool found;
    if (ml_tokenizer_from_directory(path, &json, &found) != ML_OK) return 1;
    ml_status st = ml_tokenizer_create(&tokenizer, json.data, json.length);
    ml_text_destroy(&json);
    return st != ML_OK;
}

static int end(void **state)
{
    (void)state;
    ml_tokenizer_destroy(tokenizer);
    unlink(in);
    unlink(out);
    return 0;
}

static void write_in(const char *text, size_t length)
{
    FILE *file = fopen(in, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    fclose(file);
}

static ml_tokenize_options options_for(ml_text_format format)
{
    return (ml_tokenize_options){in, out,   format, tokenizer, "",   401, 64,
                                 0,  false, NULL,   NULL,      NULL, NULL};
}

/* Tokenises `text` and opens the data set. */
static ml_dataset *dataset_of(const char *text, ml_text_format format, ml_tokenize_report *report)
{
    ml_dataset *data = NULL;
    ml_tokenize_options options = options_for(format);
    write_in(text, strlen(text));
    ml_status st = ml_tokenize_file(&options, report);
    if (st != ML_OK) fail_msg("%s", ml_error_text());
    assert_int_equal(ml_dataset_open(&data, out), ML_OK);
    return data;
}

/* Sequence i is the bytes of `text` (◊ stands for end-of-text), of which those from `first` on are
 * targets. */
static void sequence_is(const ml_dataset *data, int64_t i, const char *text, const char *targets)
{
    int32_t tokens[256];
    uint8_t mask[256];
    ml_text whole = {0}, learnt = {0};
    assert_int_equal(ml_dataset_read(data, i, 256, tokens, mask), ML_OK);
    for (int64_t t = 0; t < ml_dataset_length(data, i, 256); t++) {
        assert_int_equal(ml_tokenizer_decode(tokenizer, &tokens[t], 1, &whole), ML_OK);
        if (mask[t])
            assert_int_equal(ml_tokenizer_decode(tokenizer, &tokens[t], 1, &learnt), ML_OK);
    }
    assert_string_equal(whole.data, text);
    assert_string_equal(learnt.data, targets);
    ml_text_destroy(&whole);
    ml_text_destroy(&learnt);
}

#define EOT "<|endoftext|>"

static void e2e_lines(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_dataset *data =
        dataset_of("name : A | area : B||There is A . \r\n\nname||x||y", ML_FORMAT_GUESS, &report);
    assert_int_equal(report.format, ML_FORMAT_E2E);
    assert_int_equal(report.sequences, 2);
    sequence_is(data, 0, "name : A | area : BThere is A . " EOT, "There is A . " EOT);
    sequence_is(data, 1, "namex||y" EOT, "x||y" EOT);
    ml_dataset_destroy(data);
}

static void jsonl_lines(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_dataset *data = dataset_of(
        "\xef\xbb\xbf{\"prompt\": \"the river\\n\", \"completion\": \" runs\\u0000\\u00e9\"}\n"
        "{\"text\": \"in " EOT " it\"}\n{\"completion\": \"x\", \"prompt\": \"\"}\n",
        ML_FORMAT_GUESS, &report);
    assert_int_equal(report.format, ML_FORMAT_JSONL);
    assert_int_equal(report.sequences, 3);
    sequence_is(data, 1, "in " EOT " it" EOT, "in " EOT " it" EOT);
    sequence_is(data, 2, "x" EOT, "x" EOT);
    int32_t tokens[64];
    uint8_t mask[64];
    int64_t length = ml_dataset_length(data, 1, 0);
    assert_int_equal(ml_dataset_read(data, 1, 64, tokens, mask), ML_OK);
    for (int64_t t = 0; t < length; t++)
        assert_int_equal(tokens[t] == 0, t == length - 1); /* spelt, it stays text */
    ml_dataset_destroy(data);
}

/* Prompt and completion never merge with each other. */
static void the_parts_are_tokenised_apart(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_ids whole = {0};
    ml_dataset *data =
        dataset_of("{\"prompt\": \" valle\", \"completion\": \"y\"}", ML_FORMAT_JSONL, &report);
    assert_int_equal(ml_tokenizer_encode(tokenizer, " valley", 7, false, &whole), ML_OK);
    assert_int_equal(whole.count, 1);
    assert_int_equal(ml_dataset_length(data, 0, 0), 3); /* valle, y, end */
    assert_int_equal(ml_dataset_targets(data, 0, 0), 2);
    ml_ids_destroy(&whole);
    ml_dataset_destroy(data);
}

static void ids_lines(void **state)
{
    (void)state;
    ml_tokenize_report report;
    int32_t tokens[8];
    uint8_t mask[8];
    ml_dataset *data = dataset_of("{\"input_ids\": [5, 400, 0, 7], \"labels\": [-100, -100, 0, "
                                  "7]}\n{\"input_ids\": [1, 2, 3]}\n",
                                  ML_FORMAT_GUESS, &report);
    assert_int_equal(report.format, ML_FORMAT_IDS);
    assert_int_equal(report.targets, 4);
    assert_int_equal(ml_dataset_read(data, 0, 8, tokens, mask), ML_OK);
    assert_int_equal(tokens[1], 400);
    assert_int_equal(mask[0] + mask[1], 0);
    assert_int_equal(mask[2] + mask[3], 2);
    assert_int_equal(ml_dataset_targets(data, 1, 0), 2);
    ml_dataset_destroy(data);
}

static void text_documents(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_dataset *data =
        dataset_of("\n\nThe river\nruns.\n\n  \nthe sea\r\n", ML_FORMAT_GUESS, &report);
    assert_int_equal(report.format, ML_FORMAT_TEXT);
    assert_int_equal(report.sequences, 2);
    assert_int_equal(report.split_documents, 0);
    sequence_is(data, 0, "The river\nruns." EOT, "The river\nruns." EOT);
    sequence_is(data, 1, "the sea" EOT, "the sea" EOT);
    ml_dataset_destroy(data);
}

/* 64 tokens are the context: a document of digits, a token each, is cut into pieces and none is
 * lost, whatever its length. */
static void long_documents_become_several_sequences(void **state)
{
    (void)state;
    for (int length = 60; length < 132; length++) {
        char text[300] = {0};
        memset(text, '#', (size_t)length);
        for (int i = 1; i < length; i += 2) text[i] = '%';
        ml_tokenize_report report;
        ml_dataset *data = dataset_of(text, ML_FORMAT_TEXT, &report);
        assert_int_equal(report.tokens, length + 1);
        assert_int_equal(report.split_documents, length + 1 > 64);
        assert_int_equal(report.sequences, (length + 1 + 63) / 64);
        assert_true(report.longest <= 64);
        assert_true(report.shortest >= 2);
        assert_int_equal(report.longer, 0);
        ml_dataset_destroy(data);
    }
}

static void the_report_counts_what_will_be_cut(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_text text = {0};
    for (int i = 1; i <= 100; i++) { /* i tokens of prompt, one of completion, and the end */
        assert_int_equal(ml_text_printf(&text, "{\"input_ids\": ["), ML_OK);
        for (int k = 0; k < i; k++) assert_int_equal(ml_text_printf(&text, "7, "), ML_OK);
        assert_int_equal(ml_text_printf(&text, "8, 0], \"labels\": ["), ML_OK);
        for (int k = 0; k < i; k++) assert_int_equal(ml_text_printf(&text, "-100, "), ML_OK);
        assert_int_equal(ml_text_printf(&text, "8, 0]}\n"), ML_OK);
    }
    ml_dataset *data = dataset_of(text.data, ML_FORMAT_IDS, &report);
    assert_int_equal(report.tokens, 5050 + 200);
    assert_int_equal(report.targets, 200);
    assert_int_equal(report.shortest, 3);
    assert_int_equal(report.longest, 102);
    assert_float_equal(report.median, 52.5, 0);
    assert_float_equal(report.mean, 52.5, 0);
    assert_int_equal(report.p95, 97);
    assert_int_equal(report.limit, 64);
    assert_int_equal(report.longer, 102 - 64);
    assert_int_equal(report.cut_tokens, 38 * 39 / 2);
    assert_int_equal(report.without_target, 102 - 64 - 1);
    assert_int_equal(ml_dataset_length(data, 99, 0), 102); /* stored whole */
    ml_sampler *sampler = NULL;
    assert_int_equal(ml_sampler_create(&sampler, data, 64, &(ml_sampler_order){.seed = 1}), ML_OK);
    assert_int_equal(ml_sampler_skipped(sampler), report.without_target);
    assert_int_equal(ml_sampler_cut(sampler), report.longer);
    ml_sampler_destroy(sampler);
    ml_dataset_destroy(data);
    ml_text_destroy(&text);
}

/* ---- bad input ----------------------------------------------------------------------------- */

static void refused(const char *text, ml_text_format format, const char *part_of_message)
{
    ml_tokenize_report report;
    ml_tokenize_options options = options_for(format);
    write_in(text, strlen(text));
    ml_error_clear();
    assert_int_equal(ml_tokenize_file(&options, &report), ML_INPUT);
    if (!strstr(ml_error_text(), part_of_message))
        fail_msg("\"%s\" says nothing of \"%s\"", ml_error_text(), part_of_message);
    assert_non_null(strstr(ml_error_text(), in));
    assert_null(strchr(ml_error_text(), '\n'));
    assert_int_not_equal(access(out, F_OK), 0);
}

static void bad_lines_are_refused_by_number(void **state)
{
    (void)state;
    static const struct {
        ml_text_format format;
        const char *line, *message;
    } bad[] = {
        {ML_FORMAT_JSONL, "{\"prompt\": \"a\"}", "expected"},
        {ML_FORMAT_JSONL, "{\"prompt\": \"a\", \"completion\": 3}", "not a string"},
        {ML_FORMAT_JSONL, "{\"prompt\": \"a\", \"completion\": null}", "\"completion\" is null"},
        {ML_FORMAT_JSONL, "{\"prompt\": \"a\", \"completion\": \"b\", \"text\": \"c\"}",
         "expected"},
        {ML_FORMAT_JSONL, "{\"prompt\": \"a\", \"completoin\": \"b\"}",
         "did you mean \"completion\""},
        {ML_FORMAT_JSONL, "{\"text\": \"a\", \"text\": \"b\"}", "duplicate"},
        {ML_FORMAT_JSONL, "{\"text\": \"a\"", "JSON"},
        {ML_FORMAT_JSONL, "{\"text\": \"a\"} x", "JSON"},
        {ML_FORMAT_JSONL, "{\"text\": \"\xff\"}", "JSON"},
        {ML_FORMAT_JSONL, "{\"text\": NaN}", "JSON"},
        {ML_FORMAT_JSONL, "[1]", "object"},
        {ML_FORMAT_JSONL, "{\"text\": \"\"}", "without a target"},
        {ML_FORMAT_E2E, "no bars", "||"},
        {ML_FORMAT_E2E, "||", "without a target"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 401]}", "401"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, -1]}", "-1"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 4294967297]}", "4294967297"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 99999999999999999999]}", "JSON"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2.0]}", "whole number"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, \"2\"]}", "whole number"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, true]}", "whole number"},
        {ML_FORMAT_IDS, "{\"input_ids\": \"1 2\"}", "list"},
        {ML_FORMAT_IDS, "{\"labels\": [1]}", "expected {\"input_ids\""},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"labels\": [1]}", "2 input_ids but 1 labels"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"labels\": [1, 3]}", "labels[1] is 3"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"labels\": [1, -99]}", "labels[1] is -99"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"labels\": [1, -100]}", "without a target"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1]}", "without a target"},
        {ML_FORMAT_IDS, "{\"input_ids\": []}", "without a target"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"label\": [1, 2]}", "has a label"},
        {ML_FORMAT_IDS, "{\"input_idz\": [1, 2]}", "did you mean \"input_ids\""},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"attention_mask\": [1, 0]}",
         "attention_mask[1] is not 1"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"attention_mask\": [1]}", "list of 2"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"token_type_ids\": [0, 1]}",
         "token_type_ids[1] is not 0"},
        {ML_FORMAT_IDS, "{\"input_ids\": [1, 2], \"completion_mask\": [0, 1]}",
         "\"completion_mask\" changes"},
        {ML_FORMAT_JSONL, "{\"text\": \"a\", \"label\": 1}", "has a label"},
    };
    static const char *const good[] = {[ML_FORMAT_JSONL] = "{\"text\": \"ab\"}",
                                       [ML_FORMAT_E2E] = "a||b",
                                       [ML_FORMAT_IDS] = "{\"input_ids\": [1, 2]}"};
    unlink(out);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s\n\n%s\n%s\n", good[bad[i].format], bad[i].line,
                 good[bad[i].format]);
        refused(text, bad[i].format, bad[i].message);
        assert_non_null(strstr(ml_error_text(), "line 3"));
    }
}

/* The same sequences out of every layout of JSON, blank lines between them or not. */
static void rows_of_any_layout(void **state)
{
    (void)state;
    static const char *const layouts[] = {
        "{\"prompt\": \"ab{\", \"completion\": \"c\"}\n \t\n{\"text\": \"d\"}\n",
        "[{\"prompt\": \"ab{\", \"completion\": \"c\"}, {\"text\": \"d\"}]",
        "\n[\n  {\n    \"prompt\": \"ab{\",\n    \"completion\": \"c\"\n  },\n  {\n    \"text\": "
        "\"d\"\n  }\n]\n",
        "{\n\"prompt\": \"ab{\",\n\"completion\": \"c\"}\n{\"text\":\n\"d\"}",
        "[{\"prompt\": \"ab{\", \"completion\": \"c\", \"id\": \"\\\"]\"},\r\n{\"text\": \"d\", "
        "\"meta\": {\"a\": [1]}}\r\n]"};
    char hash[ML_SHA256_HEX] = "";
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        ml_tokenize_report report;
        ml_dataset *data = dataset_of(layouts[i], ML_FORMAT_GUESS, &report);
        assert_int_equal(report.format, ML_FORMAT_JSONL);
        assert_int_equal(ml_dataset_sequences(data), 2);
        if (i > 0) assert_string_equal(ml_dataset_hash(data), hash);
        snprintf(hash, sizeof hash, "%s", ml_dataset_hash(data));
        ml_dataset_destroy(data);
    }
    ml_tokenize_report report;
    ml_dataset *data = dataset_of("[{\"input_ids\": [1, 2, 3], \"attention_mask\": [1, 1, 1], "
                                  "\"token_type_ids\": [0, 0, 0], \"length\": 3}]",
                                  ML_FORMAT_GUESS, &report);
    assert_int_equal(report.format, ML_FORMAT_IDS);
    assert_int_equal(report.tokens, 3);
    ml_dataset_destroy(data);
}

/* JSON is never taken for plain text, and a broken row is found where it stands. */
static void broken_layouts_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"[{\"text\": \"a\"}\n {\"text\": \"b\"}]", "line 2: column 2: expected a comma"},
        {"[{\"text\": \"a\"},\n]", "line 2: column 1: expected an object behind the comma"},
        {"[{\"text\": \"a\"}", "the array has no end"},
        {"[{\"text\": \"a\"}]\n{\"text\": \"b\"}", "line 2: column 1: expected nothing"},
        {"[{\"text\": \"a\"},\n{\"text\": \"b\"\n", "line 2: not valid JSON: the object"},
        {"[{\"text\": \"a\"},\n{\"text\":\n\"b\n\"}]", "line 3: not valid JSON: a text ends"},
        {"[{\"text\": \"a\"},\n{\n\"text\": b}]", "line 3: column"},
        {"[{\"text\": \"a\"}, 1]", "line 1: column 17: expected an object behind"},
        {"[]", "is empty"},
        {"[chapter one]\nOnce", "for plain text say --format text"},
        {"{\"text\": \"a\"}\n{\"text\": \"b\"\n{\"text\": \"c\"}", "line 2: column"},
        {"\xff\xfe[\1", "UTF-16"}};
    unlink(out);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i].text, ML_FORMAT_GUESS, bad[i].message);
}

static void special_tokens_are_counted_or_read(void **state)
{
    (void)state;
    static const char text[] = "{\"prompt\": \"<|endoftext|>a\", \"completion\": \"b\"}\n";
    ml_tokenize_report report;
    ml_tokenize_options options = options_for(ML_FORMAT_JSONL);
    write_in(text, strlen(text));
    assert_int_equal(ml_tokenize_file(&options, &report), ML_OK);
    assert_int_equal(report.spelled, 1);
    int64_t letters = report.tokens;
    options.specials = true;
    assert_int_equal(ml_tokenize_file(&options, &report), ML_OK);
    assert_int_equal(report.spelled, 1);
    assert_int_equal(report.tokens, 4); /* the special token, a, b, the end of text */
    assert_true(letters > 4);
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    unlink(out);
    refused("", ML_FORMAT_GUESS, "empty");
    refused("\n\n", ML_FORMAT_GUESS, "empty");
    refused("", ML_FORMAT_IDS, "empty");
    refused(" \n\t\n", ML_FORMAT_TEXT, "empty");
    ml_tokenize_report report;
    ml_tokenize_options options = options_for(ML_FORMAT_GUESS);
    options.in = "/nowhere/at/all";
    assert_int_equal(ml_tokenize_file(&options, &report), ML_INPUT);
    options.in = ".";
    assert_int_equal(ml_tokenize_file(&options, &report), ML_INPUT);
    write_in("a||b\n", 5);
    options = options_for(ML_FORMAT_GUESS);
    options.tokenizer = NULL;
    assert_int_equal(ml_tokenize_file(&options, &report), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "tokenizer"));
    options = options_for(ML_FORMAT_GUESS);
    options.max_len = 65;
    assert_int_equal(ml_tokenize_file(&options, &report), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "65"));
    assert_non_null(strstr(ml_error_text(), "64"));
    options = options_for(ML_FORMAT_GUESS);
    options.out = in;
    assert_int_equal(ml_tokenize_file(&options, &report), ML_USAGE);
    options.out = "/nowhere/at/all.h5";
    assert_int_equal(ml_tokenize_file(&options, &report), ML_RESOURCE);
}

static void an_older_data_set_survives_bad_input(void **state)
{
    (void)state;
    ml_tokenize_report report;
    ml_dataset *data = dataset_of("a||b\n", ML_FORMAT_E2E, &report);
    ml_dataset_destroy(data);
    write_in("a||b\nc\n", 7);
    ml_tokenize_options options = options_for(ML_FORMAT_E2E);
    assert_int_equal(ml_tokenize_file(&options, &report), ML_INPUT);
    assert_int_equal(ml_dataset_open(&data, out), ML_OK);
    ml_dataset_destroy(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e2e_lines),
        cmocka_unit_test(jsonl_lines),
        cmocka_unit_test(the_parts_are_tokenised_apart),
        cmocka_unit_test(ids_lines),
        cmocka_unit_test(text_documents),
        cmocka_unit_test(long_documents_become_several_sequences),
        cmocka_unit_test(the_report_counts_what_will_be_cut),
        cmocka_unit_test(bad_lines_are_refused_by_number),
        cmocka_unit_test(rows_of_any_layout),
        cmocka_unit_test(broken_layouts_are_refused),
        cmocka_unit_test(special_tokens_are_counted_or_read),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(an_older_data_set_survives_bad_input),
    };
    return cmocka_run_group_tests(tests, start, end);
}
