/* config.json of a model, written by the keys of the family's table: what config.c reads. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "store/base/base_private.h"
#include "store/formats/huggingface/config_values.h"

/* ---- the family's keys --------------------------------------------------------------------- */

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
        return json_string(hf_activation_word(s, *(const ml_activation *)at));
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

/* What is written is read back: a width, an epsilon or a bias for which the family has no key, or
 * one with others, would come back as another one. The tensors say the rest. */
static ml_status check_readable(const json_t *o, const ml_model_spec *s)
{
    ml_model_spec read;
    ml_text differs = {0};
    ml_status st = hf_config_parse(o, "config.json", &read, NULL);
    if (st != ML_OK) return st;
    read.tied_head = s->tied_head;
    read.pool = s->pool;
    read.transform = s->transform;
    read.legacy_head = s->legacy_head;
    st = base_spec_compare(s, &read, &differs);
    if (st == ML_OK && differs.length)
        st = ml_fail(ML_INPUT, "config.json cannot say what this %s model is: %s", s->family->title,
                     differs.data);
    ml_text_destroy(&differs);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

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
    if (hf->windows.size) failed |= hf_windows_write(o, s);
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
    ml_status checked = ML_OK;
    json_t *o = spec_json(spec);
    if (o)
        json_object_set_new(o, "torch_dtype",
                            json_string(dtype == ML_BF16 ? "bfloat16" : "float32"));
    if (o && end_of_text >= 0) json_object_set_new(o, "eos_token_id", json_integer(end_of_text));
    if (o) checked = check_readable(o, spec);
    if (o && source && checked == ML_OK) checked = copy_token_ids(o, source, spec->labels);
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
