/* Methods: their names, which of them two are made of, and which keys each of them reads. */
#include "config/table.h"
#include "mpilora/config.h"

const char *const method_words[] = {"lora",
                                    "full",
                                    "top",
                                    "bitfit",
                                    "prefix_embed",
                                    "prefix_layer",
                                    "prefix_kv",
                                    "adapter_h",
                                    "adapter_l",
                                    "adapter_p",
                                    "adapter_drop",
                                    "compacter",
                                    "lora+prefix_embed",
                                    "lora+prefix_layer",
                                    "lora+prefix_kv",
                                    NULL};

const char *ml_method_name(ml_method method) { return method_words[method]; }

bool ml_method_find(const char *name, ml_method *out)
{
    int found = ml_find_word(name, method_words);
    if (found >= 0) *out = (ml_method)found;
    return found >= 0;
}

bool ml_method_has_lora(ml_method method)
{
    return method == ML_METHOD_LORA || method == ML_METHOD_LORA_PREFIX_EMBED ||
           method == ML_METHOD_LORA_PREFIX_LAYER || method == ML_METHOD_LORA_PREFIX_KV;
}

bool ml_method_saves_modules(ml_method method)
{
    return method != ML_METHOD_FULL && method != ML_METHOD_TOP && method != ML_METHOD_BITFIT;
}

bool ml_method_has_prefix(ml_method method)
{
    return method == ML_METHOD_PREFIX_EMBED || method == ML_METHOD_PREFIX_LAYER ||
           method == ML_METHOD_LORA_PREFIX_EMBED || method == ML_METHOD_LORA_PREFIX_LAYER ||
           ml_method_has_keys(method);
}

bool ml_method_has_keys(ml_method method)
{
    return method == ML_METHOD_PREFIX_KV || method == ML_METHOD_LORA_PREFIX_KV;
}

bool ml_method_has_bottleneck(ml_method method)
{
    return method == ML_METHOD_ADAPTER_H || method == ML_METHOD_ADAPTER_L ||
           method == ML_METHOD_ADAPTER_P || method == ML_METHOD_ADAPTER_DROP ||
           method == ML_METHOD_COMPACTER;
}

/* ---- keys that the chosen method does not read --------------------------------------------- */

/* They are not refused: one file serves several methods, whose name is set on the command line. */
static bool is_top(ml_method method) { return method == ML_METHOD_TOP; }
static bool is_bitfit(ml_method method) { return method == ML_METHOD_BITFIT; }
static bool is_drop(ml_method method) { return method == ML_METHOD_ADAPTER_DROP; }
static bool is_compacter(ml_method method) { return method == ML_METHOD_COMPACTER; }
static bool has_infix(ml_method method)
{
    return ml_method_has_prefix(method) && !ml_method_has_keys(method);
}

typedef struct reader {
    const char *key;
    size_t offset, size;
    bool (*reads)(ml_method method);
} reader;

#define OF(field) offsetof(ml_run_config, method.field), sizeof((ml_run_config *)NULL)->method.field

static const reader readers[] = {
    {"method.rank", OF(rank), ml_method_has_lora},
    {"method.alpha", OF(alpha), ml_method_has_lora},
    {"method.dropout", OF(dropout), ml_method_has_lora},
    {"method.targets", OF(targets), ml_method_has_lora},
    {"method.scaling", OF(scaling), ml_method_has_lora},
    {"method.dora", OF(dora), ml_method_has_lora},
    {"method.lora_plus", OF(lora_plus), ml_method_has_lora},
    {"method.layers", OF(layers), ml_method_has_lora},
    {"method.rank_pattern", OF(rank_pattern), ml_method_has_lora},
    {"method.alpha_pattern", OF(alpha_pattern), ml_method_has_lora},
    {"method.modules_to_save", OF(modules_to_save), ml_method_saves_modules},
    {"method.bias", OF(bias), ml_method_has_lora},
    {"method.trainable_tokens", OF(trainable_tokens), ml_method_saves_modules},
    {"method.trainable_head_tokens", OF(trainable_head_tokens), ml_method_saves_modules},
    {"method.top", OF(sizes.top), is_top},
    {"method.prefix", OF(sizes.prefix), ml_method_has_prefix},
    {"method.infix", OF(sizes.infix), has_infix},
    {"method.prefix_init", OF(prefix_init), ml_method_has_prefix},
    {"method.prefix_text", OF(prefix_text), ml_method_has_prefix},
    {"method.bottleneck", OF(sizes.bottleneck), ml_method_has_bottleneck},
    {"method.drop", OF(sizes.drop), is_drop},
    {"method.factors", OF(sizes.factors), is_compacter},
    {"method.new_biases", OF(sizes.new_biases), is_bitfit}};

static void warn(const ml_run_config *c, const char *key)
{
    ml_warn("%s: %s: is set, but method %s does not read it", c->path, key,
            ml_method_name(c->method.name));
}

/* Of the numbers of preferences: other keys of objectives are refused where nothing reads them
 * (objective.c). */
static void warn_of_objective(const ml_run_config *c, const ml_run_config *usual)
{
    const ml_objective name = c->objective.name;
    const bool adds = name == ML_OBJECTIVE_CPO || name == ML_OBJECTIVE_SIMPO,
               compares = adds || name == ML_OBJECTIVE_DPO || name == ML_OBJECTIVE_IPO ||
                          name == ML_OBJECTIVE_ORPO || name == ML_OBJECTIVE_KTO;
    const struct {
        const char *key;
        double value, usual;
        bool is_read;
    } numbers[] = {
        {"objective.beta", c->objective.beta, usual->objective.beta, compares},
        {"objective.gamma", c->objective.gamma, usual->objective.gamma, name == ML_OBJECTIVE_SIMPO},
        {"objective.cpo_alpha", c->objective.cpo_alpha, usual->objective.cpo_alpha, adds}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value != numbers[i].usual && !numbers[i].is_read)
            ml_warn("%s: %s: is set, but objective %s does not read it", c->path, numbers[i].key,
                    ml_objective_name(name));
}

void ml_run_config_warn_unread(const ml_run_config *c)
{
    ml_run_config usual;
    ml_run_config_set_defaults(&usual);
    warn_of_objective(c, &usual);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        const reader *r = &readers[i];
        if (r->reads(c->method.name) ||
            !memcmp((const char *)c + r->offset, (const char *)&usual + r->offset, r->size))
            continue;
        warn(c, r->key);
    }
    bool word = c->method.init && !ml_run_config_first_adapter(c); /* pissa or loftq */
    if (word && !ml_method_has_lora(c->method.name))
        ml_warn("%s: method.init: %s: is set, but method %s does not read it", c->path,
                c->method.init, ml_method_name(c->method.name));
    if (c->method.original && !ml_run_config_is_loftq(c))
        ml_warn("%s: method.original: is set, but only method.init: loftq reads it", c->path);
    if (c->objective.label_smoothing > 0.0 && !objective_smooths(c))
        ml_warn("%s: objective.label_smoothing: is set, but no loss type of objective %s reads it",
                c->path, ml_objective_name(c->objective.name));
}
