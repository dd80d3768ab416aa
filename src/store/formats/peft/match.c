/* Which modules a PEFT configuration means: names, regular expressions, layer indices, as PEFT
 * itself matches them. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "store/formats/peft/config.h"

enum { MATCH_LIMIT = 100000, LONGEST = 4096 }; /* a foreign pattern may not keep us for long */

/* Python's re.fullmatch, or with `tail` re.match("(.*\.)?(pattern)$"). */
static ml_status matches_expression(const char *pattern, const char *path, bool tail, bool *yes)
{
    ml_text text = {0};
    int code;
    PCRE2_SIZE at;
    if (strlen(pattern) > LONGEST)
        return ml_fail(ML_INPUT, "\"%.100s…\": is longer than %d letters", pattern, LONGEST);
    ml_status st = ml_text_printf(&text, tail ? "(?:.*\\.)?(?:%s)" : "(?:%s)", pattern);
    if (st != ML_OK) return st;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)text.data, PCRE2_ZERO_TERMINATED,
                      PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &code, &at, NULL);
    pcre2_match_data *match =
        compiled ? pcre2_match_data_create_from_pattern(compiled, NULL) : NULL;
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (context) pcre2_set_match_limit(context, MATCH_LIMIT);
    int found = match && context
                    ? pcre2_match(compiled, (PCRE2_SPTR)path, strlen(path), 0, 0, match, context)
                    : PCRE2_ERROR_NOMEMORY;
    *yes = found >= 0;
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        st = ml_fail(ML_INPUT, "\"%.100s\": is no regular expression that can be matched", pattern);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
    pcre2_code_free(compiled);
    ml_text_destroy(&text);
    return st;
}

bool ml_peft_ends_with(const char *path, const char *name)
{
    size_t n = strlen(path), m = strlen(name);
    return m > 0 && m <= n && !strcmp(path + n - m, name) && (m == n || path[n - m - 1] == '.');
}

static bool is_plain_name(const char *word)
{
    return strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") ==
           strlen(word);
}

static ml_status list_or_expression(const char *key, const json_t *value, const char *path,
                                    bool *yes)
{
    *yes = false;
    if (json_is_string(value))
        return matches_expression(json_string_value(value), path, false, yes);
    if (!value) return ml_fail(ML_INPUT, "%s: is missing", key);
    for (size_t i = 0; i < json_array_size(value); i++)
        *yes = *yes || ml_peft_ends_with(path, json_string_value(json_array_get(value, i)));
    return ML_OK;
}

/* PEFT's layers_to_transform does not hold for a module that target_modules names by its whole
 * path. */
static bool names_path(const json_t *targets, const char *path)
{
    for (size_t i = 0; i < json_array_size(targets); i++)
        if (!strcmp(json_string_value(json_array_get(targets, i)), path)) return true;
    return false;
}

/* A number or a list of them; neither, or an empty list, means every layer. */
static bool layer_is_meant(const json_t *layers, int64_t layer)
{
    if (json_is_integer(layers)) return json_integer_value(layers) == layer;
    for (size_t i = 0; i < json_array_size(layers); i++)
        if (json_integer_value(json_array_get(layers, i)) == layer) return true;
    return json_array_size(layers) == 0;
}

static bool ends_in(const char *path, const char *name)
{
    size_t n = strlen(path), m = strlen(name);
    return m > 0 && m <= n && !strcmp(path + n - m, name);
}

static bool lies_in(const char *path, const char *name, bool (*ends)(const char *, const char *))
{
    char part[256];
    snprintf(part, sizeof part, "%s", path);
    for (char *dot = part; dot; dot = strrchr(part, '.')) {
        if (*dot == '.') *dot = '\0';
        if (ends(part, name)) return true;
    }
    return false;
}

bool ml_peft_lies_in(const char *path, const char *name) { return lies_in(path, name, ends_in); }

/* Whether modules_to_save names the module, or one that it lies in, by whole words: such a module
 * has no factors in PEFT. */
static bool is_saved(const ml_peft_config *config, const char *path)
{
    const json_t *names = json_object_get(config->json, "modules_to_save");
    for (size_t i = 0; i < json_array_size(names); i++)
        if (lies_in(path, json_string_value(json_array_get(names, i)), ml_peft_ends_with))
            return true;
    return false;
}

ml_status ml_peft_config_targets(const ml_peft_config *config, const char *path, int64_t layer,
                                 bool *yes)
{
    ml_status st = ML_OK;
    const json_t *targets = json_object_get(config->json, "target_modules"),
                 *excluded = json_object_get(config->json, "exclude_modules");
    bool all = json_is_string(targets) && !strcmp(json_string_value(targets), "all-linear");
    bool out = false,
         in_layer = layer_is_meant(json_object_get(config->json, "layers_to_transform"), layer);
    *yes = true;
    if (all)
        *yes = layer >= 0; /* neither the embedding nor the head */
    else
        ML_TRY(list_or_expression("target_modules", targets, path, yes));
    if (excluded && !json_is_null(excluded))
        ML_TRY(list_or_expression("exclude_modules", excluded, path, &out));
    out = out || is_saved(config, path);
    *yes = *yes && (in_layer || names_path(targets, path)) && !out;
done:
    return st;
}

bool ml_peft_config_ties(const ml_peft_config *config)
{
    return json_is_true(json_object_get(config->json, "ensure_weight_tying"));
}

bool ml_peft_config_saves(const ml_peft_config *config, const char *path, bool outside)
{
    const json_t *names = json_object_get(config->json, "modules_to_save");
    for (size_t i = 0; i < json_array_size(names); i++)
        if (ml_peft_lies_in(path, json_string_value(json_array_get(names, i)))) return true;
    return outside && json_array_size(names) > 0 && ml_peft_config_ties(config);
}

/* The first key of a pattern object that means the path, or NULL. */
static ml_status find_pattern(const ml_peft_config *config, const char *name, const char *path,
                              const json_t **found)
{
    json_t *patterns = json_object_get(config->json, name), *value;
    const char *key;
    *found = NULL;
    json_object_foreach(patterns, key, value)
    {
        bool yes = ml_peft_ends_with(path, key);
        if (!yes && !is_plain_name(key)) {
            ml_status st = matches_expression(key, path, true, &yes);
            if (st != ML_OK) return st;
        }
        if (!yes) continue;
        *found = value;
        return ML_OK;
    }
    return ML_OK;
}

ml_status ml_peft_config_rank(const ml_peft_config *config, const char *path, int64_t *rank)
{
    const json_t *found;
    ml_status st = find_pattern(config, "rank_pattern", path, &found);
    if (st == ML_OK) *rank = found ? json_integer_value(found) : config->rank;
    return st;
}

ml_status ml_peft_config_alpha(const ml_peft_config *config, const char *path, double *alpha)
{
    const json_t *found;
    ml_status st = find_pattern(config, "alpha_pattern", path, &found);
    if (st == ML_OK) *alpha = found ? json_number_value(found) : config->alpha;
    return st;
}
