/* Rotary positions in config.json: rope_theta, partial_rotary_factor and rope_scaling at the top
 * (transformers 4), or all of them in rope_parameters (5), for each type of layers where a family
 * has two ropes. Where both stand there, rope_scaling counts, as in transformers 5. */
#include <inttypes.h>
#include <math.h>

#include "store/formats/huggingface/huggingface.h"

typedef struct rope_source {
    const json_t *root;
    const ml_family *family;
    const ml_rope_keys *keys;
} rope_source;

static bool is_there(const json_t *value) { return value && !json_is_null(value); }

/* ---- reading: one set of parameters -------------------------------------------------------- */

static double real_or(const json_t *o, const char *key, double otherwise)
{
    const json_t *value = o && key ? json_object_get(o, key) : NULL;
    return is_there(value) ? json_number_value(value) : otherwise;
}

static ml_status need_real(const json_t *rope, const char *key, double *out)
{
    if (!is_there(json_object_get(rope, key)))
        return ml_fail(ML_INPUT, "rope_scaling: %s: missing", key);
    *out = json_number_value(json_object_get(rope, key));
    return ML_OK;
}

/* The length that a model was first trained for: at the top (phi3), beside the factors, or its
 * context. */
static int64_t original_context(const rope_source *from, const json_t *rope, const ml_model_spec *s)
{
    static const char key[] = "original_max_position_embeddings";
    const json_t *top = json_object_get(from->root, key), *own = json_object_get(rope, key);
    return is_there(top)   ? json_integer_value(top)
           : is_there(own) ? json_integer_value(own)
                           : s->context;
}

static ml_status read_llama3(const json_t *rope, ml_rope_scaling *r)
{
    ml_status st = need_real(rope, "factor", &r->factor);
    if (st == ML_OK) st = need_real(rope, "low_freq_factor", &r->low_freq_factor);
    if (st == ML_OK) st = need_real(rope, "high_freq_factor", &r->high_freq_factor);
    return st;
}

/* yarn's way from mscale and mscale_all_dim to the attention factor. */
static double yarn_magnitude(double factor, double scale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * scale * log(factor) + 1.0;
}

static void read_yarn(const json_t *rope, ml_rope_scaling *r)
{
    double scale = real_or(rope, "mscale", 0.0), all = real_or(rope, "mscale_all_dim", 0.0);
    const json_t *truncate = json_object_get(rope, "truncate");
    r->beta_fast = real_or(rope, "beta_fast", 0.0);
    r->beta_slow = real_or(rope, "beta_slow", 0.0);
    r->unrounded = json_is_false(truncate);
    if (r->attention_factor == 0.0 && scale != 0.0 && all != 0.0)
        r->attention_factor = yarn_magnitude(r->factor, scale) / yarn_magnitude(r->factor, all);
}

static ml_status read_factors(const json_t *rope, const char *key, int64_t pairs, float *out)
{
    const json_t *list = json_object_get(rope, key);
    if ((int64_t)json_array_size(list) != pairs || pairs > ML_ROPE_FACTORS)
        return ml_fail(ML_INPUT,
                       "rope_scaling: %s: expected a factor for each of the %" PRId64
                       " pairs of a head (at most %d), found %zu",
                       key, pairs, (int)ML_ROPE_FACTORS, json_array_size(list));
    for (int64_t i = 0; i < pairs; i++)
        out[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return ML_OK;
}

static ml_status find_kind(const rope_source *from, const json_t *rope, ml_rope_kind *kind)
{
    const json_t *value = json_object_get(rope, "rope_type");
    if (!is_there(value)) value = json_object_get(rope, "type");
    const char *word = value ? json_string_value(value) : "default";
    ml_text known = {0};
    if (from->keys->longrope_alone && (!strcmp(word, "su") || !strcmp(word, "yarn")))
        word = "longrope"; /* what phi3's first files call it */
    ml_status st = ML_OK;
    int found = ml_find_word(word, ml_rope_kind_words);
    *kind = (ml_rope_kind)ml_max(found, 0);
    if (found >= 0) return ML_OK;
    for (int i = 0; ml_rope_kind_words[i] && st == ML_OK; i++)
        st = ml_text_printf(&known, "%s%s", i ? ", " : "", ml_rope_kind_words[i]);
    if (st == ML_OK)
        st = ml_fail(ML_INPUT, "rope_scaling: type \"%s\" is not known; known are %s", word,
                     known.data);
    ml_text_destroy(&known);
    return st;
}

static ml_status read_scaling(const rope_source *from, const json_t *rope, const ml_model_spec *s,
                              ml_rope_scaling *r)
{
    ml_status st = ML_OK;
    *r = (ml_rope_scaling){0};
    ML_TRY(find_kind(from, rope, &r->kind));
    if (r->kind == ML_ROPE_DEFAULT) return ML_OK;
    if (r->kind >= ML_ROPE_LLAMA3) r->original_context = original_context(from, rope, s);
    if (r->kind >= ML_ROPE_YARN && r->original_context > 0) {
        r->factor = real_or(rope, "factor", (double)s->context / (double)r->original_context);
        r->attention_factor = real_or(rope, "attention_factor", 0.0);
    }
    if (r->kind == ML_ROPE_LINEAR || r->kind == ML_ROPE_DYNAMIC)
        return need_real(rope, "factor", &r->factor);
    if (r->kind == ML_ROPE_LLAMA3) return read_llama3(rope, r);
    if (r->kind == ML_ROPE_YARN) read_yarn(rope, r);
    if (r->kind != ML_ROPE_LONGROPE) return ML_OK;
    ML_TRY(read_factors(rope, "short_factor", ml_model_rope_width(s) / 2, r->short_factor));
    ML_TRY(read_factors(rope, "long_factor", ml_model_rope_width(s) / 2, r->long_factor));
done:
    return st;
}

/* As transformers has it: int(head_dim · partial_rotary_factor). */
static ml_status read_width(const rope_source *from, double part, ml_model_spec *s)
{
    if (part != 1.0 && !from->keys->part)
        return ml_fail(ML_INPUT, "partial_rotary_factor: %g: %s rotates whole heads", part,
                       s->family->title);
    if (!(part > 0.0 && part <= 1.0))
        return ml_fail(ML_INPUT, "%s: %g, expected more than 0, at most 1", from->keys->part, part);
    s->rope_width = part < 1.0 ? (int64_t)((double)s->head_dim * part) : 0;
    if (part < 1.0 && s->rope_width < 2)
        return ml_fail(ML_INPUT, "%s: %g of heads of %" PRId64 " turns nothing", from->keys->part,
                       part, s->head_dim);
    return ML_OK;
}

/* Layers without a rotation: a list of 1 and 0, or every so-manieth. */
static ml_status read_unrotated(const rope_source *from, ml_model_spec *s)
{
    const json_t *list = json_object_get(from->root, from->keys->layers),
                 *every = json_object_get(from->root, from->keys->every);
    int64_t step = is_there(every) ? json_integer_value(every) : from->keys->unrotated_every;
    if (s->layers > ML_LAYER_SET)
        return ml_fail(ML_INPUT, "%s: for at most %d layers", from->keys->layers,
                       (int)ML_LAYER_SET);
    if (is_there(list) && (int64_t)json_array_size(list) < s->layers)
        return ml_fail(ML_INPUT, "%s: expected a number for each of the %" PRId64 " layers",
                       from->keys->layers, s->layers);
    if (!is_there(list) && step < 1)
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least 1", from->keys->every, step);
    for (int64_t l = 0; l < s->layers; l++) {
        bool rotated = is_there(list) ? json_integer_value(json_array_get(list, (size_t)l)) != 0
                                      : (l + 1) % step != 0;
        if (!rotated) ml_layer_set_add(&s->unrotated_layers, l);
    }
    return ML_OK;
}

static double part_of_head(const ml_model_spec *s)
{
    return s->rope_width > 0 ? (double)s->rope_width / (double)s->head_dim : 1.0;
}

/* ---- reading ------------------------------------------------------------------------------- */

static bool is_by_layer(const json_t *parameters)
{
    return json_object_get(parameters, "full_attention") ||
           json_object_get(parameters, "sliding_attention");
}

/* Where layers with a window have a rope of their own. The scaling is that of the others. */
static ml_status read_local(const rope_source *from, const json_t *parameters, ml_model_spec *s)
{
    ml_rope_scaling scaling;
    const json_t *local = json_object_get(parameters, "sliding_attention");
    s->rope_local_theta =
        real_or(local, "rope_theta",
                real_or(from->root, from->keys->local_theta, s->family->defaults.rope_local_theta));
    ml_status st = read_scaling(from, local, s, &scaling);
    if (st == ML_OK && scaling.kind != ML_ROPE_DEFAULT)
        return ml_fail(ML_INPUT,
                       "rope_parameters.sliding_attention: type %s is not supported, "
                       "only default",
                       ml_rope_kind_words[scaling.kind]);
    return st;
}

/* What one set of parameters may say, else the top, where a family's own word counts: transformers
 * passes over the usual one there. Two that disagree are refused, so that none is. */
static ml_status read_top(const rope_source *from, const json_t *rope, const char *usual,
                          const char *own, double otherwise, double *out)
{
    double top = real_or(from->root, own ? own : usual, otherwise),
           passed_over = real_or(from->root, usual, top);
    *out = real_or(rope, usual, top);
    if (passed_over == top || is_there(json_object_get(rope, usual))) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %g, but %s reads %s, which is %g here; expected one value: remove %s or "
                   "make them equal",
                   usual, passed_over, from->family->title, own, top, usual);
}

ml_status hf_rope_read(const json_t *root, ml_model_spec *s)
{
    ml_status st = ML_OK;
    double part;
    const rope_source from = {root, s->family, &s->family->hf.rope};
    const json_t *scaling = json_object_get(root, "rope_scaling"),
                 *parameters = json_object_get(root, "rope_parameters"), *rope;
    bool by_layer = is_by_layer(parameters);
    if (is_there(parameters) && by_layer != (from.keys->local_theta != NULL))
        return ml_fail(ML_INPUT, "rope_parameters: %s has %s", s->family->title,
                       by_layer ? "one rope for all layers, not one for each type"
                                : "one for each type of layers: full_attention, sliding_attention");
    if (by_layer) parameters = json_object_get(parameters, "full_attention");
    rope = json_object_size(scaling) > 0 ? scaling : parameters;
    ML_TRY(read_top(&from, rope, "partial_rotary_factor", from.keys->part,
                    from.keys->default_part > 0.0 ? from.keys->default_part : 1.0, &part));
    ML_TRY(read_width(&from, part, s));
    if (from.keys->theta_required && !is_there(json_object_get(root, "rope_theta")) &&
        !is_there(json_object_get(rope, "rope_theta")))
        return ml_fail(ML_INPUT,
                       "rope_theta: missing; what %s assumes without it differs between "
                       "versions of transformers",
                       s->family->title);
    ML_TRY(read_top(&from, rope, "rope_theta", from.keys->theta, s->rope_theta, &s->rope_theta));
    ML_TRY(read_scaling(&from, rope, s, &s->rope_scaling));
    if (from.keys->local_theta)
        ML_TRY(read_local(&from, json_object_get(root, "rope_parameters"), s));
    if (from.keys->layers) ML_TRY(read_unrotated(&from, s));
done:
    return st;
}

/* ---- the keys that are read ---------------------------------------------------------------- */

enum {
    INTEGER = ML_JSON_INTEGER | ML_JSON_NULL,
    NUMBER = INTEGER | ML_JSON_REAL,
    FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL,
    LIST = ML_JSON_ARRAY | ML_JSON_NULL,
    NUMBERS = ML_JSON_INTEGER | ML_JSON_REAL
};

/* Behind each place where a set of parameters may stand. */
static const ml_json_key parameters[] = {
    {"", OBJECT},
    {".rope_theta", NUMBER},
    {".partial_rotary_factor", NUMBER},
    {".rope_type", ML_JSON_TEXT},
    {".type", ML_JSON_TEXT},
    {".factor", NUMBER},
    {".low_freq_factor", NUMBER},
    {".high_freq_factor", NUMBER},
    {".original_max_position_embeddings", INTEGER},
    {".attention_factor", NUMBER},
    {".mscale", NUMBER},
    {".mscale_all_dim", NUMBER},
    {".beta_fast", NUMBER},
    {".beta_slow", NUMBER},
    {".truncate", FLAG},
    {".short_factor", LIST},
    {".short_factor[]", NUMBERS},
    {".long_factor", LIST},
    {".long_factor[]", NUMBERS},
};

void hf_rope_keys(const ml_family *family, hf_config_keys *to)
{
    static const char *const places[] = {"rope_scaling", "rope_parameters",
                                         "rope_parameters.full_attention",
                                         "rope_parameters.sliding_attention"};
    hf_config_add_key(to, "", "rope_theta", NUMBER);
    hf_config_add_key(to, "", "partial_rotary_factor", NUMBER);
    hf_config_add_key(to, "", "original_max_position_embeddings", INTEGER);
    if (family->hf.rope.part) hf_config_add_key(to, "", family->hf.rope.part, NUMBER);
    if (family->hf.rope.theta) hf_config_add_key(to, "", family->hf.rope.theta, NUMBER);
    if (family->hf.rope.local_theta) hf_config_add_key(to, "", family->hf.rope.local_theta, NUMBER);
    if (family->hf.rope.layers) {
        hf_config_add_key(to, "", family->hf.rope.layers, LIST);
        hf_config_add_key(to, family->hf.rope.layers, "[]", ML_JSON_INTEGER);
        hf_config_add_key(to, "", family->hf.rope.every, INTEGER);
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (size_t j = 0; j < sizeof parameters / sizeof *parameters; j++)
            hf_config_add_key(to, places[i], parameters[j].path, parameters[j].kinds);
}

/* ---- writing ------------------------------------------------------------------------------- */

static json_t *factors_json(const float *factor, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        if (json_array_append_new(list, json_real((double)factor[i])) != 0) break;
    return list;
}

static int add(json_t *o, const char *key, double value)
{
    return json_object_set_new(o, key, json_real(value));
}

static json_t *rotated_json(const ml_model_spec *s)
{
    json_t *list = json_array();
    for (int64_t l = 0; l < s->layers; l++)
        if (json_array_append_new(list, json_integer(!ml_layer_set_has(&s->unrotated_layers, l))))
            break;
    return list;
}

static json_t *scaling_json(const ml_model_spec *s)
{
    const ml_rope_scaling *r = &s->rope_scaling;
    int64_t pairs = ml_model_rope_width(s) / 2;
    json_t *o = json_pack("{s:s}", "rope_type", ml_rope_kind_words[r->kind]);
    int failed = add(o, "factor", r->factor);
    if (r->kind == ML_ROPE_LLAMA3)
        failed |= add(o, "low_freq_factor", r->low_freq_factor) |
                  add(o, "high_freq_factor", r->high_freq_factor);
    if (r->kind >= ML_ROPE_LLAMA3)
        failed |= json_object_set_new(o, "original_max_position_embeddings",
                                      json_integer((json_int_t)r->original_context));
    if (r->attention_factor > 0.0) failed |= add(o, "attention_factor", r->attention_factor);
    if (r->beta_fast > 0.0) failed |= add(o, "beta_fast", r->beta_fast);
    if (r->beta_slow > 0.0) failed |= add(o, "beta_slow", r->beta_slow);
    if (r->unrounded) failed |= json_object_set_new(o, "truncate", json_false());
    if (r->kind == ML_ROPE_LONGROPE)
        failed |= json_object_set_new(o, "short_factor", factors_json(r->short_factor, pairs)) |
                  json_object_set_new(o, "long_factor", factors_json(r->long_factor, pairs));
    if (!failed) return o;
    json_decref(o);
    return NULL;
}

int hf_rope_write(json_t *o, const ml_model_spec *s)
{
    const ml_rope_keys *keys = &s->family->hf.rope;
    int failed = add(o, "rope_theta", s->rope_theta);
    double part = part_of_head(s);
    if ((int64_t)(part * (double)s->head_dim) < ml_model_rope_width(s)) part = nextafter(part, 1.0);
    if (keys->part) failed |= add(o, keys->part, part);
    if (keys->theta) failed |= add(o, keys->theta, s->rope_theta);
    if (keys->local_theta) failed |= add(o, keys->local_theta, s->rope_local_theta);
    if (keys->layers) failed |= json_object_set_new(o, keys->layers, rotated_json(s));
    if (s->rope_scaling.kind == ML_ROPE_DEFAULT) return failed;
    if (s->rope_scaling.kind == ML_ROPE_LONGROPE) /* where transformers 4 looks for it */
        failed |= json_object_set_new(o, "original_max_position_embeddings",
                                      json_integer((json_int_t)s->rope_scaling.original_context));
    return failed | json_object_set_new(o, "rope_scaling", scaling_json(s));
}
