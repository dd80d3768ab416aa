/* config.json of Hugging Face, as transformers 4 and 5 write it. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "io/json.h"
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
    if (!json_is_integer(value)) return ml_fail(ML_INPUT, "%s: expected a whole number", name);
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
    if (!json_is_number(value)) return ml_fail(ML_INPUT, "%s: expected a number", name);
    *out = json_number_value(value);
    return ML_OK;
}

static ml_status get_bool(const json_t *o, const char *name, bool otherwise, bool *out)
{
    const json_t *value = json_object_get(o, name);
    *out = value && !json_is_null(value) ? json_is_true(value) : otherwise;
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return ml_fail(ML_INPUT, "%s: expected true or false", name);
    return ML_OK;
}

static ml_status get_activation(const json_t *o, const char *name, const char *otherwise,
                                ml_activation *out)
{
    static const struct {
        const char *word;
        ml_activation activation;
    } table[] = {{"gelu_new", ML_GELU_TANH},  {"gelu_pytorch_tanh", ML_GELU_TANH},
                 {"gelu_fast", ML_GELU_TANH}, {"gelu", ML_GELU_ERF},
                 {"relu", ML_RELU},           {"silu", ML_SILU},
                 {"swish", ML_SILU}};
    const json_t *value = json_object_get(o, name);
    const char *word = value ? json_string_value(value) : otherwise;
    for (size_t i = 0; word && i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].word, word) != 0) continue;
        *out = table[i].activation;
        return ML_OK;
    }
    return ml_fail(
        ML_INPUT,
        "%s: \"%s\" is not known; known are gelu_new, gelu_pytorch_tanh, gelu, relu, silu", name,
        word ? word : "(not a text)");
}

/* Keys that must be absent, null or false here, since they change what the model computes. */
static ml_status refuse(const json_t *o, const char *const *names)
{
    for (; *names; names++) {
        const json_t *value = json_object_get(o, *names);
        if (value && !json_is_null(value) && !json_is_false(value))
            return ml_fail(ML_INPUT,
                           "%s: this changes what the model computes and is not supported", *names);
    }
    return ML_OK;
}

/* ---- families ------------------------------------------------------------------------------ */

static ml_status read_gpt2(const json_t *o, ml_model_spec *s)
{
    static const char *const refused[] = {"scale_attn_by_inverse_layer_idx", "add_cross_attention",
                                          "quantization_config", NULL};
    ml_status st = ML_OK;
    const double eps = 1e-5;
    const int64_t n_ctx = 1024;
    bool scale;
    int64_t wide;
    ML_TRY(refuse(o, refused));
    ML_TRY(get_bool(o, "scale_attn_weights", true, &scale));
    if (!scale)
        return ml_fail(
            ML_INPUT,
            "scale_attn_weights: false changes what the model computes and is not supported");
    ML_TRY(get_int(o, "n_layer", NULL, &s->layers));
    ML_TRY(get_int(o, "n_embd", NULL, &s->width));
    ML_TRY(get_int(o, "n_head", NULL, &s->heads));
    ML_TRY(get_int(o, "vocab_size", NULL, &s->vocab));
    ML_TRY(get_int(o, "n_ctx", &n_ctx, &s->context));
    ML_TRY(get_int(o, "n_positions", &s->context, &s->context));
    wide = s->width > 0 && s->width < 1 << 26 ? 4 * s->width : 0;
    ML_TRY(get_int(o, "n_inner", &wide, &s->mlp_width));
    ML_TRY(get_real(o, "layer_norm_epsilon", &eps, &s->norm_eps));
    ML_TRY(get_activation(o, "activation_function", "gelu_new", &s->activation));
    ML_TRY(get_bool(o, "tie_word_embeddings", true, &s->tied_head));
    s->kv_heads = s->heads;
    s->head_dim = s->heads > 0 ? s->width / s->heads : 0;
    s->qkv_bias = s->o_bias = s->mlp_bias = true;
done:
    return st;
}

static ml_status read_llama3_scaling(const json_t *rope, ml_rope_scaling *r)
{
    ml_status st = ML_OK;
    ML_TRY(get_real(rope, "factor", NULL, &r->factor));
    ML_TRY(get_real(rope, "low_freq_factor", NULL, &r->low_freq_factor));
    ML_TRY(get_real(rope, "high_freq_factor", NULL, &r->high_freq_factor));
    ML_TRY(get_int(rope, "original_max_position_embeddings", NULL, &r->original_context));
done:
    return st;
}

/* rope_theta + rope_scaling (transformers 4) or rope_parameters (5). */
static ml_status read_rope(const json_t *o, ml_model_spec *s)
{
    ml_status st = ML_OK;
    double theta = 10000.0, partial = 1.0;
    const json_t *rope = json_object_get(o, "rope_parameters");
    if (!rope || json_is_null(rope)) rope = json_object_get(o, "rope_scaling");
    ML_TRY(get_real(o, "rope_theta", &theta, &theta));
    ML_TRY(get_real(o, "partial_rotary_factor", &partial, &partial));
    if (json_is_object(rope)) ML_TRY(get_real(rope, "rope_theta", &theta, &theta));
    if (json_is_object(rope)) ML_TRY(get_real(rope, "partial_rotary_factor", &partial, &partial));
    if (partial != 1.0)
        return ml_fail(ML_INPUT, "partial_rotary_factor: %g is not supported, only 1", partial);
    s->rope_theta = theta;
    if (!rope || json_is_null(rope)) return ML_OK;
    if (!json_is_object(rope)) return ml_fail(ML_INPUT, "rope_scaling: expected an object");
    const json_t *kind = json_object_get(rope, "rope_type");
    if (!kind) kind = json_object_get(rope, "type");
    const char *word = kind ? json_string_value(kind) : "default";
    if (word && !strcmp(word, "default")) return ML_OK;
    if (word && !strcmp(word, "llama3")) return read_llama3_scaling(rope, &s->rope_scaling);
    return ml_fail(ML_INPUT, "rope_scaling: type \"%s\" is not supported, only default and llama3",
                   word ? word : "(not a text)");
done:
    return st;
}

static ml_status read_llama(const json_t *o, ml_model_spec *s)
{
    static const char *const refused[] = {"quantization_config", "sliding_window", NULL};
    ml_status st = ML_OK;
    const double eps = 1e-6;
    bool bias;
    int64_t head_dim;
    ML_TRY(refuse(o, refused));
    ML_TRY(get_int(o, "num_hidden_layers", NULL, &s->layers));
    ML_TRY(get_int(o, "hidden_size", NULL, &s->width));
    ML_TRY(get_int(o, "intermediate_size", NULL, &s->mlp_width));
    ML_TRY(get_int(o, "num_attention_heads", NULL, &s->heads));
    ML_TRY(get_int(o, "num_key_value_heads", &s->heads, &s->kv_heads));
    ML_TRY(get_int(o, "vocab_size", NULL, &s->vocab));
    ML_TRY(get_int(o, "max_position_embeddings", NULL, &s->context));
    if (s->heads < 1)
        return ml_fail(ML_INPUT, "num_attention_heads: %" PRId64 ", expected at least 1", s->heads);
    head_dim = s->width / s->heads;
    ML_TRY(get_int(o, "head_dim", &head_dim, &s->head_dim));
    ML_TRY(get_real(o, "rms_norm_eps", &eps, &s->norm_eps));
    ML_TRY(get_activation(o, "hidden_act", "silu", &s->activation));
    ML_TRY(get_bool(o, "tie_word_embeddings", false, &s->tied_head));
    ML_TRY(get_bool(o, "attention_bias", false, &bias));
    s->qkv_bias = s->o_bias = bias;
    ML_TRY(get_bool(o, "mlp_bias", false, &s->mlp_bias));
    ML_TRY(read_rope(o, s));
done:
    return st;
}

ml_status hf_config_read(const char *directory, ml_model_spec *out)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    json_t *root = NULL;
    *out = (ml_model_spec){0};
    ML_TRY(ml_text_printf(&path, "%s/config.json", directory));
    ML_TRY(ml_json_read_file(&root, path.data, false));
    const json_t *kind = json_object_get(root, "model_type");
    const char *word = kind ? json_string_value(kind) : NULL;
    if (word && !strcmp(word, "gpt2")) {
        out->family = ML_FAMILY_GPT2;
        st = read_gpt2(root, out);
    } else if (word && !strcmp(word, "llama")) {
        out->family = ML_FAMILY_LLAMA;
        st = read_llama(root, out);
    } else {
        st = ml_fail(ML_INPUT, "model_type: \"%s\" is not supported, only gpt2 and llama",
                     word ? word : "(missing)");
    }
    if (st == ML_OK) st = ml_model_spec_check(out, ML_INPUT);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path.data);
done:
    json_decref(root);
    ml_text_destroy(&path);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------- */

static json_t *gpt2_json(const ml_model_spec *s)
{
    static const char *const words[] = {[ML_GELU_TANH] = "gelu_new",
                                        [ML_GELU_ERF] = "gelu",
                                        [ML_RELU] = "relu",
                                        [ML_SILU] = "silu"};
    return json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:b}", "model_type",
                     "gpt2", "architectures", "GPT2LMHeadModel", "n_layer", (json_int_t)s->layers,
                     "n_embd", (json_int_t)s->width, "n_head", (json_int_t)s->heads, "n_inner",
                     (json_int_t)s->mlp_width, "vocab_size", (json_int_t)s->vocab, "n_positions",
                     (json_int_t)s->context, "activation_function", words[s->activation],
                     "layer_norm_epsilon", s->norm_eps, "tie_word_embeddings", (int)s->tied_head);
}

static json_t *llama_json(const ml_model_spec *s)
{
    static const char *const words[] = {[ML_GELU_TANH] = "gelu_pytorch_tanh",
                                        [ML_GELU_ERF] = "gelu",
                                        [ML_RELU] = "relu",
                                        [ML_SILU] = "silu"};
    json_t *o = json_pack(
        "{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:b, s:b, s:b}",
        "model_type", "llama", "architectures", "LlamaForCausalLM", "num_hidden_layers",
        (json_int_t)s->layers, "hidden_size", (json_int_t)s->width, "intermediate_size",
        (json_int_t)s->mlp_width, "num_attention_heads", (json_int_t)s->heads,
        "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim,
        "vocab_size", (json_int_t)s->vocab, "max_position_embeddings", (json_int_t)s->context,
        "hidden_act", words[s->activation], "rms_norm_eps", s->norm_eps, "rope_theta",
        s->rope_theta, "tie_word_embeddings", (int)s->tied_head, "attention_bias", (int)s->qkv_bias,
        "mlp_bias", (int)s->mlp_bias);
    const ml_rope_scaling *r = &s->rope_scaling;
    if (o && r->factor != 0.0)
        json_object_set_new(o, "rope_scaling",
                            json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor",
                                      r->factor, "low_freq_factor", r->low_freq_factor,
                                      "high_freq_factor", r->high_freq_factor,
                                      "original_max_position_embeddings",
                                      (json_int_t)r->original_context));
    return o;
}

ml_status hf_config_write(const ml_model_spec *spec, ml_dtype dtype, int32_t end_of_text,
                          ml_text *out)
{
    json_t *o = spec->family == ML_FAMILY_GPT2 ? gpt2_json(spec) : llama_json(spec);
    if (o)
        json_object_set_new(o, "torch_dtype",
                            json_string(dtype == ML_BF16 ? "bfloat16" : "float32"));
    if (o && end_of_text >= 0) json_object_set_new(o, "eos_token_id", json_integer(end_of_text));
    char *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    if (!text) return ml_fail(ML_RESOURCE, "config.json: out of memory");
    ml_status st = ml_text_printf(out, "%s\n", text);
    free(text);
    return st;
}
