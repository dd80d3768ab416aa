/* Prefix tuning (Li and Liang 2021, arXiv:2101.00190) as PEFT has it: virtual tokens before a
 * sequence of which attention sees trained keys and values alone.
 *
 *   layer l   k[j] = K_l[j], v[j] = V_l[j] for the virtual tokens j = 0 … l_p − 1; k is what
 *     attention takes, so it is not rotated again
 *
 * K_l, V_l [l_p, key/value heads × h] are cut by heads over tp, as the k and v of the layer are.
 * What else the rows of virtual tokens hold goes nowhere. */
#include <inttypes.h>

#include "peft/peft_private.h"

/* This rank's columns of K and of V. */
static int64_t key_width(const ml_peft *peft)
{
    return ml_model_layer(peft->model, 0)->qkv.part[1].count;
}

static int64_t key_parameter(const ml_peft *peft, int64_t layer)
{
    return peft->first_parameter + 2 * layer;
}

static void forward(void *self, int64_t layer, int64_t tokens, const int32_t *token, float *kv,
                    int64_t stride)
{
    const ml_peft *peft = self;
    int64_t width = key_width(peft), parameter = key_parameter(peft, layer);
    const float *key = peft_value(peft, parameter), *value = peft_value(peft, parameter + 1);
    for (int64_t t = 0; t < tokens; t++) {
        if (token[t] >= 0) continue;
        int64_t from = (-1 - (int64_t)token[t]) * width;
        memcpy(kv + t * stride, key + from, (size_t)width * sizeof *kv);
        memcpy(kv + t * stride + width, value + from, (size_t)width * sizeof *kv);
    }
}

/* In the order of the tokens, by one thread: the same bits every time. */
static void backward(void *self, int64_t layer, int64_t tokens, const int32_t *token, float *dkv,
                     int64_t stride)
{
    const ml_peft *peft = self;
    int64_t width = key_width(peft), parameter = key_parameter(peft, layer);
    float *key = peft_gradient(peft, parameter), *value = peft_gradient(peft, parameter + 1);
    for (int64_t t = 0; t < tokens; t++) {
        if (token[t] >= 0) continue;
        float *from = dkv + t * stride;
        int64_t to = (-1 - (int64_t)token[t]) * width;
        for (int64_t j = 0; j < width; j++) key[to + j] += from[j];
        for (int64_t j = 0; j < width; j++) value[to + j] += from[width + j];
        memset(from, 0, (size_t)(2 * width) * sizeof *from);
    }
}

static void destroy(ml_peft *peft) { ml_model_set_virtual(peft->model, (ml_virtual_hook){0}); }

static void record(void *self, int64_t layer, int64_t tokens, const int32_t *token, float *kv,
                   int64_t stride)
{
    const ml_peft *peft = self;
    int64_t width = key_width(peft), parameter = key_parameter(peft, layer);
    float *key = peft_value(peft, parameter), *value = peft_value(peft, parameter + 1);
    (void)token;
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(key + t * width, kv + t * stride, (size_t)width * sizeof *kv);
        memcpy(value + t * width, kv + t * stride + width, (size_t)width * sizeof *kv);
    }
}

static void start_virtual(ml_peft *peft, const int32_t *token)
{
    peft_watch(peft, token, (ml_virtual_hook){.self = peft, .keys_forward = record});
}

static const peft_operations operations = {
    .destroy = destroy, .initialise = peft_draw_virtual, .start_virtual = start_virtual};

static ml_status check_sizes(const ml_peft_options *options)
{
    const ml_method_sizes *s = &options->sizes;
    if (s->infix > 0)
        return ml_fail(ML_USAGE,
                       "method.infix: %" PRId64
                       ", but %s has keys and values before a sequence alone; set it to 0",
                       s->infix, ml_method_name(options->method));
    if (s->prefix < 1)
        return ml_fail(ML_USAGE, "method.prefix: %" PRId64 ", expected at least 1", s->prefix);
    return ML_OK;
}

ml_status prefix_kv_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                           const ml_peft_options *options)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    const ml_model_spec *spec = ml_model_get_spec(model);
    const ml_linear_part *mine = &ml_model_layer(model, 0)->qkv.part[1];
    const ml_shard heads = {.dim = ML_SHARD_COLS,
                            .nparts = 1,
                            .part = {{mine->first, mine->count}},
                            .copied = mine->copies > 1,
                            .copies = mine->copies,
                            .spare = mine->spare};
    static const char *const words[] = {"key", "value"};
    char name[96];
    ML_TRY(check_sizes(options));
    ML_TRY(peft_create(&peft, &operations, model, parameters, options));
    for (int64_t i = 0; i < 2 * spec->layers; i++) {
        snprintf(name, sizeof name, "layers.%" PRId64 ".prefix_%s", i / 2, words[i % 2]);
        ML_TRY(ml_parameters_add(parameters, name, options->sizes.prefix,
                                 spec->kv_heads * spec->head_dim, false, heads, ML_GRADIENT_PARTIAL,
                                 NULL));
    }
    ml_model_set_virtual(
        model, (ml_virtual_hook){.self = peft, .keys_forward = forward, .keys_backward = backward});
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}
