/* Which layers LoRA adapts, and with which rank and alpha a module: method.layers,
 * method.rank_pattern and method.alpha_pattern. */
#include <inttypes.h>

#include "peft/peft_private.h"

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
