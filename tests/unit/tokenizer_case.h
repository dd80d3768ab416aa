/* tokenizer_case: the golden tokenizers, and a folder for the files that a test writes. */
#ifndef MPILORA_TESTS_TOKENIZER_CASE_H
#define MPILORA_TESTS_TOKENIZER_CASE_H

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "mpilora/data.h"

static const char *const variants[] = {"gpt2", "smollm", "llama3", "other"};
static char folder[64];

static const char *golden_path(const char *name)
{
    static char path[4096];
    const char *source = getenv("MPILORA_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s", source ? source : ".", name);
    return path;
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

#endif
