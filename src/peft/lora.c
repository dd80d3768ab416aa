/* LoRA: which pairs there are, their tensors and shards, their first values. */
#include <inttypes.h>
#include <math.h>

#include "peft/peft_private.h"

/* ---- which layers, and with which rank and alpha a module ---------------------------------- */

/* method.layers, method.rank_pattern and method.alpha_pattern. */

bool lora_wants_layer(const ml_lora_options *options, int64_t layer)
{
    const ml_layer_ranges *layers = &options->layers;
    bool wanted = layers->count == 0;
    for (int64_t i = 0; i < layers->count; i++)
        wanted = wanted || (layers->range[i].first <= layer && layer <= layers->range[i].last);
    return wanted;
}

/* The whole module or its end behind a dot. */
static bool means(const char *name, const char *module)
{
    size_t n = strlen(module), m = strlen(name);
    return m <= n && !strcmp(module + n - m, name) && (m == n || module[n - m - 1] == '.');
}

static double value_of(const ml_module_patterns *patterns, const char *module, double otherwise)
{
    for (int64_t i = 0; i < patterns->count; i++)
        if (means(patterns->item[i].module, module)) return patterns->item[i].value;
    return otherwise;
}

int64_t lora_rank_of(const ml_lora_options *options, const char *module)
{
    return (int64_t)value_of(&options->rank_pattern, module, (double)options->rank);
}

double lora_alpha_of(const ml_lora_options *options, const char *module)
{
    return value_of(&options->alpha_pattern, module, options->alpha);
}

static bool means_any(const ml_peft *peft, const char *name)
{
    for (int64_t g = 0; g < peft->ngroups; g++)
        for (int i = 0; i < peft->groups[g].npairs; i++)
            if (means(name, peft->groups[g].pair[i].module)) return true;
    return false;
}

static ml_status check_patterns(const ml_peft *peft, const char *key,
                                const ml_module_patterns *patterns)
{
    for (int64_t i = 0; i < patterns->count; i++)
        if (!means_any(peft, patterns->item[i].module))
            return ml_fail(ML_USAGE,
                           "%s: %s means no module that method.targets and method.layers adapt; "
                           "modules are named as %s, or by their end",
                           key, patterns->item[i].module, peft->groups[0].pair[0].module);
    return ML_OK;
}

ml_status lora_check_modules(const ml_peft *peft)
{
    const ml_lora_options *o = &peft->options;
    int64_t layers = ml_model_get_spec(peft->model)->layers, n = o->layers.count;
    if (n > 0 && o->layers.range[n - 1].last >= layers)
        return ml_fail(ML_USAGE,
                       "method.layers: layer %" PRId64 " is named, the model has 0 to %" PRId64,
                       o->layers.range[n - 1].last, layers - 1);
    ml_status st = check_patterns(peft, "method.rank_pattern", &o->rank_pattern);
    return st == ML_OK ? check_patterns(peft, "method.alpha_pattern", &o->alpha_pattern) : st;
}

/* ---- description --------------------------------------------------------------------------- */

static float scale_of(double alpha, int64_t rank, ml_scaling scaling)
{
    return (float)(alpha / (scaling == ML_SCALING_RSLORA ? sqrt((double)rank) : (double)rank));
}

/* B's part on this rank: the rows of one projection, or (part −1) of all projections of the layer
 * one after the other. */
static ml_shard output_shard(const ml_linear *layer, int part)
{
    if (layer->kind == ML_LINEAR_ROW) return (ml_shard){.dim = ML_SHARD_WHOLE};
    if (part >= 0) return ml_linear_weight_shard(layer, part);
    ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = layer->nparts};
    int64_t before = 0;
    /* The second bound always holds; without it gcc warns where shifts are checked. */
    for (int i = 0; i < layer->nparts && i < ML_LINEAR_PARTS; i++) {
        shard.part[i].start = before + layer->part[i].first;
        shard.part[i].count = layer->part[i].count;
        shard.copied |= (unsigned)(layer->part[i].copies > 1) << i;
        if (layer->part[i].copies > shard.copies) shard.copies = layer->part[i].copies;
        shard.spare = shard.spare || layer->part[i].spare;
        before += layer->part[i].out;
    }
    return shard;
}

static void describe_pair(lora_group *group, const char *module, int part, int64_t rank,
                          double alpha, float scale)
{
    const ml_linear *layer = group->layer;
    lora_pair *pair = &group->pair[group->npairs++];
    *pair = (lora_pair){.rank = rank, .alpha = alpha, .scale = scale};
    snprintf(pair->module, sizeof pair->module, "%s", module);
    for (int i = 0; i < layer->nparts; i++) {
        if (part >= 0 && i < part) pair->start += layer->part[i].count;
        if (part >= 0 && i != part) continue;
        pair->count += layer->part[i].count;
        pair->global_out += layer->part[i].out;
    }
    group->rank += rank;
}

/* All A's of the group, then all B's: the A's end up next to each other. */
static ml_status add_parameters(ml_peft *peft, lora_group *group, const int *parts)
{
    ml_status st = ML_OK;
    ml_parameters *p = peft->parameters;
    const ml_linear *layer = group->layer;
    bool row = layer->kind == ML_LINEAR_ROW, leaves = layer->leaves > 0;
    ml_gradient_kind a = leaves && !row ? ML_GRADIENT_IDENTICAL : ML_GRADIENT_PARTIAL,
                     b = leaves && row ? ML_GRADIENT_IDENTICAL : ML_GRADIENT_PARTIAL;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    char name[96];
    for (int i = 0; i < group->npairs; i++) {
        lora_pair *pair = &group->pair[i];
        snprintf(name, sizeof name, "%s.lora_A", pair->module);
        ML_TRY(ml_parameters_add(p, name, pair->rank, layer->global_in, false,
                                 row ? ml_linear_weight_shard(layer, 0) : whole, a,
                                 &pair->parameter_a));
    }
    for (int i = 0; i < group->npairs; i++) {
        lora_pair *pair = &group->pair[i];
        snprintf(name, sizeof name, "%s.lora_B", pair->module);
        ML_TRY(ml_parameters_add(p, name, pair->global_out, pair->rank, false,
                                 output_shard(layer, parts[i]), b, &pair->parameter_b));
        if (peft->options.lora_plus > 0.0)
            p->items[pair->parameter_b].lr_factor = peft->options.lora_plus;
    }
done:
    return st;
}

/* "attn.q" of "layers.3.attn.q"; NULL of the embedding and the head. */
static const char *in_layer(const char *module)
{
    const char *dot = strchr(module, '.');
    return dot ? strchr(dot + 1, '.') + 1 : NULL;
}

/* The family's fused target that all parts of this layer make together, and its module:
 * "layers.3.attn.qkv" from "layers.3.attn.q"; NULL: none. */
static const ml_family_tensor *fused_target(const ml_model *model, const ml_linear *layer,
                                            char module[64])
{
    const ml_family *family = ml_model_get_spec(model)->family;
    const char *first = layer->part[0].module, *own = in_layer(first);
    const ml_family_tensor *row =
        own ? ml_family_fused(family, ml_family_find_target(family, own)) : NULL;
    if (row) snprintf(module, 64, "%.*s%s", (int)(own - first), first, row->module);
    return row;
}

static ml_status create(ml_peft **out, ml_model *model, ml_parameters *parameters, bool has_dora)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    ML_NEW(peft, 1, ML_MEM_OTHER, "an adapter");
    peft->operations = &lora_operations;
    peft->model = model;
    peft->parameters = parameters;
    ML_NEW(peft->groups, ml_model_linears(model), ML_MEM_OTHER, "an adapter's layers");
    if (has_dora) {
        dora *d;
        ML_NEW(d, 1, ML_MEM_OTHER, "an adapter");
        peft->own = d;
    }
    *out = peft;
    peft = NULL;
done:
    if (peft) ml_memory_free(peft->groups);
    ml_memory_free(peft);
    return st;
}

/* Finishes a group that describe_pair filled: nothing where it has no pair. */
static ml_status finish_group(ml_peft *peft, lora_group *group, const int *parts)
{
    if (group->npairs == 0) return ML_OK;
    group->dropout = peft->options.dropout;
    for (int i = 0; i < group->npairs; i++)
        group->pair[i].dropout_key = ml_random_key_make(peft->options.seed, group->pair[i].module);
    lora_install(group);
    peft->ngroups++;
    ml_status st = add_parameters(peft, group, parts);
    return st == ML_OK && peft->own ? dora_add(peft, group) : st;
}

/* The target's bit of a projection, by the last word of its module. */
static unsigned target_of(const char *module)
{
    const char *dot = strrchr(module, '.');
    return ml_target_find(dot ? dot + 1 : module);
}

static void describe_configured(const ml_lora_options *o, lora_group *group, const char *module,
                                int part, int parts[PAIRS_A_LAYER])
{
    int64_t rank = lora_rank_of(o, module);
    double alpha = lora_alpha_of(o, module);
    parts[group->npairs] = part;
    describe_pair(group, module, part, rank, alpha, scale_of(alpha, rank, o->scaling));
}

/* A decomposition gives no more factors than the smaller side of its matrix. */
static ml_status check_ranks(const ml_lora_options *o, const lora_group *group)
{
    for (int i = 0; i < group->npairs && (o->pissa || o->loftq); i++) {
        const lora_pair *p = &group->pair[i];
        if (p->rank > ml_min(p->global_out, group->layer->global_in))
            return ml_fail(ML_USAGE,
                           "method.init: %s: rank %" PRId64 " of %s is more than its matrix of "
                           "%" PRId64 " × %" PRId64 " has",
                           o->loftq ? "loftq" : "pissa", p->rank, p->module, p->global_out,
                           group->layer->global_in);
    }
    return ML_OK;
}

static ml_status attach_to_linear(ml_peft *peft, ml_linear *layer)
{
    const ml_lora_options *o = &peft->options;
    lora_group *group = &peft->groups[peft->ngroups];
    int parts[PAIRS_A_LAYER];
    *group = (lora_group){.layer = layer,
                          .parameters = peft->parameters,
                          .takes = o->pissa && !ml_peft_changes_weights(peft)};
    char module[64];
    const ml_family_tensor *fused = fused_target(peft->model, layer, module);
    if (fused && (o->targets & ml_target_find(fused->target)))
        describe_configured(o, group, module, -1, parts);
    for (int i = 0; i < layer->nparts; i++)
        if (o->targets & target_of(layer->part[i].module))
            describe_configured(o, group, layer->part[i].module, i, parts);
    ml_status st = check_ranks(o, group);
    return st == ML_OK ? finish_group(peft, group, parts) : st;
}

/* What cannot be said of the embedding, or of a head whose weight may be the embedding's. */
static ml_status check_ends(const ml_lora_options *o)
{
    const bool embed = o->targets & ML_TARGET_EMBED, end = embed || o->targets & ML_TARGET_HEAD;
    if (embed && o->dora)
        return ml_fail(ML_USAGE, "method.targets: embed: DoRA's magnitudes are those of rows, the "
                                 "embedding has none; leave out embed or method.dora");
    if (embed && o->lora_plus > 0.0)
        return ml_fail(ML_USAGE, "method.targets: embed: LoRA+ gives B another learning rate, but "
                                 "an embedding's B is not the factor that starts as zero; leave "
                                 "out embed or method.lora_plus");
    if (end && o->pissa)
        return ml_fail(ML_USAGE,
                       "method.targets: %s: PiSSA changes the weight that it adapts, which "
                       "embedding and head may share; leave it out or choose another method.init",
                       embed ? "embed" : "head");
    if (end && o->loftq)
        return ml_fail(ML_USAGE,
                       "method.targets: %s: LoftQ is for the matrices of layers; leave it out or "
                       "choose another method.init",
                       embed ? "embed" : "head");
    return ML_OK;
}

static bool is_outside(const ml_model *model, int64_t linear)
{
    return linear >= ml_model_linears(model) - ML_LINEARS_OUTSIDE;
}

ml_status ml_peft_attach_lora(ml_peft **out, ml_model *model, ml_parameters *parameters,
                              const ml_lora_options *options)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    ML_TRY(create(&peft, model, parameters, options->dora));
    peft->options = *options;
    ML_TRY(check_ends(options));
    if (options->loftq && !ml_model_get_spec(model)->formats) {
        st = ml_fail(ML_USAGE, "method.init: loftq starts from what rounding to blocks has lost, "
                               "but the base has no blocks; make one with import --quantise, or "
                               "choose another init");
        goto done;
    }
    for (int64_t i = 0; i < ml_model_linears(model); i++)
        if (is_outside(model, i) || lora_wants_layer(options, i / ML_LINEARS_A_LAYER))
            ML_TRY(attach_to_linear(peft, ml_model_linear(model, i)));
    ML_TRY(lora_check_modules(peft));
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}

/* ---- an adapter that exists ---------------------------------------------------------------- */

static ml_status attach_pairs(ml_peft *peft, ml_linear *layer, const ml_adapter *adapter,
                              int64_t *used)
{
    lora_group *group = &peft->groups[peft->ngroups];
    int parts[PAIRS_A_LAYER];
    char fused[64] = "";
    *group = (lora_group){.layer = layer, .parameters = peft->parameters};
    (void)fused_target(peft->model, layer, fused);
    for (int64_t j = 0; j < adapter->count; j++) {
        const ml_adapter_pair *from = &adapter->pairs[j];
        int part = !strcmp(from->module, fused) ? -1 : layer->nparts;
        for (int i = 0; i < layer->nparts; i++)
            if (!strcmp(from->module, layer->part[i].module)) part = i;
        if (part == layer->nparts) continue;
        if (group->npairs == PAIRS_A_LAYER)
            return ml_fail(ML_INPUT, "adapter: %s is adapted more than once", from->module);
        parts[group->npairs] = part;
        describe_pair(group, from->module, part, from->rank, from->alpha, from->scale);
        ++*used;
    }
    return finish_group(peft, group, parts);
}

ml_status lora_attach_adapter(ml_peft **out, ml_model *model, ml_parameters *parameters,
                              const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ml_peft *peft = NULL;
    int64_t used = 0;
    ML_TRY(create(&peft, model, parameters, adapter->count > 0 && adapter->pairs[0].m));
    for (int64_t i = 0; i < ml_model_linears(model); i++)
        ML_TRY(attach_pairs(peft, ml_model_linear(model, i), adapter, &used));
    if (used != adapter->count) {
        st = ml_fail(ML_INPUT,
                     "adapter: %" PRId64 " of its %" PRId64
                     " pairs have no place in this model; is it an adapter of another base?",
                     adapter->count - used, adapter->count);
        goto done;
    }
    *out = peft;
    peft = NULL;
done:
    ml_peft_destroy(peft);
    return st;
}

/* ---- operations ---------------------------------------------------------------------------- */

static void destroy(ml_peft *peft)
{
    for (int64_t g = 0; g < peft->ngroups; g++) peft->groups[g].layer->hook = (ml_linear_hook){0};
    if (peft->own) dora_destroy(peft->own);
}

static ml_status bind(ml_peft *peft)
{
    ml_parameters *p = peft->parameters;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            lora_pair *pair = &peft->groups[g].pair[i];
            int64_t a = p->items[pair->parameter_a].offset, b = p->items[pair->parameter_b].offset;
            pair->a = p->value + a;
            pair->b = p->value + b;
            pair->da = p->gradient ? p->gradient + a : NULL;
            pair->db = p->gradient ? p->gradient + b : NULL;
        }
    }
    return peft->own ? dora_bind(peft) : ML_OK;
}

static void initialise(ml_peft *peft)
{
    const ml_parameters *p = peft->parameters;
    for (int64_t g = 0; g < peft->ngroups; g++) {
        for (int i = 0; i < peft->groups[g].npairs; i++) {
            const lora_pair *pair = &peft->groups[g].pair[i];
            const ml_parameter *a = &p->items[pair->parameter_a], *b = &p->items[pair->parameter_b];
            bool lookup = peft->groups[g].layer->lookup; /* as PEFT's embeddings start */
            memset(pair->a, 0, (size_t)a->count * sizeof *pair->a);
            memset(pair->b, 0, (size_t)b->count * sizeof *pair->b);
            if (lookup)
                peft_draw_normal(b, peft->options.seed, 1.0, pair->b);
            else
                peft_draw_uniform(a, peft->options.seed, pair->a);
        }
    }
    if (peft->own) dora_initialise(peft);
}

static void after_update(ml_peft *peft)
{
    if (peft->own) dora_renew(peft);
}

static void bytes_of(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    (void)training;
    if (peft->own) dora_bytes(peft, bytes);
    pissa_bytes(peft, bytes);
}

const peft_operations lora_operations = {.destroy = destroy,
                                         .bind = bind,
                                         .initialise = initialise,
                                         .after_update = after_update,
                                         .bytes = bytes_of,
                                         .check = lora_check,
                                         .load = lora_load,
                                         .collect = lora_collect};
