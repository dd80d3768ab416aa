/* Names of the methods, and which of them two are made of. */
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
    for (int i = 0; method_words[i]; i++) {
        if (strcmp(method_words[i], name) != 0) continue;
        *out = (ml_method)i;
        return true;
    }
    return false;
}

bool ml_method_has_lora(ml_method method)
{
    return method == ML_METHOD_LORA || method == ML_METHOD_LORA_PREFIX_EMBED ||
           method == ML_METHOD_LORA_PREFIX_LAYER || method == ML_METHOD_LORA_PREFIX_KV;
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
