/* A model specification as JSON text, and back. */
#include <jansson.h>
#include <stdlib.h>

#include "store/base/base_private.h"

static const char *const families[] = {"gpt2", "llama"};
static const char *const activations[] = {"gelu_tanh", "gelu_erf", "relu", "silu"};
enum { FAMILIES = 2, ACTIVATIONS = 4 };

ml_status base_spec_to_json(const ml_model_spec *s, ml_text *out)
{
    json_t *o = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:{s:f, s:f, s:f, s:I}, s:b, "
        "s:b, s:b, s:b}",
        "family", families[s->family], "layers", (json_int_t)s->layers, "width",
        (json_int_t)s->width, "mlp_width", (json_int_t)s->mlp_width, "heads", (json_int_t)s->heads,
        "kv_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim, "vocab",
        (json_int_t)s->vocab, "context", (json_int_t)s->context, "activation",
        activations[s->activation], "norm_eps", s->norm_eps, "rope_theta", s->rope_theta,
        "rope_scaling", "factor", s->rope_scaling.factor, "low_freq_factor",
        s->rope_scaling.low_freq_factor, "high_freq_factor", s->rope_scaling.high_freq_factor,
        "original_context", (json_int_t)s->rope_scaling.original_context, "tied_head",
        (int)s->tied_head, "qkv_bias", (int)s->qkv_bias, "o_bias", (int)s->o_bias, "mlp_bias",
        (int)s->mlp_bias);
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "the model's description: out of memory");
    ml_status st = ml_text_printf(out, "%s", text);
    free(text);
    return st;
}

static int find_word(const char *word, const char *const *words, int n)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(words[i], word)) return i;
    return -1;
}

static ml_status unpack(json_t *o, ml_model_spec *s)
{
    json_error_t error;
    const char *family, *activation;
    int tied, qkv, out, mlp;
    json_int_t n[8], context;
    if (json_unpack_ex(
            o, &error, JSON_STRICT,
            "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:F, s:F, s:{s:F, s:F, s:F, s:I}, "
            "s:b, s:b, s:b, s:b}",
            "family", &family, "layers", &n[0], "width", &n[1], "mlp_width", &n[2], "heads", &n[3],
            "kv_heads", &n[4], "head_dim", &n[5], "vocab", &n[6], "context", &n[7], "activation",
            &activation, "norm_eps", &s->norm_eps, "rope_theta", &s->rope_theta, "rope_scaling",
            "factor", &s->rope_scaling.factor, "low_freq_factor", &s->rope_scaling.low_freq_factor,
            "high_freq_factor", &s->rope_scaling.high_freq_factor, "original_context", &context,
            "tied_head", &tied, "qkv_bias", &qkv, "o_bias", &out, "mlp_bias", &mlp))
        return ml_fail(ML_INPUT, "architecture: %s", error.text);
    int f = find_word(family, families, FAMILIES),
        a = find_word(activation, activations, ACTIVATIONS);
    if (f < 0) return ml_fail(ML_INPUT, "architecture: family \"%s\" is not known", family);
    if (a < 0) return ml_fail(ML_INPUT, "architecture: activation \"%s\" is not known", activation);
    s->family = (ml_family)f;
    s->activation = (ml_activation)a;
    int64_t *const sizes[] = {&s->layers,   &s->width,    &s->mlp_width, &s->heads,
                              &s->kv_heads, &s->head_dim, &s->vocab,     &s->context};
    for (int i = 0; i < 8; i++) *sizes[i] = n[i];
    s->rope_scaling.original_context = context;
    s->tied_head = tied;
    s->qkv_bias = qkv;
    s->o_bias = out;
    s->mlp_bias = mlp;
    return ml_model_spec_check(s, ML_INPUT);
}

ml_status base_spec_from_json(const char *json, ml_model_spec *out)
{
    json_error_t error;
    json_t *o = json_loads(json, JSON_REJECT_DUPLICATES, &error);
    if (!o) return ml_fail(ML_INPUT, "architecture: not JSON: %s", error.text);
    *out = (ml_model_spec){0};
    ml_status st = unpack(o, out);
    json_decref(o);
    return st;
}
