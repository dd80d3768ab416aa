/* tokenizer.json of Hugging Face's `tokenizers`: byte-level BPE alone; whatever would change the
 * ids and is not known is refused. */
#include <inttypes.h>

#include "data/tokenizer_private.h"

enum {
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL,
    ARRAY = ML_JSON_ARRAY | ML_JSON_NULL,
    TEXT = ML_JSON_TEXT | ML_JSON_NULL,
    FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    NUMBER = ML_JSON_INTEGER | ML_JSON_REAL | ML_JSON_NULL
};

/* All that is read below, an object before what is inside it. What other types of models and steps
 * have in these places is not refused here but by their type. */
const ml_json_key ml_tokenizer_json_keys[] = {
    {"model", ML_JSON_OBJECT},
    {"model.type", TEXT},
    {"model.vocab", ML_JSON_OBJECT | ML_JSON_ARRAY},
    {"model.merges", ML_JSON_ARRAY},
    {"model.merges[]", ML_JSON_TEXT | ML_JSON_ARRAY},
    {"model.continuing_subword_prefix", TEXT},
    {"model.end_of_word_suffix", TEXT},
    {"model.byte_fallback", FLAG},
    {"model.ignore_merges", FLAG},
    {"model.dropout", NUMBER},
    {"normalizer", OBJECT},
    {"normalizer.type", ML_JSON_TEXT},
    {"normalizer.normalizers", ML_JSON_ARRAY},
    {"added_tokens", ARRAY},
    {"added_tokens[]", ML_JSON_OBJECT},
    {"added_tokens[].id", ML_JSON_INTEGER},
    {"added_tokens[].content", ML_JSON_TEXT},
    {"added_tokens[].special", FLAG},
    {"added_tokens[].lstrip", FLAG},
    {"added_tokens[].rstrip", FLAG},
    {"added_tokens[].single_word", FLAG},
    {"pre_tokenizer", OBJECT},
    {"pre_tokenizer.type", ML_JSON_TEXT},
    {"pre_tokenizer.add_prefix_space", FLAG},
    {"pre_tokenizer.use_regex", FLAG},
    {"pre_tokenizer.individual_digits", FLAG},
    {"pre_tokenizer.pretokenizers", ML_JSON_ARRAY},
    {"pre_tokenizer.pretokenizers[]", ML_JSON_OBJECT},
    {"pre_tokenizer.pretokenizers[].type", ML_JSON_TEXT},
    {"pre_tokenizer.pretokenizers[].add_prefix_space", FLAG},
    {"pre_tokenizer.pretokenizers[].use_regex", FLAG},
    {"pre_tokenizer.pretokenizers[].individual_digits", FLAG},
    {"pre_tokenizer.pretokenizers[].pattern", ML_JSON_OBJECT | ML_JSON_TEXT},
    {"pre_tokenizer.pretokenizers[].pattern.Regex", ML_JSON_TEXT},
    {"pre_tokenizer.pretokenizers[].behavior", ML_JSON_TEXT},
    {"post_processor", OBJECT},
    {"post_processor.type", ML_JSON_TEXT},
    {"post_processor.single", ML_JSON_ARRAY},
    {"post_processor.single[]", ML_JSON_OBJECT},
    {"post_processor.single[].SpecialToken", ML_JSON_OBJECT},
    {"post_processor.single[].SpecialToken.id", ML_JSON_TEXT},
    {"post_processor.processors", ML_JSON_ARRAY},
    {"post_processor.processors[]", ML_JSON_OBJECT},
    {"post_processor.processors[].type", ML_JSON_TEXT},
    {"post_processor.processors[].single", ML_JSON_ARRAY},
    {"post_processor.processors[].single[]", ML_JSON_OBJECT},
    {"post_processor.processors[].single[].SpecialToken", ML_JSON_OBJECT},
    {"post_processor.processors[].single[].SpecialToken.id", ML_JSON_TEXT},
    {NULL, 0},
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Absent, null or an empty text. */
static bool is_nothing(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

/* ---- model --------------------------------------------------------------------------------- */

static ml_status check_model(const json_t *model)
{
    if (!json_is_object(model)) return ml_fail(ML_INPUT, "there is no \"model\"");
    const char *type = text_of(model, "type");
    /* older files leave the type out */
    if (*type && strcmp(type, "BPE") != 0)
        return ml_fail(ML_INPUT,
                       "the model is of type \"%s\"; only byte-level \"BPE\" is supported", type);
    if (!json_is_object(json_object_get(model, "vocab")) ||
        !json_is_array(json_object_get(model, "merges")))
        return ml_fail(ML_INPUT, "the model has no \"vocab\" and \"merges\" of a BPE");
    if (!is_nothing(model, "continuing_subword_prefix") || !is_nothing(model, "end_of_word_suffix"))
        return ml_fail(ML_INPUT,
                       "the model has a sub-word prefix or suffix; that is not supported");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return ml_fail(ML_INPUT, "the model has \"byte_fallback\" (a SentencePiece vocabulary); "
                                 "only byte-level BPE is supported");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return ml_fail(ML_INPUT, "the model has BPE dropout; that is not supported");
    return ML_OK;
}

static ml_status read_vocab(ml_vocabulary *vocabulary, const json_t *vocab)
{
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id)
    {
        if (!json_is_integer(id))
            return ml_fail(ML_INPUT, "the id of token \"%s\" is not an integer", text);
        ml_status st = ml_vocabulary_set(vocabulary, json_integer_value(id), text);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status read_merges(ml_vocabulary *vocabulary, const json_t *merges)
{
    size_t i;
    json_t *one;
    json_array_foreach(merges, i, one)
    {
        const char *left = json_string_value(json_is_array(one) ? json_array_get(one, 0) : one);
        const char *right = json_is_array(one) && json_array_size(one) == 2
                                ? json_string_value(json_array_get(one, 1))
                                : NULL;
        const char *blank = json_is_string(one) ? strchr(left, ' ') : NULL;
        if (blank) right = blank + 1;
        if (!left || !right)
            return ml_fail(ML_INPUT,
                           "merge %zu is neither \"left right\" nor [\"left\", \"right\"]", i);
        ml_status st = ml_vocabulary_merge(vocabulary, left,
                                           blank ? (size_t)(blank - left) : strlen(left), right);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- added tokens -------------------------------------------------------------------------- */

static ml_status read_added(ml_vocabulary *vocabulary, const json_t *added)
{
    static const char *const strips[] = {"lstrip", "rstrip", "single_word"};
    size_t i;
    json_t *one;
    json_array_foreach(added, i, one)
    {
        const json_t *id = json_object_get(one, "id");
        const char *text = json_string_value(json_object_get(one, "content"));
        if (!json_is_integer(id) || !text)
            return ml_fail(ML_INPUT, "added token %zu has no \"id\" or no \"content\"", i);
        for (size_t s = 0; s < sizeof strips / sizeof *strips; s++)
            if (json_is_true(json_object_get(one, strips[s])))
                return ml_fail(ML_INPUT,
                               "added token \"%s\" has \"%s\": true; that is not supported", text,
                               strips[s]);
        ml_status st = ml_vocabulary_add(vocabulary, json_integer_value(id), text,
                                         json_is_true(json_object_get(one, "special")));
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- pre-tokenizer ------------------------------------------------------------------------- */

static ml_status read_split(ml_vocabulary *vocabulary, const json_t *step)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex")),
               *behavior = text_of(step, "behavior");
    if (strcmp(behavior, "Isolated") != 0)
        return ml_fail(
            ML_INPUT,
            "a pre-tokenizer \"Split\" has the behavior \"%s\"; only \"Isolated\" is supported",
            behavior);
    if (!regex)
        return ml_fail(ML_INPUT, "a pre-tokenizer \"Split\" has no pattern of the kind \"Regex\"");
    return ml_vocabulary_split(vocabulary, regex);
}

/* *byte_level: set where the step maps to the byte-level alphabet, which must be the last one. */
static ml_status read_pre_step(ml_vocabulary *vocabulary, const json_t *step, bool *byte_level)
{
    const char *type = text_of(step, "type");
    if (*byte_level)
        return ml_fail(ML_INPUT,
                       "the pre-tokenizer \"%s\" comes after \"ByteLevel\"; that is not supported",
                       type);
    if (!strcmp(type, "Split")) return read_split(vocabulary, step);
    if (!strcmp(type, "Digits")) {
        bool single = json_is_true(json_object_get(step, "individual_digits"));
        return ml_vocabulary_split(vocabulary, single ? ML_PATTERN_DIGIT : ML_PATTERN_DIGIT "+");
    }
    if (strcmp(type, "ByteLevel") != 0)
        return ml_fail(
            ML_INPUT,
            "the pre-tokenizer \"%s\" is not supported (Sequence, Split, Digits and ByteLevel are)",
            type);
    if (json_is_true(json_object_get(step, "add_prefix_space")))
        return ml_fail(ML_INPUT, "the pre-tokenizer \"ByteLevel\" has \"add_prefix_space\": true; "
                                 "that is not supported");
    *byte_level = true;
    const json_t *use_regex = json_object_get(step, "use_regex");
    return use_regex && json_is_false(use_regex) ? ML_OK
                                                 : ml_vocabulary_split(vocabulary, ML_PATTERN_GPT2);
}

static ml_status read_pre(ml_vocabulary *vocabulary, const json_t *pre)
{
    bool byte_level = false;
    const json_t *steps = json_object_get(pre, "pretokenizers");
    if (strcmp(text_of(pre, "type"), "Sequence") != 0) {
        ml_status st = read_pre_step(vocabulary, pre, &byte_level);
        if (st != ML_OK) return st;
    }
    size_t i;
    json_t *one;
    json_array_foreach(steps, i, one)
    {
        ml_status st = read_pre_step(vocabulary, one, &byte_level);
        if (st != ML_OK) return st;
    }
    if (!byte_level)
        return ml_fail(ML_INPUT,
                       "the pre-tokenizer has no \"ByteLevel\"; only byte-level BPE is supported");
    if (json_array_size(vocabulary->split) == 0) return ml_vocabulary_split(vocabulary, "(?s).+");
    return ML_OK;
}

/* ---- what goes before a text --------------------------------------------------------------- */

/* A TemplateProcessing that puts a special token before the text, alone or inside a Sequence. What
 * it puts after the text is left to the program, which ends texts by itself. */
static void read_post(ml_vocabulary *vocabulary, const json_t *post)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(post, "processors"), i, one) read_post(vocabulary, one);
    const json_t *first = json_array_get(json_object_get(post, "single"), 0);
    const char *name =
        json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    if (!strcmp(text_of(post, "type"), "TemplateProcessing") && name)
        vocabulary->begin = ml_vocabulary_find(vocabulary, name);
}

static ml_status check_normalizer(const json_t *normalizer)
{
    if (!normalizer || json_is_null(normalizer)) return ML_OK;
    const json_t *steps = json_object_get(normalizer, "normalizers");
    const char *type = text_of(normalizer, "type");
    if (!strcmp(type, "Sequence") && json_is_array(steps) && json_array_size(steps) == 0)
        return ML_OK;
    return ml_fail(ML_INPUT, "the normalizer \"%s\" is not supported (it would change the text)",
                   type);
}

ml_status ml_tokenizer_json_read(ml_vocabulary *vocabulary, const json_t *root)
{
    ml_status st = ML_OK;
    const json_t *model = json_object_get(root, "model");
    ML_TRY(ml_json_check(root, ml_tokenizer_json_keys));
    ML_TRY(check_model(model));
    ML_TRY(check_normalizer(json_object_get(root, "normalizer")));
    vocabulary->whole_pieces = json_is_true(json_object_get(model, "ignore_merges"));
    ML_TRY(read_vocab(vocabulary, json_object_get(model, "vocab")));
    ML_TRY(read_merges(vocabulary, json_object_get(model, "merges")));
    ML_TRY(read_added(vocabulary, json_object_get(root, "added_tokens")));
    ML_TRY(read_pre(vocabulary, json_object_get(root, "pre_tokenizer")));
    read_post(vocabulary, json_object_get(root, "post_processor"));
done:
    return st;
}
