/* The method's interface: which method is what, and dispatch to it, or to both where it is two. */
#include "peft/peft_private.h"

#include <math.h>

#include "mpilora/stages.h"

/* ---- attaching ----------------------------------------------------------------------------- */

static ml_status lora_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                             const ml_peft_options *options)
{
    return ml_peft_attach_lora(out, model, parameters, &options->lora);
}

static const peft_attach made_of[ML_METHODS][2] = {
    [ML_METHOD_LORA] = {lora_attach},
    [ML_METHOD_FULL] = {full_attach},
    [ML_METHOD_TOP] = {top_attach},
    [ML_METHOD_BITFIT] = {bitfit_attach},
    [ML_METHOD_PREFIX_EMBED] = {prefix_attach},
    [ML_METHOD_PREFIX_LAYER] = {prefix_attach},
    [ML_METHOD_PREFIX_KV] = {prefix_kv_attach},
    [ML_METHOD_ADAPTER_H] = {bottleneck_attach},
    [ML_METHOD_ADAPTER_L] = {bottleneck_attach},
    [ML_METHOD_ADAPTER_P] = {bottleneck_attach},
    [ML_METHOD_ADAPTER_DROP] = {bottleneck_attach},
    [ML_METHOD_COMPACTER] = {bottleneck_attach},
    [ML_METHOD_LORA_PREFIX_EMBED] = {lora_attach, prefix_attach},
    [ML_METHOD_LORA_PREFIX_LAYER] = {lora_attach, prefix_attach},
    [ML_METHOD_LORA_PREFIX_KV] = {lora_attach, prefix_kv_attach},
};

/* `adapter` NULL: to be trained from `options`. */
static ml_status attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ml_peft *first = NULL, **at = &first;
    for (int i = 0; i < 2 && made_of[options->method][i]; i++) {
        int64_t start = parameters->count;
        peft_attach method = made_of[options->method][i];
        ML_TRY(adapter && method == lora_attach
                   ? lora_attach_adapter(at, model, parameters, adapter)
                   : method(at, model, parameters, options));
        (*at)->chosen = *options;
        (*at)->first_parameter = start;
        (*at)->end_parameter = parameters->count;
        if (adapter && !(*at)->operations->load)
            ML_TRY(tensors_check(*at, adapter, ML_INPUT, "adapter"));
        at = &(*at)->next;
    }
    int64_t start = parameters->count;
    ML_TRY(saved_attach(at, first, parameters, options, adapter));
    if (*at) {
        (*at)->chosen = *options;
        (*at)->first_parameter = start;
        (*at)->end_parameter = parameters->count;
        if (adapter) ML_TRY(tensors_check(*at, adapter, ML_INPUT, "adapter"));
    }
    for (int head = 0; head < 2; head++) {
        while (*at) at = &(*at)->next;
        start = parameters->count;
        ML_TRY(tokens_attach(at, model, parameters, options, adapter, head));
        if (!*at) continue;
        (*at)->chosen = *options;
        (*at)->first_parameter = start;
        (*at)->end_parameter = parameters->count;
    }
    if (adapter) ML_TRY(tensors_check_count(first, adapter, ML_INPUT, "adapter"));
    *out = first;
    first = NULL;
done:
    ml_peft_destroy(first);
    return st;
}

ml_status ml_peft_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                         const ml_peft_options *options)
{
    return attach(out, model, parameters, options, NULL);
}

ml_status ml_peft_attach_adapter(ml_peft **out, ml_model *model, ml_parameters *parameters,
                                 const ml_adapter *adapter)
{
    const ml_peft_options options = {
        .method = adapter->method, .sizes = adapter->sizes, .forward_only = true};
    ml_status st = attach(out, model, parameters, &options, adapter);
    return st == ML_USAGE ? ml_fail_within(ML_INPUT, "adapter")
                          : st; /* its sizes are not the user's, but the file's */
}

ml_status ml_peft_attach_configured(ml_peft **out, ml_model *model, ml_parameters *parameters,
                                    const ml_run_config *c, ml_method method)
{
    ml_status st = ML_OK;
    ml_peft_options o = {.method = method,
                         .sizes = c->method.sizes,
                         .lora = {.rank = c->method.rank,
                                  .alpha = c->method.alpha,
                                  .dropout = c->method.dropout,
                                  .scaling = c->method.scaling,
                                  .seed = c->seed,
                                  .dora = c->method.dora,
                                  .pissa = ml_run_config_is_pissa(c),
                                  .loftq = ml_run_config_is_loftq(c),
                                  .lora_plus = c->method.lora_plus,
                                  .layers = c->method.layers,
                                  .rank_pattern = c->method.rank_pattern,
                                  .alpha_pattern = c->method.alpha_pattern}};
    if (ml_method_saves_modules(method)) {
        o.bias = ml_method_has_lora(method) ? c->method.bias : ML_BIAS_NONE;
        o.modules_to_save = c->method.modules_to_save;
        o.trainable_tokens[0] = c->method.trainable_tokens;
        o.trainable_tokens[1] = c->method.trainable_head_tokens;
    }
    if (ml_method_has_lora(method))
        st = ml_targets_resolve(ml_model_get_spec(model), c->method.targets, &o.lora.targets);
    return st == ML_OK ? ml_peft_attach(out, model, parameters, &o) : st;
}

ml_model_spec ml_peft_model_spec(const ml_model_spec *base, ml_method method,
                                 const ml_method_sizes *sizes)
{
    ml_model_spec spec = *base;
    if (method == ML_METHOD_BITFIT && sizes->new_biases)
        spec.qkv_bias = spec.o_bias = spec.mlp_bias = true;
    if (method == ML_METHOD_FULL) spec.formats = NULL; /* trained from weights in no blocks */
    return spec;
}

void ml_peft_place(const ml_model *model, ml_parameters *p)
{
    p->pp = ml_model_stages(model);
    p->stage = ml_model_stage(model);
    for (int64_t i = 0; i < p->count && p->pp > 1; i++) {
        int first, also;
        if (p->items[i].also == ML_STAGE_EVERY) continue; /* the method's word */
        ml_model_stages_of(model, p->items[i].name, &first, &also);
        ml_parameters_place(p, i, first, also);
    }
}

ml_status peft_check_leaves(ml_model *model, const ml_peft_options *options, const char *what)
{
    const ml_linear *l = ml_model_linear(model, 0);
    if (options->forward_only || l->leaf_end - l->leaf_first == l->leaves) return ML_OK;
    return ml_fail(
        ML_USAGE,
        "numerics is grid: %s sums over the ranks of tp in an order that depends on their "
        "number; choose parallel.tp: 1, or numerics: fast",
        what);
}

ml_status peft_create(ml_peft **out, const peft_operations *operations, ml_model *model,
                      ml_parameters *parameters, const ml_peft_options *options)
{
    ml_status st = ML_OK;
    ml_peft *peft;
    ML_NEW(peft, 1, ML_MEM_OTHER, "a method");
    peft->operations = operations;
    peft->model = model;
    peft->parameters = parameters;
    peft->chosen = *options;
    *out = peft;
done:
    return st;
}

/* ---- dispatch ------------------------------------------------------------------------------ */

void ml_peft_destroy(ml_peft *peft)
{
    for (ml_peft *next; peft; peft = next) {
        next = peft->next;
        if (peft->operations->destroy) peft->operations->destroy(peft);
        ml_memory_free(peft->own);
        ml_memory_free(peft->groups);
        ml_memory_free(peft->initial);
        ml_memory_free(peft);
    }
}

ml_status ml_peft_bind(ml_peft *peft)
{
    ml_status st = ML_OK;
    for (; peft && st == ML_OK; peft = peft->next)
        if (peft->operations->bind) st = peft->operations->bind(peft);
    return st;
}

void ml_peft_point(ml_peft *peft)
{
    bool any = false;
    for (ml_peft *p = peft; p; p = p->next) {
        if (!p->operations->point) continue;
        p->operations->point(p);
        any = true;
    }
    if (any) ml_model_point(peft->model);
}

float *ml_peft_master(ml_peft *peft, int64_t index)
{
    float *master = NULL;
    for (; peft && !master; peft = peft->next)
        if (peft->operations->master) master = peft->operations->master(peft, index);
    return master;
}

void ml_peft_initialise(ml_peft *peft)
{
    for (; peft; peft = peft->next) {
        if (peft->operations->initialise) peft->operations->initialise(peft);
        if (peft->operations->after_update) peft->operations->after_update(peft);
    }
}

void ml_peft_start_virtual(ml_peft *peft, const int32_t *token)
{
    for (; peft; peft = peft->next)
        if (peft->operations->start_virtual) peft->operations->start_virtual(peft, token);
}

void ml_peft_before_sum(ml_peft *peft)
{
    for (; peft; peft = peft->next)
        if (peft->operations->before_sum) peft->operations->before_sum(peft);
}

void ml_peft_take_gradients(ml_peft *peft, ml_parameters *p)
{
    if (p->exact) ml_peft_before_sum(peft);
    ml_parameters_take(p, p->gradient, p->local);
}

void ml_peft_after_update(ml_peft *peft)
{
    for (; peft; peft = peft->next)
        if (peft->operations->after_update) peft->operations->after_update(peft);
}

void ml_peft_bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    for (; peft; peft = peft->next)
        if (peft->operations->bytes) peft->operations->bytes(peft, training, bytes);
}

ml_status ml_peft_check(const ml_peft *peft, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ml_method method = peft->chosen.method;
    if (adapter->method != method)
        return ml_fail(ML_USAGE,
                       "method.init: the adapter was made by method %s, the configuration says %s",
                       ml_method_name(adapter->method), ml_method_name(method));
    st = tensors_check_count(peft, adapter, ML_USAGE, "method.init");
    for (const ml_peft *p = peft; p && st == ML_OK; p = p->next)
        st = p->operations->check ? p->operations->check(p, adapter)
                                  : tensors_check(p, adapter, ML_USAGE, "method.init");
    return st;
}

ml_status ml_peft_load(ml_peft *peft, const ml_adapter *adapter)
{
    ml_status st = ml_peft_check(peft, adapter);
    for (ml_peft *p = peft; p && st == ML_OK; p = p->next)
        (p->operations->load ? p->operations->load : tensors_load)(p, adapter);
    return st;
}

ml_status ml_peft_collect(const ml_peft *peft, const ml_grid *grid, const char *base_source_hash,
                          ml_adapter *out)
{
    ml_status st = ML_OK;
    *out = (ml_adapter){.method = peft->chosen.method, .sizes = peft->chosen.sizes};
    snprintf(out->base_source_hash, sizeof out->base_source_hash, "%s", base_source_hash);
    for (; peft && st == ML_OK; peft = peft->next)
        st = (peft->operations->collect ? peft->operations->collect : tensors_collect)(peft, grid,
                                                                                       out);
    if (st != ML_OK) ml_adapter_destroy(out);
    return st;
}

/* ---- for the methods ----------------------------------------------------------------------- */

/* One number for each place of the whole tensor. */
typedef double (*draw)(ml_random_key key, uint64_t place);

static double draw_uniform(ml_random_key key, uint64_t place)
{
    return 2.0 * ml_random_uniform(key, 0, place) - 1.0;
}
static double draw_normal(ml_random_key key, uint64_t place)
{
    return ml_random_normal(key, 0, place);
}

static void fill(const ml_parameter *item, uint64_t seed, draw number, double size, float *values)
{
    ml_random_key key = ml_random_key_make(seed, item->name);
    const ml_shard all = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{0, item->rows}}};
    bool by_rows = item->shard.dim == ML_SHARD_ROWS;
    const ml_shard *rows = by_rows ? &item->shard : &all; /* of this rank, range after range */
    int64_t first = item->shard.dim == ML_SHARD_COLS ? item->shard.part[0].start : 0;
    int64_t cols = ml_shard_cols(&item->shard, item->cols);
    for (int p = 0; p < rows->nparts; p++)
        for (int64_t i = 0; i < rows->part[p].count; i++, values += cols)
            for (int64_t j = 0; j < cols; j++) {
                int64_t place = (rows->part[p].start + i) * item->cols + first + j;
                values[j] = (float)(number(key, (uint64_t)place) * size);
            }
}

void peft_draw_uniform(const ml_parameter *item, uint64_t seed, float *values)
{
    fill(item, seed, draw_uniform, 1.0 / sqrt((double)item->cols), values);
}

void peft_draw_normal(const ml_parameter *item, uint64_t seed, double deviation, float *values)
{
    fill(item, seed, draw_normal, deviation, values);
}

void peft_draw_virtual(ml_peft *peft)
{
    const double deviation = 0.02; /* of GPT-2's own embeddings */
    for (int64_t i = peft->first_parameter; i < peft->end_parameter; i++)
        peft_draw_normal(&peft->parameters->items[i], peft->chosen.lora.seed, deviation,
                         peft_value(peft, i));
}

void peft_watch(ml_peft *peft, const int32_t *token, ml_virtual_hook hook)
{
    const ml_virtual_hook own = ml_model_virtual(peft->model);
    const int64_t count = peft->chosen.sizes.prefix + peft->chosen.sizes.infix,
                  start[] = {0, count};
    const ml_batch batch = {
        .tokens = count, .token = token, .sequences = {.count = 1, .start = start}};
    ml_model_set_virtual(peft->model, hook);
    ml_model_watch(peft->model, &batch);
    ml_model_set_virtual(peft->model, own);
}
