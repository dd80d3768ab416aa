/* Prefix-embedding and prefix-layer tuning (Hu et al., section 5.1; Li and Liang 2021,
 * arXiv:2101.00190): virtual tokens before a sequence (the first l_p of them) and between prompt
 * and completion (the other l_i).
 *
 *   level 0              x = P_0[j] + the position's embedding
 *   level l = 1 … L − 1  x = P_l[j] in place of what layer l − 1 gave (prefix_layer)
 *
 * P_l[l_p + l_i, d] is replicated over tp: x and its gradient are the same on all ranks of the
 * group. */
#include <inttypes.h>

#include "peft/peft_private.h"

typedef struct prefix {
    int64_t levels, width, first; /* first: parameter of level 0 */
} prefix;

static void forward(void *self, int64_t level, int64_t tokens, const int32_t *token, float *x)
{
    const ml_peft *peft = self;
    const prefix *p = peft->own;
    if (level >= p->levels) return;
    const float *value = peft_value(peft, p->first + level);
    for (int64_t t = 0; t < tokens; t++) {
        if (token[t] >= 0) continue;
        const float *from = value + (-1 - (int64_t)token[t]) * p->width;
        float *to = x + t * p->width;
        if (level > 0) memset(to, 0, (size_t)p->width * sizeof *to);
        for (int64_t j = 0; j < p->width; j++) to[j] += from[j];
    }
}

/* In the order of the tokens, by one thread: the same bits every time. */
static void backward(void *self, int64_t level, int64_t tokens, const int32_t *token, float *dx)
{
    const ml_peft *peft = self;
    const prefix *p = peft->own;
    if (level >= p->levels) return;
    float *gradient = peft_gradient(peft, p->first + level);
    for (int64_t t = 0; t < tokens; t++) {
        if (token[t] >= 0) continue;
        float *to = gradient + (-1 - (int64_t)token[t]) * p->width, *from = dx + t * p->width;
        for (int64_t j = 0; j < p->width; j++) to[j] += from[j];
        if (level > 0) memset(from, 0, (size_t)p->width * sizeof *from);
    }
}

static void destroy(ml_peft *peft) { ml_model_set_virtual(peft->model, (ml_virtual_hook){0}); }

static void record(void *self, int64_t level, int64_t tokens, const int32_t *token, float *x)
{
    const ml_peft *peft = self;
    const prefix *p = peft->own;
    (void)token;
    if (level > 0 && level < p->levels)
        memcpy(peft_value(peft, p->first + level), x, (size_t)(tokens * p->width) * sizeof *x);
}

static void start_virtual(ml_peft *peft, const int32_t *token)
{
    const prefix *p = peft->own;
    if (ml_parameters_hold(peft->parameters, p->first)) /* else the embedding is elsewhere, too */
        ml_model_embed(peft->model, peft->chosen.sizes.prefix + peft->chosen.sizes.infix, token,
                       peft_value(peft, p->first));
    if (p->levels > 1) peft_watch(peft, token, (ml_virtual_hook){.self = peft, .forward = record});
}

static const peft_operations operations = {
    .destroy = destroy, .initialise = peft_draw_virtual, .start_virtual = start_virtual};

ml_status prefix_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    prefix *p = NULL;
    const ml_model_spec *spec = ml_model_get_spec(model);
    bool embeddings =
        options->method == ML_METHOD_PREFIX_EMBED || options->method == ML_METHOD_LORA_PREFIX_EMBED;
    char name[96];
    if (spec->embed_width > 0)
        return ml_fail(ML_USAGE,
                       "method.name: virtual tokens have the model's width, %" PRId64
                       ", but its embedding has %" PRId64 " and is projected; choose prefix_kv",
                       spec->width, spec->embed_width);
    ML_TRY(peft_create(&peft, &operations, model, parameters, options));
    ML_NEW(p, 1, ML_MEM_OTHER, "a method");
    peft->own = p;
    *p = (prefix){embeddings ? 1 : spec->layers, spec->width, parameters->count};
    for (int64_t l = 0; l < p->levels; l++) {
        snprintf(name, sizeof name, l ? "layers.%" PRId64 ".prefix" : "embed.prefix", l);
        ML_TRY(ml_parameters_add(parameters, name, options->sizes.prefix + options->sizes.infix,
                                 spec->width, false, (ml_shard){.dim = ML_SHARD_WHOLE},
                                 ML_GRADIENT_IDENTICAL, NULL));
    }
    ml_model_set_virtual(model,
                         (ml_virtual_hook){.self = peft, .forward = forward, .backward = backward});
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}
