/* Bottleneck adapters on the output y of a sub-layer, after its sum over tp and its bias:
 *
 *   forward   n = y (adapter_l: norm(y)),  h = n·Dᵀ + b,  y += gelu(h)·Uᵀ + c
 *   backward  dU += dyᵀ·gelu(h),  dh = (dy·U)∘gelu'(h),  dD += dhᵀ·n,  dy += dh·D (adapter_l:
 *     through the norm)
 *
 * y[T, d], D[r, d], U[d, r]. All tensors are replicated over tp, and so is y: every rank of a
 * group computes the same. y and h are saved for backward. */
#include <inttypes.h>
#include <math.h>

#include "peft/bottleneck.h"

static const char *const words[BOTTLENECK_TENSORS] = {
    "down.weight", "down.bias", "up.weight",  "up.bias", "norm.weight",
    "norm.bias",   "down.left", "down.right", "up.left", "up.right"};

/* Where the adapters of a method are: always after the MLP. */
static const struct {
    bool attention, norm, compact;
} kinds[ML_METHODS] = {
    [ML_METHOD_ADAPTER_H] = {.attention = true},
    [ML_METHOD_ADAPTER_L] = {.norm = true},
    [ML_METHOD_COMPACTER] = {.attention = true, .compact = true},
};

/* ---- the hook ------------------------------------------------------------------------------ */

/* Of one call: matrices of T rows in what is saved and in the scratch. */
typedef struct rows {
    float *y, *h;                         /* saved; y NULL where nothing is saved */
    float *n, *mean, *rstd, *g, *dh, *dn; /* scratch; dn is the result of backward */
} rows;

static int64_t scratch_floats(const bottleneck *s, bool norm)
{
    return (norm ? 3 : 1) * s->width + 2 * s->rank + (norm ? 2 : 0);
}

static bool has_norm(const bottleneck *s) { return ((const bottlenecks *)s->peft->own)->norm; }

static rows find_rows(const bottleneck *s, const ml_pass *pass)
{
    int64_t T = pass->tokens, d = s->width, r = s->rank;
    float *at = pass->scratch;
    rows f = {.dn = at, .g = at + T * d, .dh = at + T * (d + r)};
    f.h = f.dh;
    if (pass->saved) {
        f.y = pass->saved;
        f.h = pass->saved + T * d;
    }
    if (!has_norm(s)) return f;
    f.n = at + T * (d + 2 * r);
    f.mean = f.n + 2 * T * d;
    f.rstd = f.mean + T;
    return f;
}

/* What D multiplies. */
static const float *input(const bottleneck *s, const ml_pass *pass, const rows *f, const float *y)
{
    if (!has_norm(s)) return y;
    pass->kernels->layernorm_forward(
        pass->tokens, s->width, y, peft_value(s->peft, s->parameter[NORM_WEIGHT]),
        peft_value(s->peft, s->parameter[NORM_BIAS]),
        (float)ml_model_get_spec(s->peft->model)->norm_eps, f->n, f->mean, f->rstd);
    return f->n;
}

static void forward(void *self, const ml_pass *pass, float *y)
{
    const bottleneck *s = self;
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, d = s->width, r = s->rank;
    const rows f = find_rows(s, pass);
    if (f.y) memcpy(f.y, y, (size_t)(T * d) * sizeof *y);
    const float *n = input(s, pass, &f, y);
    k->gemm(k, false, true, T, r, d, 1.0F, n, d, s->down, d, 0.0F, f.h, r);
    k->add_bias(T, r, peft_value(s->peft, s->parameter[DOWN_BIAS]), f.h, r);
    k->activation_forward(ML_GELU_TANH, T, r, f.h, r, f.g, r);
    k->gemm(k, false, true, T, d, r, 1.0F, f.g, r, s->up, r, 1.0F, y, d);
    k->add_bias(T, d, peft_value(s->peft, s->parameter[UP_BIAS]), y, d);
}

static void norm_gradient(const bottleneck *s, const ml_pass *pass, const rows *f)
{
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, d = s->width;
    float *through = f->n + T * d;
    k->gemm(k, false, false, T, d, s->rank, 1.0F, f->dh, s->rank, s->down, d, 0.0F, through, d);
    k->layernorm_backward(T, d, f->y, peft_value(s->peft, s->parameter[NORM_WEIGHT]), f->mean,
                          f->rstd, through, f->dn, true,
                          peft_gradient(s->peft, s->parameter[NORM_WEIGHT]),
                          peft_gradient(s->peft, s->parameter[NORM_BIAS]));
}

static const float *backward(void *self, const ml_pass *pass, const float *dy)
{
    const bottleneck *s = self;
    const ml_kernels *k = pass->kernels;
    int64_t T = pass->tokens, d = s->width, r = s->rank;
    const rows f = find_rows(s, pass);
    const float *n = input(s, pass, &f, f.y);
    k->activation_forward(ML_GELU_TANH, T, r, f.h, r, f.g, r);
    k->gemm(k, true, false, d, r, T, 1.0F, dy, d, f.g, r, 1.0F, s->d_up, r);
    k->sum_rows(T, d, dy, d, peft_gradient(s->peft, s->parameter[UP_BIAS]));
    k->gemm(k, false, false, T, r, d, 1.0F, dy, d, s->up, r, 0.0F, f.dh, r);
    k->activation_backward(ML_GELU_TANH, T, r, f.h, r, f.dh, r, f.dh, r);
    k->sum_rows(T, r, f.dh, r, peft_gradient(s->peft, s->parameter[DOWN_BIAS]));
    k->gemm(k, true, false, r, d, T, 1.0F, f.dh, r, n, d, 1.0F, s->d_down, d);
    memcpy(f.dn, dy, (size_t)(T * d) * sizeof *dy);
    if (has_norm(s))
        norm_gradient(s, pass, &f);
    else
        k->gemm(k, false, false, T, d, r, 1.0F, f.dh, r, s->down, d, 1.0F, f.dn, d);
    return f.dn;
}

/* ---- description --------------------------------------------------------------------------- */

ml_status bottleneck_add(bottleneck *module, bottleneck_tensor which, const char *place,
                         int64_t rows, int64_t cols)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", place, words[which]);
    return ml_parameters_add(module->peft->parameters, name, rows, cols, cols == 1,
                             (ml_shard){.dim = ML_SHARD_WHOLE}, ML_GRADIENT_IDENTICAL,
                             &module->parameter[which]);
}

static ml_status add_module(ml_peft *peft, ml_linear *layer, int64_t l, const char *part)
{
    ml_status st = ML_OK;
    bottlenecks *all = peft->own;
    int64_t d = ml_model_get_spec(peft->model)->width, r = peft->chosen.sizes.bottleneck;
    bottleneck *s = &all->module[all->count++];
    char place[64];
    *s = (bottleneck){.peft = peft, .layer = layer, .width = d, .rank = r};
    snprintf(place, sizeof place, "layers.%" PRId64 ".%s.adapter", l, part);
    if (kinds[peft->chosen.method].compact) {
        ML_TRY(compacter_add(s, place));
    } else {
        ML_TRY(bottleneck_add(s, DOWN_WEIGHT, place, r, d));
        ML_TRY(bottleneck_add(s, UP_WEIGHT, place, d, r));
    }
    ML_TRY(bottleneck_add(s, DOWN_BIAS, place, r, 1));
    ML_TRY(bottleneck_add(s, UP_BIAS, place, d, 1));
    if (all->norm) ML_TRY(bottleneck_add(s, NORM_WEIGHT, place, d, 1));
    if (all->norm) ML_TRY(bottleneck_add(s, NORM_BIAS, place, d, 1));
    layer->hook = (ml_linear_hook){.self = s,
                                   .saved_per_token = d + r,
                                   .scratch_per_token = scratch_floats(s, all->norm),
                                   .after_forward = forward,
                                   .after_backward = backward};
done:
    return st;
}

/* ---- operations ---------------------------------------------------------------------------- */

static void destroy(ml_peft *peft)
{
    bottlenecks *all = peft->own;
    if (!all) return;
    for (int64_t i = 0; i < all->count; i++) all->module[i].layer->hook = (ml_linear_hook){0};
    ml_memory_free(all->module);
    ml_memory_free(all->made);
}

static ml_status bind(ml_peft *peft)
{
    bottlenecks *all = peft->own;
    for (int64_t i = 0; i < all->count; i++) {
        bottleneck *s = &all->module[i];
        s->down = peft_value(peft, s->parameter[DOWN_WEIGHT]);
        s->up = peft_value(peft, s->parameter[UP_WEIGHT]);
        s->d_down = peft_gradient(peft, s->parameter[DOWN_WEIGHT]);
        s->d_up = peft_gradient(peft, s->parameter[UP_WEIGHT]);
    }
    return ML_OK;
}

/* Everything is zero but D and the norm's weight. */
static void initialise(ml_peft *peft)
{
    const bottlenecks *all = peft->own;
    for (int64_t i = peft->first_parameter; i < peft->end_parameter; i++)
        memset(peft_value(peft, i), 0, (size_t)peft->parameters->items[i].count * sizeof(float));
    for (int64_t i = 0; i < all->count; i++) {
        const bottleneck *s = &all->module[i];
        if (kinds[peft->chosen.method].compact) continue;
        if (!ml_parameters_hold(peft->parameters, s->parameter[DOWN_WEIGHT])) continue;
        peft_draw_uniform(&peft->parameters->items[s->parameter[DOWN_WEIGHT]],
                          peft->chosen.lora.seed, s->down);
        for (int64_t j = 0; all->norm && j < s->width; j++)
            peft_value(peft, s->parameter[NORM_WEIGHT])[j] = 1.0F;
    }
    if (kinds[peft->chosen.method].compact) compacter_initialise(peft);
}

static const peft_operations operations = {
    .destroy = destroy, .bind = bind, .initialise = initialise};
static const peft_operations compact_operations = {.destroy = destroy,
                                                   .bind = compacter_bind,
                                                   .initialise = initialise,
                                                   .before_sum = compacter_before_sum,
                                                   .after_update = compacter_after_update,
                                                   .bytes = compacter_bytes};

ml_status bottleneck_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                            const ml_peft_options *options)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    bottlenecks *all = NULL;
    int64_t layers = ml_model_get_spec(model)->layers,
            drop = options->method == ML_METHOD_ADAPTER_DROP ? options->sizes.drop : 0;
    bool compact = kinds[options->method].compact;
    if (drop >= layers)
        return ml_fail(ML_USAGE,
                       "method.drop: %" PRId64
                       " layers are to have no adapter, the model has %" PRId64,
                       drop, layers);
    ML_TRY(peft_create(&peft, compact ? &compact_operations : &operations, model, parameters,
                       options));
    ML_NEW(all, 1, ML_MEM_OTHER, "a method");
    peft->own = all;
    all->norm = kinds[options->method].norm;
    ML_NEW(all->module, 2 * layers, ML_MEM_OTHER, "adapters");
    if (compact) ML_TRY(compacter_check(peft));
    if (compact) ML_TRY(compacter_add_rule(peft));
    for (int64_t l = drop; l < layers; l++) {
        ml_layer *layer = ml_model_layer(model, l);
        if (kinds[options->method].attention) ML_TRY(add_module(peft, &layer->o, l, "attn"));
        ML_TRY(add_module(peft, &layer->down, l, "mlp"));
    }
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}
