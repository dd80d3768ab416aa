/* config.json of Hugging Face, as transformers 4 and 5 write it, read by the keys of the family's
 * table; config_write.c writes it. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "mpilora/labels.h"
#include "store/formats/huggingface/config_values.h"

/* ---- the family's keys --------------------------------------------------------------------- */

static ml_status check_off(const json_t *o, const char *name)
{
    const json_t *value = json_object_get(o, name);
    if (!value || json_is_null(value) || json_is_false(value)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: this changes what the model computes and is not supported", name);
}

static ml_status check_on(const json_t *o, const char *name)
{
    if (hf_get_bool(o, name, true)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: false changes what the model computes and is not supported",
                   name);
}

static ml_status get_size(const json_t *o, const ml_family_key *k, int64_t *out)
{
    ml_status st = hf_get_int(o, k->key, k->required ? NULL : out, out);
    const json_t *value = json_object_get(o, k->key);
    if (st == ML_OK && json_is_integer(value) && *out < (k->kind == ML_KEY_SIZE))
        return ml_fail(ML_INPUT, "%s: %" PRId64 ", expected at least %d", k->key, *out,
                       k->kind == ML_KEY_SIZE);
    return st;
}

static ml_status get_cap(const json_t *o, const char *name, double *out)
{
    if (!json_is_null(json_object_get(o, name))) return hf_get_real(o, name, out, out);
    *out = 0.0;
    return ML_OK;
}

/* 1/x, or 1/√x. */
static ml_status get_inverse(const json_t *o, const ml_family_key *k, double *out)
{
    double value = 0.0;
    if (!k->required && !json_object_get(o, k->key)) return ML_OK;
    ml_status st = hf_get_real(o, k->key, NULL, &value);
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
    if (k->when && !hf_get_bool(o, k->when, false)) return ML_OK;
    switch (k->kind) {
    case ML_KEY_SIZE:
    case ML_KEY_COUNT:
        if (k->when) *(int64_t *)at = 0; /* follows from other sizes where it is not there */
        return get_size(o, k, at);
    case ML_KEY_REAL:
        return hf_get_real(o, k->key, k->required ? NULL : at, at);
    case ML_KEY_FLAG:
        *(bool *)at = hf_get_bool(o, k->key, *(bool *)at);
        return ML_OK;
    case ML_KEY_ACTIVATION:
    case ML_KEY_GELU:
        return hf_get_activation(o, k->key, k->kind == ML_KEY_GELU, at);
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
        *(int64_t *)at = hf_get_bool(o, k->key, *(int64_t *)at == 1) ? 1 : 0;
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
    ML_TRY(hf_windows_read(o, &family->hf.windows, s));
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

ml_status hf_config_parse(const json_t *root, const char *path, ml_model_spec *out,
                          packed_config *packed)
{
    static const ml_json_key type_keys[] = {
        {"model_type", ML_JSON_TEXT}, {"is_causal", ML_JSON_FLAG | ML_JSON_NULL}, {NULL, 0}};
    const ml_family *family = NULL;
    *out = (ml_model_spec){0};
    const char *word = json_string_value(json_object_get(root, "model_type"));
    for (const ml_family *const *f = ml_families(); *f && word; f++)
        if (!strcmp((*f)->hf.model_type, word)) family = *f;
    ml_status st = ml_json_check(root, type_keys);
    if (st == ML_OK) st = family ? read_family(root, path, family, out) : unknown_type(word);
    if (st == ML_OK) st = read_packed(root, packed);
    return st == ML_OK ? st : ml_fail_within(st, "%s", path);
}

ml_status hf_config_read(const char *path, ml_model_spec *out, packed_config *packed)
{
    json_t *root = NULL;
    ml_status st = ml_json_read_file(&root, path, false);
    if (st == ML_OK) st = hf_config_parse(root, path, out, packed);
    json_decref(root);
    return st;
}
