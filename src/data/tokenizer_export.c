/* The canonical tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json. */
#include <inttypes.h>
#include <stdlib.h>

#include "data/tokenizer_private.h"
#include "io/json.h"

static json_t *make_vocab(const json_t *tokens)
{
    json_t *vocab = json_object(), *one;
    size_t id;
    json_array_foreach(tokens, id, one) if (json_is_string(one))
        json_object_set_new(vocab, json_string_value(one), json_integer((json_int_t)id));
    return vocab;
}

static json_t *make_added(const json_t *tokens, const json_t *added)
{
    json_t *list = json_array(), *one;
    size_t i;
    json_array_foreach(added, i, one)
    {
        json_t *id = json_object_get(one, "id");
        json_array_append_new(list,
                              json_pack("{s:O, s:O, s:O, s:b, s:b, s:b, s:b}", "id", id, "content",
                                        json_array_get(tokens, (size_t)json_integer_value(id)),
                                        "special", json_object_get(one, "special"), "single_word",
                                        0, "lstrip", 0, "rstrip", 0, "normalized", 0));
    }
    return list;
}

/* Every split pattern as it is, then the byte-level alphabet alone. */
static json_t *make_pre_tokenizer(const json_t *split)
{
    json_t *steps = json_array(), *one;
    size_t i;
    json_array_foreach(split, i, one) json_array_append_new(
        steps, json_pack("{s:s, s:{s:O}, s:s, s:b}", "type", "Split", "pattern", "Regex", one,
                         "behavior", "Isolated", "invert", 0));
    json_array_append_new(steps,
                          json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                                    0, "trim_offsets", 1, "use_regex", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

/* Puts the beginning token before every text, where there is one. */
static json_t *make_post_processor(const json_t *tokens, json_int_t begin)
{
    if (begin < 0) return json_null();
    const char *text = json_string_value(json_array_get(tokens, (size_t)begin));
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, "
                     "{s:{s:s, s:i}}, {s:{s:s, s:i}}], "
                     "s:{s:{s:s, s:[I], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", text, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", text,
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", text,
                     "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", text,
                     "id", text, "ids", begin, "tokens", text);
}

static json_t *make_tokenizer(const json_t *root)
{
    json_t *tokens = json_object_get(root, "tokens"), *byte_level, *model;
    byte_level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                           "trim_offsets", 1, "use_regex", 0);
    model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:O, s:o, s:O}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", json_object_get(root, "whole_pieces"),
                  "vocab", make_vocab(tokens), "merges", json_object_get(root, "merges"));
    return json_pack(
        "{s:s, s:n, s:n, s:o, s:n, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
        "added_tokens", make_added(tokens, json_object_get(root, "added")), "normalizer",
        "pre_tokenizer", make_pre_tokenizer(json_object_get(root, "split")), "post_processor",
        make_post_processor(tokens, json_integer_value(json_object_get(root, "begin"))), "decoder",
        byte_level, "model", model);
}

static json_t *make_config(const json_t *root)
{
    static const char *const names[][2] = {{"begin", "bos_token"}, {"end", "eos_token"}};
    json_t *config = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0, "add_prefix_space", 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_int_t id = json_integer_value(json_object_get(root, names[i][0]));
        if (id >= 0)
            json_object_set(config, names[i][1],
                            json_array_get(json_object_get(root, "tokens"), (size_t)id));
    }
    return config;
}

/* Appends `value` as text and lets go of it. */
static ml_status dump(json_t *value, ml_text *out)
{
    char *text = value ? ml_json_dump(value, JSON_INDENT(1)) : NULL;
    ml_status st = text ? ml_text_add(out, text, (int64_t)strlen(text))
                        : ml_fail(ML_RESOURCE, "out of memory: a tokenizer's JSON");
    free(text);
    json_decref(value);
    return st;
}

ml_status ml_tokenizer_to_huggingface(const char *json, int64_t length, ml_text *tokenizer_json,
                                      ml_text *tokenizer_config_json)
{
    ml_status st = ML_OK;
    json_t *root = NULL;
    ml_tokenizer *trial = NULL;
    ML_TRY(ml_tokenizer_create(&trial, json, length)); /* so that everything below is there */
    ML_TRY(ml_json_read(&root, "tokenizer", json, length));
    ML_TRY(dump(make_tokenizer(root), tokenizer_json));
    ML_TRY(dump(make_config(root), tokenizer_config_json));
done:
    ml_tokenizer_destroy(trial);
    json_decref(root);
    return st;
}
