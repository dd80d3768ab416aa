/* A model specification as JSON text, and back: sizes and features by their names. What a file of
 * an older version does not say is its family's own. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/family.h"
#include "store/base/base_private.h"

typedef enum field_kind {
    FIELD_INT,
    FIELD_REAL,
    FIELD_BOOL,
    FIELD_WORD,   /* an enum, by its word */
    FIELD_LAYERS, /* a set of layers, as a list of their numbers */
    FIELD_FACTORS /* of pairs of a head, as a list */
} field_kind;

typedef struct field {
    const char *section, *name; /* section "": at the top */
    field_kind kind;
    size_t offset;
    const char *const *words;
    bool newer; /* files of the first version lack it */
} field;

static const char *const norms[] = {"rms", "layer", NULL}, *const qk_norms[] = {"head", "each_head",
                                                                                "width", NULL};

#define AT(name) offsetof(ml_model_spec, name)
static const field fields[] = {
    {"", "layers", FIELD_INT, AT(layers), NULL, false},
    {"", "width", FIELD_INT, AT(width), NULL, false},
    {"", "mlp_width", FIELD_INT, AT(mlp_width), NULL, false},
    {"", "heads", FIELD_INT, AT(heads), NULL, false},
    {"", "kv_heads", FIELD_INT, AT(kv_heads), NULL, false},
    {"", "head_dim", FIELD_INT, AT(head_dim), NULL, false},
    {"", "vocab", FIELD_INT, AT(vocab), NULL, false},
    {"", "context", FIELD_INT, AT(context), NULL, false},
    {"", "embed_width", FIELD_INT, AT(embed_width), NULL, true},
    {"", "activation", FIELD_WORD, AT(activation), ml_activation_words, false},
    {"", "norm_eps", FIELD_REAL, AT(norm_eps), NULL, false},
    {"", "rope_theta", FIELD_REAL, AT(rope_theta), NULL, false},
    {"rope_scaling", "kind", FIELD_WORD, AT(rope_scaling.kind), ml_rope_kind_words, true},
    {"rope_scaling", "factor", FIELD_REAL, AT(rope_scaling.factor), NULL, false},
    {"rope_scaling", "low_freq_factor", FIELD_REAL, AT(rope_scaling.low_freq_factor), NULL, false},
    {"rope_scaling", "high_freq_factor", FIELD_REAL, AT(rope_scaling.high_freq_factor), NULL,
     false},
    {"rope_scaling", "original_context", FIELD_INT, AT(rope_scaling.original_context), NULL, false},
    {"rope_scaling", "beta_fast", FIELD_REAL, AT(rope_scaling.beta_fast), NULL, true},
    {"rope_scaling", "beta_slow", FIELD_REAL, AT(rope_scaling.beta_slow), NULL, true},
    {"rope_scaling", "unrounded", FIELD_BOOL, AT(rope_scaling.unrounded), NULL, true},
    {"rope_scaling", "attention_factor", FIELD_REAL, AT(rope_scaling.attention_factor), NULL, true},
    {"rope_scaling", "short_factor", FIELD_FACTORS, AT(rope_scaling.short_factor), NULL, true},
    {"rope_scaling", "long_factor", FIELD_FACTORS, AT(rope_scaling.long_factor), NULL, true},
    {"", "rope_local_theta", FIELD_REAL, AT(rope_local_theta), NULL, true},
    {"", "unrotated_layers", FIELD_LAYERS, AT(unrotated_layers), NULL, true},
    {"", "rope_width", FIELD_INT, AT(rope_width), NULL, true},
    {"", "rope_neighbours", FIELD_BOOL, AT(rope_neighbours), NULL, true},
    {"", "tied_head", FIELD_BOOL, AT(tied_head), NULL, false},
    {"", "qkv_bias", FIELD_BOOL, AT(qkv_bias), NULL, false},
    {"", "o_bias", FIELD_BOOL, AT(o_bias), NULL, false},
    {"", "mlp_bias", FIELD_BOOL, AT(mlp_bias), NULL, false},
    {"", "norm", FIELD_WORD, AT(norm), norms, true},
    {"", "norm_plus_one", FIELD_BOOL, AT(norm_plus_one), NULL, true},
    {"", "norm_places", FIELD_WORD, AT(norm_places), ml_norm_places_words, true},
    {"", "no_final_norm", FIELD_BOOL, AT(no_final_norm), NULL, true},
    {"", "positions", FIELD_WORD, AT(positions), ml_positions_words, true},
    {"", "position_offset", FIELD_INT, AT(position_offset), NULL, true},
    {"", "token_types", FIELD_INT, AT(token_types), NULL, true},
    {"", "relative_keys", FIELD_BOOL, AT(relative_keys), NULL, true},
    {"", "relative_queries", FIELD_BOOL, AT(relative_queries), NULL, true},
    {"", "relative_shared", FIELD_BOOL, AT(relative_shared), NULL, true},
    {"", "relative_norm", FIELD_BOOL, AT(relative_norm), NULL, true},
    {"", "relative_distances", FIELD_INT, AT(relative_distances), NULL, true},
    {"", "relative_buckets", FIELD_INT, AT(relative_buckets), NULL, true},
    {"", "conv_kernel", FIELD_INT, AT(conv_kernel), NULL, true},
    {"", "conv_activation", FIELD_WORD, AT(conv_activation), ml_activation_words, true},
    {"", "both_ways", FIELD_BOOL, AT(both_ways), NULL, true},
    {"", "qk_norm", FIELD_BOOL, AT(qk_norm), NULL, true},
    {"", "qk_norm_kind", FIELD_WORD, AT(qk_norm_kind), qk_norms, true},
    {"", "attention_scale", FIELD_REAL, AT(attention_scale), NULL, true},
    {"", "score_cap", FIELD_REAL, AT(score_cap), NULL, true},
    {"", "logit_cap", FIELD_REAL, AT(logit_cap), NULL, true},
    {"", "embed_root", FIELD_BOOL, AT(embed_root), NULL, true},
    {"", "embed_multiplier", FIELD_REAL, AT(embed_multiplier), NULL, true},
    {"", "residual_multiplier", FIELD_REAL, AT(residual_multiplier), NULL, true},
    {"", "logit_multiplier", FIELD_REAL, AT(logit_multiplier), NULL, true},
    {"", "gated", FIELD_BOOL, AT(gated), NULL, true},
    {"", "window", FIELD_INT, AT(window), NULL, true},
    {"", "full_layers", FIELD_LAYERS, AT(full_layers), NULL, true},
    {"", "head", FIELD_WORD, AT(head), ml_head_words, true},
    {"", "labels", FIELD_INT, AT(labels), NULL, true},
    {"", "pool", FIELD_BOOL, AT(pool), NULL, true},
    {"", "pool_activation", FIELD_WORD, AT(pool_activation), ml_activation_words, true},
    {"", "transform", FIELD_BOOL, AT(transform), NULL, true},
    {"", "transform_activation", FIELD_WORD, AT(transform_activation), ml_activation_words, true},
    {"", "transform_bias", FIELD_BOOL, AT(transform_bias), NULL, true},
    {"", "legacy_head", FIELD_BOOL, AT(legacy_head), NULL, true},
    {"", "mean_pooled", FIELD_BOOL, AT(mean_pooled), NULL, true},
};
enum { FIELDS = sizeof fields / sizeof *fields };

/* ---- writing ------------------------------------------------------------------------------- */

static json_t *layers_json(const ml_model_spec *s, const ml_layer_set *set)
{
    json_t *list = json_array();
    for (int64_t l = 0; l < ml_min(s->layers, ML_LAYER_SET); l++)
        if (ml_layer_set_has(set, l) && json_array_append_new(list, json_integer(l))) break;
    return list;
}

static json_t *factors_json(const ml_model_spec *s, const float *factor)
{
    json_t *list = json_array();
    int64_t pairs = s->rope_scaling.kind == ML_ROPE_LONGROPE ? ml_model_rope_width(s) / 2 : 0;
    for (int64_t i = 0; i < ml_min(pairs, ML_ROPE_FACTORS); i++)
        if (json_array_append_new(list, json_real((double)factor[i]))) break;
    return list;
}

static json_t *value_json(const ml_model_spec *s, const field *f)
{
    const void *at = (const char *)s + f->offset;
    switch (f->kind) {
    case FIELD_INT:
        return json_integer((json_int_t) * (const int64_t *)at);
    case FIELD_REAL:
        return json_real(*(const double *)at);
    case FIELD_BOOL:
        return json_boolean(*(const bool *)at);
    case FIELD_WORD:
        return json_string(f->words[*(const int *)at]);
    case FIELD_LAYERS:
        return layers_json(s, at);
    case FIELD_FACTORS:
        return factors_json(s, at);
    }
    return NULL;
}

/* What a base without a head does not say, so that its hash is that of older versions. */
static bool is_unsaid(const ml_model_spec *s, const field *f)
{
    if (f->offset == AT(pool)) return !s->pool;
    if (f->offset == AT(pool_activation))
        return s->pool_activation == s->family->defaults.pool_activation;
    if (f->offset == AT(transform)) return !s->transform;
    if (f->offset == AT(transform_activation))
        return s->transform_activation == s->family->defaults.transform_activation;
    if (f->offset == AT(transform_bias)) return !s->transform_bias;
    if (f->offset == AT(legacy_head)) return s->legacy_head == s->family->defaults.legacy_head;
    if (f->offset == AT(mean_pooled)) return !s->mean_pooled;
    return s->head == ML_HEAD_LANGUAGE && (f->offset == AT(head) || f->offset == AT(labels));
}

ml_status base_spec_to_json(const ml_model_spec *s, ml_text *out)
{
    json_t *o = json_object(), *in;
    bool failed = json_object_set_new(o, "family", json_string(s->family->name)) != 0;
    for (int i = 0; i < FIELDS && !failed; i++) {
        const field *f = &fields[i];
        if (is_unsaid(s, f)) continue;
        in = *f->section ? json_object_get(o, f->section) : o;
        if (!in) {
            failed = json_object_set_new(o, f->section, json_object()) != 0;
            in = json_object_get(o, f->section);
        }
        failed = failed || json_object_set_new(in, f->name, value_json(s, f)) != 0;
    }
    char *text = failed ? NULL : ml_json_dump(o, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "the model's description: out of memory");
    ml_status st = ml_text_printf(out, "%s", text);
    free(text);
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status wrong(const field *f, const char *expected)
{
    return ml_fail(ML_INPUT, "architecture: %s: expected %s", f->name, expected);
}

static ml_status read_word(const field *f, const json_t *value, int *out)
{
    const char *word = json_string_value(value);
    if (!word) return wrong(f, "a word");
    *out = ml_find_word(word, f->words);
    if (*out >= 0) return ML_OK;
    return ml_fail(ML_INPUT, "architecture: %s \"%.40s\" is not known", f->name, word);
}

static ml_status read_layers(const field *f, const json_t *value, ml_layer_set *set)
{
    if (!json_is_array(value)) return wrong(f, "a list of layers");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *layer = json_array_get(value, i);
        if (!json_is_integer(layer) || json_integer_value(layer) < 0 ||
            json_integer_value(layer) >= ML_LAYER_SET)
            return wrong(f, "numbers of layers");
        ml_layer_set_add(set, json_integer_value(layer));
    }
    return ML_OK;
}

static ml_status read_factors(const field *f, const json_t *value, float *factor)
{
    size_t n = json_array_size(value); /* 0: no list */
    if (!json_is_array(value) || n > ML_ROPE_FACTORS) return wrong(f, "a list of factors");
    for (size_t i = 0; i < n; i++) {
        if (!json_is_number(json_array_get(value, i))) return wrong(f, "numbers");
        factor[i] = (float)json_number_value(json_array_get(value, i));
    }
    return ML_OK;
}

static ml_status read_field(const field *f, const json_t *value, ml_model_spec *s)
{
    void *at = (char *)s + f->offset;
    switch (f->kind) {
    case FIELD_INT:
        if (!json_is_integer(value)) return wrong(f, "a whole number");
        *(int64_t *)at = json_integer_value(value);
        return ML_OK;
    case FIELD_REAL:
        if (!json_is_number(value)) return wrong(f, "a number");
        *(double *)at = json_number_value(value);
        return ML_OK;
    case FIELD_BOOL:
        if (!json_is_boolean(value)) return wrong(f, "true or false");
        *(bool *)at = json_is_true(value);
        return ML_OK;
    case FIELD_WORD:
        return read_word(f, value, at);
    case FIELD_LAYERS:
        return read_layers(f, value, at);
    case FIELD_FACTORS:
        return read_factors(f, value, at);
    }
    return ML_OK;
}

/* Keys that no field has: a feature of a later version, which must not be read past. */
static ml_status check_keys(json_t *o, const char *section)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        bool known = !*section && !strcmp(key, "family");
        for (int i = 0; i < FIELDS && !known; i++)
            known = (!strcmp(fields[i].section, section) && !strcmp(fields[i].name, key)) ||
                    (!*section && !strcmp(fields[i].section, key));
        if (!known)
            return ml_fail(
                ML_INPUT, "architecture: %.60s is not known: is the file of a newer version?", key);
    }
    return ML_OK;
}

static ml_status unpack(json_t *o, ml_model_spec *s)
{
    ml_status st = ML_OK;
    const char *name = json_string_value(json_object_get(o, "family"));
    const ml_family *family = name ? ml_family_find(name) : NULL;
    if (!family)
        return ml_fail(ML_INPUT, "architecture: family \"%.40s\" is not known",
                       name ? name : "(missing)");
    *s = family->defaults;
    ML_TRY(check_keys(o, ""));
    ML_TRY(check_keys(json_object_get(o, "rope_scaling"), "rope_scaling"));
    for (int i = 0; i < FIELDS; i++) {
        const field *f = &fields[i];
        const json_t *in = *f->section ? json_object_get(o, f->section) : o,
                     *value = json_object_get(in, f->name);
        if (!value && f->newer) continue;
        if (!value) return ml_fail(ML_INPUT, "architecture: %s is missing", f->name);
        ML_TRY(read_field(f, value, s));
    }
    if (!json_object_get(json_object_get(o, "rope_scaling"), "kind") &&
        s->rope_scaling.factor > 0.0)
        s->rope_scaling.kind = ML_ROPE_LLAMA3; /* the only one of the first version */
    st = ml_model_spec_check(s, ML_INPUT);
done:
    return st;
}

ml_status base_spec_from_json(const char *json, ml_model_spec *out)
{
    json_error_t error;
    json_t *o;
    ml_status st = ml_json_parse(&o, json, (int64_t)strlen(json), JSON_REJECT_DUPLICATES, &error);
    if (st != ML_OK) return ml_fail_within(st, "architecture: not JSON");
    *out = (ml_model_spec){0};
    st = unpack(o, out);
    json_decref(o);
    return st;
}

/* ---- comparing ----------------------------------------------------------------------------- */

static bool same_value(const field *f, const ml_model_spec *a, const ml_model_spec *b, json_t *x,
                       json_t *y)
{
    if (f->kind != FIELD_REAL) return json_equal(x, y);
    double one = *(const double *)((const char *)a + f->offset),
           two = *(const double *)((const char *)b + f->offset);
    return fabs(one - two) <= 1e-6 * fabs(one);
}

static ml_status compare(const ml_model_spec *a, const ml_model_spec *b, ml_text *out)
{
    ml_status st = ML_OK;
    for (int i = 0; i < FIELDS && st == ML_OK && !out->length; i++) {
        const field *f = &fields[i];
        json_t *x = value_json(a, f), *y = value_json(b, f);
        if (!same_value(f, a, b, x, y)) {
            char *one = ml_json_dump(x, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)),
                 *two = ml_json_dump(y, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
            st = ml_text_printf(out, "%s%s%s is %.200s here, and would be read as %.200s",
                                f->section, *f->section ? "." : "", f->name, one ? one : "?",
                                two ? two : "?");
            free(one);
            free(two);
        }
        json_decref(x);
        json_decref(y);
    }
    return st;
}

/* What is said in several ways becomes the same one. */
static void settle(ml_model_spec *s)
{
    ml_rope_scaling *r = &s->rope_scaling;
    s->attention_scale = ml_model_attention_scale(s);
    s->rope_width = ml_model_rope_width(s);
    if (r->kind == ML_ROPE_YARN || r->kind == ML_ROPE_LONGROPE)
        r->attention_factor = ml_rope_attention_factor(r);
    if (r->kind == ML_ROPE_LINEAR) r->original_context = 0;
    if (r->kind == ML_ROPE_LONGROPE) r->factor = 0.0; /* it makes the attention factor alone */
}

/* Windows into which the context fits are none, and layers that have none say nothing of them. */
static void settle_windows(ml_model_spec *read, const ml_model_spec *spec)
{
    bool any = false;
    for (int64_t l = 0; l < spec->layers; l++) {
        if (ml_model_window(read, l) != ml_model_window(spec, l)) return;
        any = any || ml_model_is_sliding(spec, l);
    }
    read->window = spec->window;
    read->full_layers = spec->full_layers;
    if (!any) read->rope_local_theta = spec->rope_local_theta;
}

ml_status base_spec_compare(const ml_model_spec *said, const ml_model_spec *read, ml_text *out)
{
    ml_model_spec one = *said, two = *read;
    settle(&one);
    settle(&two);
    settle_windows(&two, &one);
    return compare(&one, &two, out);
}
