/* config.json of Hugging Face, as transformers 4 and 5 write it, read and written by the keys of
 * the family's table. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/family.h"
#include "mpilora/labels.h"
#include "store/formats/huggingface/huggingface.h"

/* ---- single values ------------------------------------------------------------------------- */

static ml_status get_int(const json_t *o, const char *name, const int64_t *otherwise, int64_t *out)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value)) {
        if (!otherwise) return ml_fail(ML_INPUT, "%s: missing", name);
        *out = *otherwise;
        return ML_OK;
    }
    *out = json_integer_value(value);
    return ML_OK;
}

static ml_status get_real(const json_t *o, const char *name, const double *otherwise, double *out)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value)) {
        if (!otherwise) return ml_fail(ML_INPUT, "%s: missing", name);
        *out = *otherwise;
        return ML_OK;
    }
    *out = json_number_value(value);
    return ML_OK;
}

static bool get_bool(const json_t *o, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(o, name);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

/* Words for the activations; the first of each is what is written, but for GELU's approximation,
 * which the family names. */
static const struct {
    const char *word;
    ml_activation activation;
} activation_words[] = {{"gelu_new", ML_GELU_TANH},  {"gelu_pytorch_tanh", ML_GELU_TANH},
                        {"gelu_fast", ML_GELU_TANH}, {"gelu", ML_GELU_ERF},
                        {"relu", ML_RELU},           {"silu", ML_SILU},
                        {"swish", ML_SILU},          {"tanh", ML_TANH}};
enum { ACTIVATION_WORDS = sizeof activation_words / sizeof *activation_words };

/* `gelu`: every GELU is that with tanh, whatever the file says. */
static ml_status get_activation(const json_t *o, const char *name, bool gelu, ml_activation *out)
{
    const json_t *value = json_object_get(o, name);
    if (!value) return ML_OK;
    const char *word = json_string_value(value);
    for (int i = 0; i < ACTIVATION_WORDS; i++) {
        if (strcmp(activation_words[i].word, word) != 0) continue;
        *out = activation_words[i].activation;
        if (gelu && *out == ML_GELU_ERF) *out = ML_GELU_TANH;
        return ML_OK;
    }
    return ml_fail(
        ML_INPUT,
        "%s: \"%s\" is not known; known are gelu_new, gelu_pytorch_tanh, gelu, relu, silu, tanh",
        name, word);
}

/* ---- the family's keys --------------------------------------------------------------------- */

static ml_status check_off(const json_t *o, const char *name)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value) || json_is_false(value)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: this changes what the model computes and is not supported", name);
}

static ml_status check_on(const json_t *o, const char *name)
{
    if (get_bool(o, name, true)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: false changes what the model computes and is not supported",
                   name);
}

static ml_status get_size(const json_t *o, const ml_family_key *k, int64_t *out)
{
    ml_status st = get_int(o, k->key, k->required ? NULL : out, out);
    const json_t *value = json_object_get(o, k->key);
    if (st == ML_OK && json_is_integer(value) && *out < (k->kind == ML_KEY_SIZE))
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least %d", k->key, *out,
                       k->kind == ML_KEY_SIZE);
    return st;
}

static ml_status get_cap(const json_t *o, const char *name, double *out)
{
    if (!json_is_null(json_object_get(o, name))) return get_real(o, name, out, out);
    *out = 0.0;
    return ML_OK;
}

/* 1/x, or 1/√x. */
static ml_status get_inverse(const json_t *o, const ml_family_key *k, double *out)
{
    double value = 0.0;
    if (!k->required && !json_object_get(o, k->key)) return ML_OK;
    ml_status st = get_real(o, k->key, NULL, &value);
    if (st == ML_OK && !(value > 0.0))
        return ml_fail(ML_INPUT, "%s: %g, expected more than 0", k->key, value);
    if (st == ML_OK) *out = 1.0 / (k->kind == ML_KEY_ROOT ? sqrt(value) : value);
    return st;
}

static ml_status check_absolute(const json_t *o, const char *name)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value) || !strcmp(json_string_value(value), "absolute"))
        return ML_OK;
    return ml_fail(ML_INPUT, "%s: \"%.40s\" is not supported, only \"absolute\"", name,
                   json_string_value(value));
}

/* The positions that a table of so many rows has behind those that stand for no position. */
static ml_status get_places(const json_t *o, const ml_family_key *k, ml_model_spec *s)
{
    ml_status st = get_size(o, k, &s->context);
    if (st != ML_OK) return st;
    s->context -= s->position_offset;
    if (s->context >= 1) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %" PRId64 ", expected more than the %" PRId64
                   " rows before the first position (pad_token_id and one)",
                   k->key, s->context + s->position_offset, s->position_offset);
}

static ml_status get_next(const json_t *o, const ml_family_key *k, int64_t *out)
{
    int64_t said = *out - 1;
    ml_status st = get_size(o, k, &said);
    *out = said + 1;
    return st;
}

/* true, or 1 of a number, chooses `yes`. */
static void get_choice(const json_t *o, const ml_family_key *k, int *out)
{
    const json_t *value = json_object_get(o, k->key);
    if (!value || json_is_null(value)) return;
    bool yes = k->kind == ML_KEY_ONE ? json_integer_value(value) == 1 : json_is_true(value);
    int chosen = yes ? k->yes : k->no;
    if (chosen != ML_KEY_LEAVE) *out = chosen;
}

static ml_status get_pooling(const json_t *o, const char *name, bool *mean)
{
    const char *word = json_string_value(json_object_get(o, name));
    if (!word) return ML_OK;
    *mean = !strcmp(word, "mean");
    return *mean || !strcmp(word, "cls")
               ? ML_OK
               : ml_fail(ML_INPUT, "%s: \"%.40s\" is not known; known are cls, mean", name, word);
}

static ml_status read_key(const json_t *o, const ml_family_key *k, ml_model_spec *s)
{
    void *at = (char *)s + k->field;
    if (k->when && !get_bool(o, k->when, false)) return ML_OK;
    switch (k->kind) {
    case ML_KEY_SIZE:
    case ML_KEY_COUNT:
        if (k->when) *(int64_t *)at = 0; /* follows from other sizes where it is not there */
        return get_size(o, k, at);
    case ML_KEY_REAL:
        return get_real(o, k->key, k->required ? NULL : at, at);
    case ML_KEY_FLAG:
        *(bool *)at = get_bool(o, k->key, *(bool *)at);
        return ML_OK;
    case ML_KEY_ACTIVATION:
    case ML_KEY_GELU:
        return get_activation(o, k->key, k->kind == ML_KEY_GELU, at);
    case ML_KEY_CAP:
        return get_cap(o, k->key, at);
    case ML_KEY_INVERSE:
    case ML_KEY_ROOT:
        return get_inverse(o, k, at);
    case ML_KEY_CHOICE:
    case ML_KEY_GROUPED:
    case ML_KEY_ONE:
        get_choice(o, k, at);
        return ML_OK;
    case ML_KEY_SINGLE:
        *(int64_t *)at = get_bool(o, k->key, *(int64_t *)at == 1) ? 1 : 0;
        return ML_OK;
    case ML_KEY_OFF:
        return check_off(o, k->key);
    case ML_KEY_ON:
        return check_on(o, k->key);
    case ML_KEY_NEXT:
        return get_next(o, k, at);
    case ML_KEY_PLACES:
        return get_places(o, k, s);
    case ML_KEY_ABSOLUTE:
        return check_absolute(o, k->key);
    case ML_KEY_IDLE:
        return ML_OK;
    case ML_KEY_POOLING:
        return get_pooling(o, k->key, at);
    case ML_KEY_SOLE:
    case ML_KEY_TERMS:
    case ML_KEY_RELATIVE:
    case ML_KEY_NORMED:
    case ML_KEY_BUCKETS:
    case ML_KEY_DISTANCES:
    case ML_KEY_CONV:
        return hf_relative_read(o, k, s);
    }
    return ML_OK;
}

/* ---- windows ------------------------------------------------------------------------------- */

static ml_status read_layer_types(const json_t *types, const char *name, ml_model_spec *s)
{
    if ((int64_t)json_array_size(types) != s->layers)
        return ml_fail(ML_INPUT, "%s: expected a word for each of the %" PRId64 " layers", name,
                       s->layers);
    for (int64_t l = 0; l < s->layers; l++) {
        const char *word = json_string_value(json_array_get(types, (size_t)l));
        bool full = !strcmp(word, "full_attention");
        if (!full && strcmp(word, "sliding_attention") != 0)
            return ml_fail(ML_INPUT,
                           "%s: \"%s\" is not known; known are full_attention, sliding_attention",
                           name, word);
        if (!full && s->window == 0)
            return ml_fail(ML_INPUT, "%s: layer %" PRId64 " has a window, but none is given", name,
                           l);
        if (full && s->window > 0) ml_layer_set_add(&s->full_layers, l);
    }
    return ML_OK;
}

/* Which layers have none, where no list of words says it. */
static ml_status read_full_layers(const json_t *o, const ml_window_keys *keys, ml_model_spec *s)
{
    ml_status st = ML_OK;
    int64_t first = 0, every = keys->full_every;
    if (keys->first_layer)
        ML_TRY(get_int(o, keys->first_layer, &keys->default_first_layer, &first));
    if (keys->every) ML_TRY(get_int(o, keys->every, &keys->full_every, &every));
    if (every < 0)
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least 1", keys->every, every);
    for (int64_t l = 0; l < ml_min(s->layers, ML_LAYER_SET); l++)
        if (l < first || (every > 0 && (l + !keys->first_full) % every == 0) ||
            (keys->unrotated && !ml_layer_set_has(&s->unrotated_layers, l)))
            ml_layer_set_add(&s->full_layers, l);
done:
    return st;
}

static ml_status read_windows(const json_t *o, const ml_window_keys *keys, ml_model_spec *s)
{
    ml_status st = ML_OK;
    const json_t *size = keys->size ? json_object_get(o, keys->size) : NULL;
    if (!keys->size) return ML_OK;
    bool on = keys->on ? get_bool(o, keys->on, false) : true;
    if (on && !json_is_null(size)) ML_TRY(get_int(o, keys->size, &keys->default_size, &s->window));
    if (s->window < 0)
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least 1, or null", keys->size,
                       s->window);
    const json_t *types = keys->types ? json_object_get(o, keys->types) : NULL;
    bool by_layer = keys->types || keys->first_layer;
    if (by_layer && s->window > 0 && s->layers > ML_LAYER_SET)
        return ml_fail(ML_INPUT, "%s: for at most %d layers", keys->size, (int)ML_LAYER_SET);
    if (types && !json_is_null(types)) return read_layer_types(types, keys->types, s);
    return s->window > 0 && by_layer ? read_full_layers(o, keys, s) : ML_OK;
done:
    return st;
}

/* ---- a head for labels --------------------------------------------------------------------- */

/* Two are left unsaid. */
static ml_status count_labels(const json_t *o, int64_t *labels)
{
    const json_t *names;
    ml_status st = ml_labels_of_config(o, labels, &names);
    if (st == ML_OK && *labels == 0) *labels = 2;
    return st;
}

static ml_status read_head(const json_t *o, ml_model_spec *s)
{
    const json_t *classes = json_object_get(o, "architectures");
    char own[96];
    for (ml_head_kind kind = ML_HEAD_SEQUENCE; kind <= ML_HEAD_TOKENS; kind++) {
        if (!ml_family_scores(s->family, kind)) continue;
        const ml_model_spec scoring = {.family = s->family, .head = kind};
        ml_family_class(&scoring, own, sizeof own);
        for (size_t i = 0; i < json_array_size(classes); i++) {
            const char *class = json_string_value(json_array_get(classes, i));
            if (!class || strcmp(class, own) != 0) continue;
            s->head = kind;
            return count_labels(o, &s->labels);
        }
    }
    return ML_OK;
}

/* As transformers writes them; it leaves two labels without names unsaid. */
static int add_labels(json_t *o, const ml_model_spec *s)
{
    json_t *names = json_object(), *numbers = json_object();
    int failed = 0;
    for (int64_t i = 0; i < s->labels; i++) {
        char number[24], name[32];
        snprintf(number, sizeof number, "%" PRId64, i);
        snprintf(name, sizeof name, "LABEL_%" PRId64, i);
        failed |= json_object_set_new(names, number, json_string(name));
        failed |= json_object_set_new(numbers, name, json_integer((json_int_t)i));
    }
    failed |= json_object_set_new(o, "id2label", names);
    return failed | json_object_set_new(o, "label2id", numbers);
}

/* ---- reading ------------------------------------------------------------------------------- */

static ml_status read_family(const json_t *o, const char *path, const ml_family *family,
                             ml_model_spec *s)
{
    ml_status st = ML_OK;
    hf_config_keys kinds;
    ML_TRY(hf_config_keys_of(family, &kinds));
    ML_TRY(ml_json_check(o, kinds.keys));
    *s = family->defaults;
    if (!s->both_ways)
        ML_TRY(check_on(o, "is_causal")); /* false makes transformers 5 attend both ways */
    for (const ml_family_key *k = family->hf.keys; k->key; k++) ML_TRY(read_key(o, k, s));
    ml_model_spec_complete(s);
    if (s->positions == ML_POSITIONS_ROTARY && !family->hf.rope.fixed) ML_TRY(hf_rope_read(o, s));
    ML_TRY(read_windows(o, &family->hf.windows, s));
    ML_TRY(read_head(o, s));
    st = ml_model_spec_check(s, ML_INPUT);
    if (st == ML_OK) hf_config_warn_of_unread(o, family, &kinds, path);
done:
    return st;
}

static ml_status unknown_type(const char *word)
{
    ml_text known = {0};
    ml_status st = ML_OK;
    for (const ml_family *const *f = ml_families(); *f && st == ML_OK; f++)
        st = ml_text_printf(&known, "%s%s", f == ml_families() ? "" : ", ", (*f)->hf.model_type);
    if (st == ML_OK)
        st = ml_fail(ML_INPUT, "model_type: \"%s\" is not supported, only %s",
                     word ? word : "(missing)", known.data);
    ml_text_destroy(&known);
    return st;
}

/* quantization_config, of any family. */
static ml_status read_packed(const json_t *root, packed_config *out)
{
    return out ? packed_config_read(json_object_get(root, "quantization_config"), out)
               : check_off(root, "quantization_config");
}

ml_status hf_config_read(const char *path, ml_model_spec *out, packed_config *packed)
{
    static const ml_json_key type_keys[] = {
        {"model_type", ML_JSON_TEXT}, {"is_causal", ML_JSON_FLAG | ML_JSON_NULL}, {NULL, 0}};
    ml_status st = ML_OK;
    json_t *root = NULL;
    const ml_family *family = NULL;
    *out = (ml_model_spec){0};
    ML_TRY(ml_json_read_file(&root, path, false));
    const char *word = json_string_value(json_object_get(root, "model_type"));
    for (const ml_family *const *f = ml_families(); *f && word; f++)
        if (!strcmp((*f)->hf.model_type, word)) family = *f;
    st = ml_json_check(root, type_keys);
    if (st == ML_OK) st = family ? read_family(root, path, family, out) : unknown_type(word);
    if (st == ML_OK) st = read_packed(root, packed);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path);
done:
    json_decref(root);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

static const char *activation_word(const ml_model_spec *s, ml_activation activation)
{
    if (activation == ML_GELU_TANH) return s->family->hf.gelu_tanh;
    int i = 0;
    while (activation_words[i].activation != activation) i++;
    return activation_words[i].word;
}

/* A whole number where rounding alone keeps it from being one: transformers wants it whole. */
static json_t *inverse_json(ml_key_kind kind, double value)
{
    double said = kind == ML_KEY_ROOT ? 1.0 / (value * value) : 1.0 / value, whole = round(said);
    if (fabs(said - whole) <= 1e-12 * said) return json_integer((json_int_t)whole);
    return json_real(said);
}

/* Of what the model computes; the other kinds are only looked at. */
static bool says_something(ml_key_kind kind)
{
    return kind != ML_KEY_OFF && kind != ML_KEY_ON && kind != ML_KEY_ABSOLUTE &&
           kind != ML_KEY_IDLE && kind != ML_KEY_SOLE;
}

static json_t *key_json(const ml_model_spec *s, const ml_family_key *k)
{
    const void *at = (const char *)s + k->field;
    switch (k->kind) {
    case ML_KEY_SIZE:
    case ML_KEY_COUNT:
        return json_integer((json_int_t) * (const int64_t *)at);
    case ML_KEY_REAL:
        return json_real(*(const double *)at);
    case ML_KEY_FLAG:
        return json_boolean(*(const bool *)at);
    case ML_KEY_ACTIVATION:
    case ML_KEY_GELU:
        return json_string(activation_word(s, *(const ml_activation *)at));
    case ML_KEY_CAP:
        return *(const double *)at > 0.0 ? json_real(*(const double *)at) : json_null();
    case ML_KEY_INVERSE:
    case ML_KEY_ROOT:
        return inverse_json(k->kind, *(const double *)at);
    case ML_KEY_CHOICE:
        return json_boolean(k->no == ML_KEY_LEAVE ? *(const int *)at == k->yes
                                                  : *(const int *)at != k->no);
    case ML_KEY_GROUPED:
        return json_boolean(*(const int *)at == k->yes ||
                            (s->kv_heads > 1 && s->kv_heads < s->heads));
    case ML_KEY_ONE:
        return json_integer(*(const int *)at == k->yes ? 1 : 2);
    case ML_KEY_SINGLE:
        return json_boolean(*(const int64_t *)at == 1);
    case ML_KEY_NEXT:
        return json_integer((json_int_t)(*(const int64_t *)at - 1));
    case ML_KEY_POOLING:
        return json_string(*(const bool *)at ? "mean" : "cls");
    case ML_KEY_PLACES:
        return json_integer((json_int_t)(s->context + s->position_offset));
    case ML_KEY_OFF:
    case ML_KEY_ON:
    case ML_KEY_ABSOLUTE:
    case ML_KEY_IDLE:
    case ML_KEY_SOLE:
        return NULL;
    case ML_KEY_TERMS:
    case ML_KEY_RELATIVE:
    case ML_KEY_NORMED:
    case ML_KEY_BUCKETS:
    case ML_KEY_DISTANCES:
    case ML_KEY_CONV:
        return hf_relative_json(s, k);
    }
    return NULL;
}

static const ml_family_key *key_of(const ml_family *family, size_t field)
{
    for (const ml_family_key *k = family->hf.keys; k->key; k++)
        if (k->field == field && says_something(k->kind)) return k;
    return NULL;
}

/* A bias that no key of the family says, or two that one key cannot say apart. */
static ml_status check_biases(const ml_model_spec *s)
{
    static const struct {
        const char *where;
        size_t field;
    } flags[] = {{"q, k and v", offsetof(ml_model_spec, qkv_bias)},
                 {"o", offsetof(ml_model_spec, o_bias)},
                 {"the MLP", offsetof(ml_model_spec, mlp_bias)}};
    enum { FLAGS = sizeof flags / sizeof *flags };
    for (int i = 0; i < FLAGS; i++) {
        const ml_family_key *k = key_of(s->family, flags[i].field);
        bool on = *(const bool *)((const char *)s + flags[i].field),
             own = *(const bool *)((const char *)&s->family->defaults + flags[i].field);
        if (!k && on != own)
            return ml_fail(ML_INPUT,
                           "biases on %s: config.json has no key for them in the %s family",
                           flags[i].where, s->family->title);
        for (int j = 0; k && j < i; j++) {
            const ml_family_key *other = key_of(s->family, flags[j].field);
            bool there = *(const bool *)((const char *)s + flags[j].field);
            if (other && !strcmp(other->key, k->key) && there != on)
                return ml_fail(
                    ML_INPUT, "biases on %s alone: %s of config.json stands for %s and %s",
                    on ? flags[i].where : flags[j].where, k->key, flags[j].where, flags[i].where);
        }
    }
    return ML_OK;
}

/* layer_types says more than first_layer can, and every reader that knows it heeds it. */
static int add_windows(json_t *o, const ml_model_spec *s)
{
    const ml_window_keys *keys = &s->family->hf.windows;
    int failed = json_object_set_new(o, keys->size,
                                     s->window ? json_integer((json_int_t)s->window) : json_null());
    if (keys->on) failed |= json_object_set_new(o, keys->on, json_boolean(s->window > 0));
    int64_t full = 0;
    json_t *types = json_array();
    for (int64_t l = 0; l < ml_min(s->layers, ML_LAYER_SET); l++) {
        bool is_full = !ml_model_is_sliding(s, l);
        if (is_full && full == l) full++;
        failed |= json_array_append_new(
            types, json_string(is_full ? "full_attention" : "sliding_attention"));
    }
    if (keys->first_layer)
        failed |= json_object_set_new(o, keys->first_layer, json_integer((json_int_t)full));
    if (keys->types) return failed | json_object_set_new(o, keys->types, types);
    json_decref(types);
    return failed;
}

static json_t *spec_json(const ml_model_spec *s)
{
    const ml_family_huggingface *hf = &s->family->hf;
    char class[96];
    ml_family_class(s, class, sizeof class);
    json_t *o = json_pack("{s:s, s:[s]}", "model_type", hf->model_type, "architectures", class);
    int failed = 0;
    for (const ml_family_key *k = hf->keys; k->key; k++) {
        /* a size that follows from others is left out: DeBERTa's embedding_size may not be null */
        bool follows =
            k->kind == ML_KEY_SIZE && *(const int64_t *)((const char *)s + k->field) == 0;
        if (says_something(k->kind) && !follows)
            failed |= json_object_set_new(o, k->key, key_json(s, k));
    }
    if (s->positions == ML_POSITIONS_ROTARY && !hf->rope.fixed) failed |= hf_rope_write(o, s);
    if (hf->windows.size) failed |= add_windows(o, s);
    if (s->head != ML_HEAD_LANGUAGE) failed |= add_labels(o, s);
    if (!failed) return o;
    json_decref(o);
    return NULL;
}

/* The special tokens that the model's own configuration named, one or several each, and the names
 * of as many labels. */
static ml_status copy_token_ids(json_t *o, const ml_text *source, int64_t labels)
{
    static const char *const keys[] = {"bos_token_id",           "eos_token_id", "pad_token_id",
                                       "decoder_start_token_id", "id2label",     "label2id"};
    enum { KEYS = sizeof keys / sizeof *keys, WITHOUT_LABELS = KEYS - 2 };
    json_t *root = NULL;
    ml_status st = ml_json_read(&root, "config.json", source->data, source->length);
    bool named = labels > 0 &&
                 (int64_t)json_object_size(json_object_get(root, "id2label")) == labels &&
                 (int64_t)json_object_size(json_object_get(root, "label2id")) == labels;
    for (int i = 0; st == ML_OK && i < (named ? KEYS : WITHOUT_LABELS); i++) {
        json_t *value = json_object_get(root, keys[i]);
        if (value && json_object_set(o, keys[i], value))
            st = ml_fail(ML_RESOURCE, "config.json: out of memory");
    }
    json_decref(root);
    return st;
}

ml_status hf_config_write(const ml_model_spec *spec, ml_dtype dtype, int32_t end_of_text,
                          const ml_text *source, ml_text *out)
{
    ml_status checked = check_biases(spec);
    if (checked != ML_OK) return checked;
    json_t *o = spec_json(spec);
    if (o)
        json_object_set_new(o, "torch_dtype",
                            json_string(dtype == ML_BF16 ? "bfloat16" : "float32"));
    if (o && end_of_text >= 0) json_object_set_new(o, "eos_token_id", json_integer(end_of_text));
    if (o && source) checked = copy_token_ids(o, source, spec->labels);
    if (checked != ML_OK) {
        json_decref(o);
        return checked;
    }
    char *text = o ? ml_json_dump(o, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "config.json: out of memory");
    ml_status st = ml_text_printf(out, "%s\n", text);
    free(text);
    return st;
}
