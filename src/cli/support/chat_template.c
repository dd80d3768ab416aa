/* Where a chat template comes from. */
#include "cli/support/chat_template.h"

#include <jansson.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"

static const char *const special_tokens[] = {"bos_token", "eos_token", "unk_token",  "sep_token",
                                             "pad_token", "cls_token", "mask_token", NULL};

static ml_status read_loss(const char *word, ml_chat_loss *out)
{
    static const char *const words[] = {"assistant", "last", "all"};
    *out = ML_CHAT_ASSISTANT;
    for (int i = 0; word && i < 3; i++) {
        if (strcmp(words[i], word) != 0) continue;
        *out = (ml_chat_loss)i;
        return ML_OK;
    }
    return word ? ml_fail(ML_USAGE, "--loss %s: expected assistant, last or all", word) : ML_OK;
}

/* ---- tokenizer_config.json ----------------------------------------------------------------- */

/* What transformers calls special_tokens_map: texts, from texts or from objects with a content. */
static ml_status find_tokens(const json_t *config, char **out)
{
    json_t *tokens = json_object();
    for (int i = 0; special_tokens[i]; i++) {
        json_t *token = json_object_get(config, special_tokens[i]);
        if (json_is_object(token)) token = json_object_get(token, "content");
        if (json_is_string(token)) json_object_set(tokens, special_tokens[i], token);
    }
    *out = tokens ? ml_json_dump(tokens, JSON_COMPACT) : NULL;
    json_decref(tokens);
    return *out ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: special tokens");
}

/* chat_template is a text, or a list of {"name", "template"}: "default", and "tool_use" for
 * conversations with tools. */
static ml_status find_templates(const json_t *config, ml_chat_options *options)
{
    const json_t *value = json_object_get(config, "chat_template"), *item;
    size_t i;
    options->template_text = json_string_value(value);
    json_array_foreach((json_t *)value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name")),
                   *text = json_string_value(json_object_get(item, "template"));
        if (name && !strcmp(name, "default")) options->template_text = text;
        if (name && !strcmp(name, "tool_use")) options->tool_template_text = text;
    }
    if (options->template_text) return ML_OK;
    return ml_fail(ML_INPUT, json_is_array(value)
                                 ? "chat_template has no template of the name \"default\""
                                 : "has no chat_template");
}

/* ---- a file -------------------------------------------------------------------------------- */

static ml_status open_config(ml_chat **out, const json_t *config, ml_chat_options *options,
                             ml_tokenizer *tokenizer)
{
    char *tokens = NULL;
    ml_status st = find_templates(config, options);
    if (st == ML_OK) st = find_tokens(config, &tokens);
    options->special_tokens = tokens;
    if (st == ML_OK) st = ml_chat_create(out, options, tokenizer);
    free(tokens);
    return st;
}

static ml_status open_file(ml_chat **out, const char *path, ml_chat_options *options,
                           ml_tokenizer *tokenizer)
{
    enum { LARGEST = 16 << 20 };
    ml_status st = ML_OK;
    char *text = NULL;
    json_t *config = NULL;
    json_error_t error;
    int64_t length;
    ML_TRY(ml_durable_read(path, LARGEST, &text, &length));
    if (memchr(text, '\0', (size_t)length)) {
        st = ml_fail(ML_INPUT, "%s: has a zero byte: it is no template", path);
        goto done;
    }
    options->template_text = text;
    if (ml_json_parse(&config, text, length, 0, &error) == ML_OK && json_is_object(config)) {
        st = open_config(out, config, options, tokenizer);
    } else {
        ml_error_clear();
        st = ml_chat_create(out, options, tokenizer);
    }
    if (st == ML_INPUT) st = ml_fail_within(st, "%s", path);
done:
    json_decref(config);
    ml_memory_free(text);
    return st;
}

ml_status chat_template_open(ml_chat **out, const chat_given *given, ml_tokenizer *tokenizer)
{
    ml_chat_options options = {.date = given->date};
    *out = NULL;
    ml_status st = read_loss(given->loss, &options.loss);
    if (st != ML_OK || !given->file) return st;
    if (!tokenizer)
        return ml_fail(ML_INPUT,
                       "--chat-template: the base file has no tokenizer; import the model "
                       "with its tokenizer files");
    return open_file(out, given->file, &options, tokenizer);
}
