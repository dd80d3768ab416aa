/* Where a chat template comes from. */
#include "cli/support/chat_template.h"

#include <jansson.h>
#include <stdlib.h>

#include "io/durable.h"
#include "io/json.h"

static const char *const special_tokens[] = {"bos_token", "eos_token", "unk_token",  "sep_token",
                                             "pad_token", "cls_token", "mask_token", NULL};

/* transformers writes 10^30 for "no limit". */
static const size_t flags = JSON_DECODE_INT_AS_REAL;

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

/* ---- tokenizer_config.json and its kin ----------------------------------------------------- */

/* The texts of a template and of the special tokens, out of the files that a base keeps or of the
 * one that is given. What points into these is borrowed. */
typedef struct sources {
    char *text;     /* of --chat-template */
    ml_text jinja;  /* chat_template.jinja */
    ml_text tools;  /* additional_chat_templates/tool_use.jinja */
    json_t *config; /* tokenizer_config.json; where --chat-template is one, that */
    json_t *map;    /* special_tokens_map.json */
    json_t *legacy; /* chat_template.json */
    char *tokens;
    ml_text fault; /* what is wrong with the base's template */
} sources;

static void destroy_sources(sources *s)
{
    ml_memory_free(s->text);
    ml_text_destroy(&s->jinja);
    ml_text_destroy(&s->tools);
    json_decref(s->config);
    json_decref(s->map);
    json_decref(s->legacy);
    free(s->tokens);
    ml_text_destroy(&s->fault);
}

static const json_t *find_token(const json_t *file, const char *name)
{
    const json_t *token = json_object_get(file, name);
    if (json_is_object(token)) token = json_object_get(token, "content");
    return json_is_string(token) ? token : NULL;
}

/* What transformers calls special_tokens_map: texts, from texts or from objects with a content. The
 * tokenizer's own where no file names any. */
static ml_status find_tokens(sources *s)
{
    if (!s->config && !s->map) return ML_OK;
    json_t *tokens = json_object();
    for (int i = 0; special_tokens[i]; i++) {
        const json_t *token = find_token(s->config, special_tokens[i]);
        if (!token) token = find_token(s->map, special_tokens[i]);
        if (token) json_object_set(tokens, special_tokens[i], (json_t *)(uintptr_t)token);
    }
    s->tokens = tokens ? ml_json_dump(tokens, JSON_COMPACT) : NULL;
    json_decref(tokens);
    return s->tokens ? ML_OK : ml_fail(ML_RESOURCE, "out of memory: special tokens");
}

/* A template by its name: "default", or "tool_use" for conversations with tools; others are not
 * for conversations. */
static ml_status take_template(const char *name, const json_t *text, ml_chat_options *options)
{
    const bool plain = !strcmp(name, "default");
    if (!plain && strcmp(name, "tool_use") != 0) return ML_OK;
    if (!json_is_string(text))
        return ml_fail(ML_INPUT, "chat_template: the template \"%s\" is not a text", name);
    *(plain ? &options->template_text : &options->tool_template_text) = json_string_value(text);
    return ML_OK;
}

static ml_status take_listed(const json_t *item, ml_chat_options *options)
{
    const json_t *name = json_object_get(item, "name"), *text = json_object_get(item, "template");
    if (!json_is_string(name) || !text)
        return ml_fail(ML_INPUT, "chat_template: an element of the list is not {\"name\": \"…\", "
                                 "\"template\": \"…\"}");
    return take_template(json_string_value(name), text, options);
}

static ml_status take_templates(json_t *value, ml_chat_options *options)
{
    ml_status st = ML_OK;
    const char *name;
    json_t *item;
    size_t i;
    json_array_foreach(value, i, item) ML_TRY(take_listed(item, options));
    json_object_foreach(value, name, item) ML_TRY(take_template(name, item, options));
    if (json_is_array(value) || json_is_object(value))
        st = options->template_text
                 ? ML_OK
                 : ml_fail(ML_INPUT, "chat_template has no template of the name \"default\"");
    else if (value && !json_is_null(value))
        st = ml_fail(ML_INPUT, "chat_template is neither a text, nor a list of {\"name\", "
                               "\"template\"}, nor an object of templates by their names");
done:
    return st;
}

/* As transformers loads it, chat_template is a text, a list of {"name", "template"}, which is how
 * transformers itself writes several, or an object of texts by their names. ML_INPUT, with no
 * template, for what is none of these. */
static ml_status find_templates(const json_t *config, ml_chat_options *options)
{
    json_t *value = json_object_get(config, "chat_template");
    options->template_text = json_string_value(value);
    if (options->template_text) return ML_OK;
    ml_status st = take_templates(value, options);
    if (st != ML_OK) options->template_text = options->tool_template_text = NULL;
    return st;
}

/* ---- a file -------------------------------------------------------------------------------- */

static ml_status read_given(const char *path, sources *s, ml_chat_options *options)
{
    enum { LARGEST = 16 << 20 };
    json_t *config = NULL;
    json_error_t error;
    int64_t length;
    ml_status st = ml_durable_read(path, LARGEST, &s->text, &length);
    if (st != ML_OK) return st;
    if (memchr(s->text, '\0', (size_t)length))
        return ml_fail(ML_INPUT, "%s: has a zero byte: it is no template", path);
    options->template_text = s->text;
    st = ml_json_parse(&config, s->text, length, flags, &error);
    if (st != ML_OK || !json_is_object(config)) { /* it is a template's text */
        ml_error_clear();
        json_decref(config);
        return ML_OK;
    }
    json_decref(s->config);
    json_decref(s->map);
    s->config = config;
    s->map = NULL;
    options->template_text = NULL;
    st = find_templates(config, options);
    if (st == ML_OK && !options->template_text) st = ml_fail(ML_INPUT, "has no chat_template");
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", path);
}

/* ---- a base -------------------------------------------------------------------------------- */

/* NULL where the base has no such file. */
static ml_status read_json(const ml_base *base, const char *name, json_t **out)
{
    ml_text text = {0};
    json_error_t error;
    ml_status st = ml_base_read_file(base, name, &text);
    if (st == ML_OK && text.length) st = ml_json_parse(out, text.data, text.length, flags, &error);
    ml_text_destroy(&text);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", ml_base_path(base), name);
}

/* What is wrong is no error yet: the base may be asked for other things than conversations. */
static ml_status find_own(const json_t *config, const char *name, sources *s,
                          ml_chat_options *options)
{
    ml_status st = find_templates(config, options);
    if (st == ML_OK) return ML_OK;
    s->fault.length = 0;
    st = ml_text_printf(&s->fault, " that can be read (%s: %s)", name, ml_error_text());
    if (st == ML_OK) ml_error_clear();
    return st;
}

/* As transformers finds it: chat_template.jinja goes before what stands in JSON, and a folder
 * beside it has the other templates by their names. */
static ml_status read_base(const ml_base *base, sources *s, ml_chat_options *options)
{
    ml_status st = ML_OK;
    ML_TRY(ml_base_read_file(base, "chat_template.jinja", &s->jinja));
    ML_TRY(ml_base_read_file(base, "additional_chat_templates/tool_use.jinja", &s->tools));
    ML_TRY(read_json(base, "tokenizer_config.json", &s->config));
    ML_TRY(read_json(base, "special_tokens_map.json", &s->map));
    ML_TRY(read_json(base, "chat_template.json", &s->legacy));
    ML_TRY(find_own(s->config, "tokenizer_config.json", s, options));
    if (!options->template_text) ML_TRY(find_own(s->legacy, "chat_template.json", s, options));
    if (s->jinja.length) {
        options->template_text = s->jinja.data;
        options->tool_template_text = NULL;
    }
    if (s->tools.length) options->tool_template_text = s->tools.data;
done:
    return st;
}

static ml_status copy_text(const char *text, ml_text *out)
{
    return text ? ml_text_add(out, text, (int64_t)strlen(text)) : ML_OK;
}

ml_status chat_template_texts(const ml_base *base, ml_text *plain, ml_text *with_tools)
{
    ml_chat_options options = {0};
    sources s = {0};
    ml_status st = read_base(base, &s, &options);
    if (st == ML_OK) st = copy_text(options.template_text, plain);
    if (st == ML_OK) st = copy_text(options.tool_template_text, with_tools);
    destroy_sources(&s);
    return st;
}

ml_status chat_template_open(ml_chat **out, const chat_given *given, const ml_base *base,
                             ml_tokenizer *tokenizer, ml_text *fault)
{
    ml_chat_options options = {.date = given->date};
    sources s = {0};
    ml_status st = ML_OK;
    *out = NULL;
    ML_TRY(read_loss(given->loss, &options.loss));
    if (!tokenizer) {
        if (given->file)
            st = ml_fail(ML_INPUT, "--chat-template: the base file has no tokenizer; import the "
                                   "model with its tokenizer files");
        goto done;
    }
    ML_TRY(read_base(base, &s, &options));
    if (given->file) {
        options.tool_template_text = NULL;
        ML_TRY(read_given(given->file, &s, &options));
    }
    if (!options.template_text) {
        st = ml_text_add(fault, s.fault.data, s.fault.length);
        goto done;
    }
    ML_TRY(find_tokens(&s));
    options.special_tokens = s.tokens;
    st = ml_chat_create(out, &options, tokenizer);
done:
    destroy_sources(&s);
    return st;
}

ml_status chat_template_require(ml_chat **out, const chat_given *given, const ml_base *base,
                                const char *path, ml_tokenizer *tokenizer)
{
    ml_text fault = {0};
    ml_status st = chat_template_open(out, given, base, tokenizer, &fault);
    if (st == ML_OK && !*out)
        st = ml_fail(ML_INPUT, "%s: has no chat template%s; give one with --chat-template FILE",
                     path, fault.length ? fault.data : "");
    ml_text_destroy(&fault);
    return st;
}
