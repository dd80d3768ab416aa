/* Single values of a config.json, and its words for activations. */
#include "store/formats/huggingface/config_values.h"

ml_status hf_get_int(const json_t *o, const char *name, const int64_t *otherwise, int64_t *out)
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

ml_status hf_get_real(const json_t *o, const char *name, const double *otherwise, double *out)
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

bool hf_get_bool(const json_t *o, const char *name, bool otherwise)
{
    const json_t *value = json_object_get(o, name);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

/* Words for the activations; the first of each is what is written, but for GELU's approximation,
 * which the family names. */
static const struct {
    const char *word;
    ml_activation activation;
} activation_words[] = {{"gelu_new", ML_GELU_TANH},
                        {"gelu_pytorch_tanh", ML_GELU_TANH},
                        {"gelu_fast", ML_GELU_TANH},
                        {"gelu_python_tanh", ML_GELU_TANH},
                        {"gelu_accurate", ML_GELU_TANH},
                        {"gelu", ML_GELU_ERF},
                        {"gelu_python", ML_GELU_ERF},
                        {"relu", ML_RELU},
                        {"silu", ML_SILU},
                        {"swish", ML_SILU},
                        {"tanh", ML_TANH}};
enum { ACTIVATION_WORDS = sizeof activation_words / sizeof *activation_words };

ml_status hf_get_activation(const json_t *o, const char *name, bool gelu, ml_activation *out)
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

const char *hf_activation_word(const ml_model_spec *s, ml_activation activation)
{
    if (activation == ML_GELU_TANH) return s->family->hf.gelu_tanh;
    int i = 0;
    while (activation_words[i].activation != activation) i++;
    return activation_words[i].word;
}
