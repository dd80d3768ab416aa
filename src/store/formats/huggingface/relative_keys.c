/* DeBERTa's keys of config.json: terms of the scores, distances and their buckets, the convolution.
 */
#include <inttypes.h>

#include "mpilora/family.h"
#include "store/formats/huggingface/huggingface.h"

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status check_sole(const json_t *o, const char *name)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value) || json_integer_value(value) == 1) return ML_OK;
    return ml_fail(ML_INPUT, "%s: %" JSON_INTEGER_FORMAT " is not supported, only 1", name,
                   json_integer_value(value));
}

/* One term, or several with | between them. */
static ml_status add_terms(const char *name, const char *text, ml_model_spec *s)
{
    while (*text) {
        size_t n = strcspn(text, "|");
        const char *word = text + strspn(text, " ");
        if (!strncmp(word, "c2p", 3))
            s->relative_keys = true;
        else if (!strncmp(word, "p2c", 3))
            s->relative_queries = true;
        else
            return ml_fail(ML_INPUT, "%s: \"%.40s\" is not known; known are c2p, p2c", name, text);
        text += n + (text[n] == '|');
    }
    return ML_OK;
}

static ml_status get_terms(const json_t *o, const char *name, ml_model_spec *s)
{
    const json_t *value = json_object_get(o, name);
    ml_status st = ML_OK;
    if (json_is_string(value)) st = add_terms(name, json_string_value(value), s);
    for (size_t i = 0; i < json_array_size(value) && st == ML_OK; i++)
        st = add_terms(name, json_string_value(json_array_get(value, i)), s);
    return st;
}

static ml_status check_relative(const json_t *o, const char *name, const ml_model_spec *s)
{
    if (!ml_model_is_relative(s) || json_is_true(json_object_get(o, name))) return ML_OK;
    return ml_fail(ML_INPUT, "%s: false beside relative terms (pos_att_type) is not supported",
                   name);
}

/* Below 1: what is said otherwise. */
static void get_positive(const json_t *o, const char *name, int64_t otherwise, int64_t *out)
{
    int64_t said = json_integer_value(json_object_get(o, name));
    *out = said >= 1 ? said : otherwise;
}

static bool has_norm(const json_t *o, const char *name)
{
    const char *word = json_string_value(json_object_get(o, name));
    return word && strstr(word, "layer_norm");
}

ml_status hf_relative_read(const json_t *o, const ml_family_key *k, ml_model_spec *s)
{
    void *at = (char *)s + k->field;
    switch (k->kind) {
    case ML_KEY_SOLE:
        return check_sole(o, k->key);
    case ML_KEY_TERMS:
        return get_terms(o, k->key, s);
    case ML_KEY_RELATIVE:
        return check_relative(o, k->key, s);
    case ML_KEY_NORMED:
        *(bool *)at = has_norm(o, k->key);
        return ML_OK;
    case ML_KEY_DISTANCES:
        get_positive(o, k->key, s->context, at);
        return ML_OK;
    default:
        get_positive(o, k->key, 0, at);
        return ML_OK;
    }
}

/* ---- writing ------------------------------------------------------------------------------- */

static json_t *terms_json(const ml_model_spec *s)
{
    json_t *list = json_array();
    if ((s->relative_queries && json_array_append_new(list, json_string("p2c"))) ||
        (s->relative_keys && json_array_append_new(list, json_string("c2p")))) {
        json_decref(list);
        return NULL;
    }
    return list;
}

json_t *hf_relative_json(const ml_model_spec *s, const ml_family_key *k)
{
    const void *at = (const char *)s + k->field;
    switch (k->kind) {
    case ML_KEY_TERMS:
        return terms_json(s);
    case ML_KEY_RELATIVE:
        return json_boolean(ml_model_is_relative(s));
    case ML_KEY_NORMED:
        return json_string(*(const bool *)at ? "layer_norm" : "none");
    case ML_KEY_BUCKETS:
        return json_integer(*(const int64_t *)at > 0 ? (json_int_t) * (const int64_t *)at : -1);
    default:
        return json_integer((json_int_t) * (const int64_t *)at);
    }
}
