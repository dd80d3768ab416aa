/* Files of sentence-transformers, of 2.x to 6.x. modules.json lists the steps from a text to a
 * vector by the names of Python classes, whose modules have moved: the last word of each is what
 * counts. Pooling has its settings in a folder, by one key (6.x) or by a flag for each mode. */
#include "session/sentence_encoder.h"

#include "io/json.h"

static const char modules_name[] = "modules.json", pooling_name[] = "1_Pooling/config.json",
                  prompts_name[] = "config_sentence_transformers.json",
                  length_name[] = "sentence_bert_config.json",
                  tokenizer_name[] = "tokenizer_config.json";

/* *out NULL where the base has not kept such a file. `reals`: numbers beyond 64 bits may come. */
static ml_status read_file(const ml_base *base, const char *name, bool reals, json_t **out)
{
    ml_text text = {0};
    json_error_t error;
    *out = NULL;
    ml_status st = ml_base_read_file(base, name, &text);
    if (st == ML_OK && text.length)
        st = ml_json_parse(out, text.data, text.length,
                           JSON_REJECT_DUPLICATES | (reals ? JSON_DECODE_INT_AS_REAL : 0), &error);
    ml_text_destroy(&text);
    return st;
}

static ml_status within(const ml_base *base, const char *name, ml_status st)
{
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", ml_base_path(base), name);
}

/* ---- pooling ------------------------------------------------------------------------------- */

static const struct {
    const char *word, *flag;
    ml_pooling pooling; /* ML_POOLING_GIVEN: not known here */
} modes[] = {{"mean", "pooling_mode_mean_tokens", ML_POOLING_MEAN},
             {"cls", "pooling_mode_cls_token", ML_POOLING_CLS},
             {"lasttoken", "pooling_mode_lasttoken", ML_POOLING_LAST},
             {"max", "pooling_mode_max_tokens", ML_POOLING_GIVEN},
             {"mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", ML_POOLING_GIVEN},
             {"weightedmean", "pooling_mode_weightedmean_tokens", ML_POOLING_GIVEN}};
enum { MODES = sizeof modes / sizeof *modes };

static ml_status unknown_pooling(const char *word)
{
    return ml_fail(ML_INPUT,
                   "pooling \"%.40s\" is not known, only mean, cls and lasttoken; choose one with "
                   "--pooling",
                   word);
}

static ml_status find_mode(const json_t *o, ml_pooling *out)
{
    const json_t *word = json_object_get(o, "pooling_mode");
    int found = -1;
    for (int i = 0; i < MODES; i++) {
        bool on = word ? json_is_string(word) && !strcmp(json_string_value(word), modes[i].word)
                       : json_is_true(json_object_get(o, modes[i].flag));
        if (on && found >= 0) return unknown_pooling("several modes side by side");
        if (on) found = i;
    }
    if (found < 0) return unknown_pooling(json_is_string(word) ? json_string_value(word) : "none");
    *out = modes[found].pooling;
    return *out == ML_POOLING_GIVEN ? unknown_pooling(modes[found].word) : ML_OK;
}

static ml_status read_pooling(const ml_base *base, ml_pooling *out)
{
    static const ml_json_key keys[] = {{"pooling_mode", ML_JSON_TEXT | ML_JSON_NULL}, {NULL, 0}};
    json_t *o;
    ml_status st = read_file(base, pooling_name, false, &o);
    if (st == ML_OK && !o)
        st = ml_fail(ML_INPUT, "is missing, but modules.json has a pooling; choose one with "
                               "--pooling");
    if (st == ML_OK) st = ml_json_check(o, keys);
    if (st == ML_OK) st = find_mode(o, out);
    json_decref(o);
    return within(base, pooling_name, st);
}

/* "sentence_transformers.models.Pooling" → "Pooling". */
static const char *last_word(const char *type)
{
    const char *dot = strrchr(type, '.');
    return dot ? dot + 1 : type;
}

static ml_status read_modules(const json_t *modules, bool *pools, bool *normalise)
{
    size_t i;
    json_t *module;
    if (!json_is_array(modules)) return ml_fail(ML_INPUT, "is no list of modules");
    json_array_foreach(modules, i, module)
    {
        const char *type = json_string_value(json_object_get(module, "type"));
        const char *word = type ? last_word(type) : "";
        if (!strcmp(word, "Pooling"))
            *pools = true;
        else if (!strcmp(word, "Normalize"))
            *normalise = true;
        else if (i > 0 || strcmp(word, "Transformer") != 0)
            return ml_fail(ML_INPUT,
                           "module %zu, \"%.60s\", is not known, only Transformer, Pooling and "
                           "Normalize; leave it out with --pooling (in training objective.pooling) "
                           "mean, cls or last",
                           i, word);
    }
    return ML_OK;
}

ml_status sentence_encoder_pooling(const ml_base *base, ml_pooling *pooling, bool *normalise)
{
    json_t *modules;
    bool pools = false;
    *pooling = ML_POOLING_MEAN;
    *normalise = false;
    ml_status st = read_file(base, modules_name, false, &modules);
    if (st == ML_OK && modules) st = read_modules(modules, &pools, normalise);
    json_decref(modules);
    st = within(base, modules_name, st);
    return st == ML_OK && pools ? read_pooling(base, pooling) : st;
}

/* ---- prompt -------------------------------------------------------------------------------- */

static ml_status check_included(const ml_base *base)
{
    json_t *o;
    ml_status st = read_file(base, pooling_name, false, &o);
    if (st == ML_OK && json_is_false(json_object_get(o, "include_prompt")))
        st = ml_fail(ML_INPUT, "include_prompt: false, which is not known here; put no prompt "
                               "before the texts with --pooling mean, cls or last");
    json_decref(o);
    return within(base, pooling_name, st);
}

ml_status sentence_encoder_prompt(const ml_base *base, ml_text *prompt)
{
    static const ml_json_key keys[] = {{"prompts", ML_JSON_OBJECT | ML_JSON_NULL},
                                       {"prompts.*", ML_JSON_TEXT},
                                       {"default_prompt_name", ML_JSON_TEXT | ML_JSON_NULL},
                                       {NULL, 0}};
    json_t *o;
    ml_status st = read_file(base, prompts_name, false, &o);
    if (st == ML_OK) st = ml_json_check(o, keys);
    const char *name = json_string_value(json_object_get(o, "default_prompt_name"));
    const json_t *text = name ? json_object_get(json_object_get(o, "prompts"), name) : NULL;
    if (st == ML_OK && name && !text)
        st = ml_fail(ML_INPUT, "default_prompt_name: \"%.40s\" is not among the prompts", name);
    if (st == ML_OK && text)
        st = ml_text_add(prompt, json_string_value(text), (int64_t)json_string_length(text));
    json_decref(o);
    st = within(base, prompts_name, st);
    return st == ML_OK && prompt->length ? check_included(base) : st;
}

/* ---- length -------------------------------------------------------------------------------- */

static ml_status read_length(const ml_base *base, const char *name, const char *key, double *out)
{
    json_t *o;
    ml_status st = read_file(base, name, true, &o);
    const json_t *value = json_object_get(o, key);
    if (st == ML_OK && value && !json_is_null(value)) {
        *out = json_number_value(value);
        if (!(*out >= 1.0))
            st = ml_fail(ML_INPUT, "%s: expected a number of tokens, at least 1", key);
    }
    json_decref(o);
    return within(base, name, st);
}

ml_status sentence_encoder_length(const ml_base *base, int64_t *max_len)
{
    double said = 0.0, context = (double)ml_base_spec(base)->context;
    ml_status st = read_length(base, length_name, "max_seq_length", &said);
    if (st == ML_OK && said == 0.0)
        st = read_length(base, tokenizer_name, "model_max_length", &said);
    *max_len = (int64_t)(said >= 1.0 && said < context ? said : context);
    return st;
}
