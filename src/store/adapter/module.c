/* Sites: the places of a model that a LoRA pair can stand at, in our names and in Hugging
 * Face's. */
#include <inttypes.h>
#include <stdlib.h>

#include "store/adapter/adapter.h"

const ml_module_kind *ml_module_kinds(ml_family family)
{
    static const ml_module_kind gpt2[] = {{"attn.q", "attn.c_attn"},  {"attn.k", "attn.c_attn"},
                                          {"attn.v", "attn.c_attn"},  {"attn.qkv", "attn.c_attn"},
                                          {"attn.o", "attn.c_proj"},  {"mlp.fc", "mlp.c_fc"},
                                          {"mlp.proj", "mlp.c_proj"}, {NULL, NULL}};
    static const ml_module_kind llama[] = {
        {"attn.q", "self_attn.q_proj"}, {"attn.k", "self_attn.k_proj"},
        {"attn.v", "self_attn.v_proj"}, {"attn.o", "self_attn.o_proj"},
        {"mlp.gate", "mlp.gate_proj"},  {"mlp.up", "mlp.up_proj"},
        {"mlp.down", "mlp.down_proj"},  {NULL, NULL}};
    return family == ML_FAMILY_GPT2 ? gpt2 : llama;
}

void ml_module_shape(const ml_model_spec *spec, const char *kind, int64_t *in, int64_t *out)
{
    int64_t d = spec->width, f = spec->mlp_width, q = spec->heads * spec->head_dim,
            kv = spec->kv_heads * spec->head_dim;
    const struct {
        const char *kind;
        int64_t in, out;
    } shapes[] = {
        {"attn.q", d, q},   {"attn.k", d, kv}, {"attn.v", d, kv}, {"attn.qkv", d, q + 2 * kv},
        {"attn.o", q, d},   {"mlp.fc", d, f},  {"mlp.up", d, f},  {"mlp.gate", d, f},
        {"mlp.proj", f, d}, {"mlp.down", f, d}};
    *in = *out = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shapes[i].kind, kind) != 0) continue;
        *in = shapes[i].in;
        *out = shapes[i].out;
    }
}

int64_t ml_module_first_row(const ml_model_spec *spec, const char *kind)
{
    if (spec->family != ML_FAMILY_GPT2) return 0;
    int64_t q = spec->heads * spec->head_dim, kv = spec->kv_heads * spec->head_dim;
    return !strcmp(kind, "attn.k") ? q : !strcmp(kind, "attn.v") ? q + kv : 0;
}

const ml_module_kind *ml_module_parse(const ml_model_spec *spec, const char *module, int64_t *layer)
{
    char again[64];
    if (strncmp(module, "layers.", 7) != 0) return NULL;
    char *rest;
    *layer = strtoll(module + 7, &rest, 10);
    if (*layer < 0 || *layer >= spec->layers || *rest != '.') return NULL;
    for (const ml_module_kind *kind = ml_module_kinds(spec->family); kind->name; kind++) {
        snprintf(again, sizeof again, "layers.%" PRId64 ".%s", *layer, kind->name);
        if (!strcmp(again, module)) return kind;
    }
    return NULL;
}
