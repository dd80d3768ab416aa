/* adapter_case: small models and adapters for them, filled with known numbers. */
#ifndef MPILORA_TESTS_ADAPTER_CASE_H
#define MPILORA_TESTS_ADAPTER_CASE_H

#include <math.h>
#include <stdlib.h>

#include "model/families/families.h"
#include "store/adapter/adapter.h"

#define SOURCE_HASH "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff"

static const ml_model_spec tiny_gpt2 = {.family = &ml_family_gpt2,
                                        .norm = ML_NORM_LAYER,
                                        .positions = ML_POSITIONS_LEARNED,
                                        .layers = 2,
                                        .width = 8,
                                        .mlp_width = 32,
                                        .heads = 2,
                                        .kv_heads = 2,
                                        .head_dim = 4,
                                        .vocab = 50,
                                        .context = 16,
                                        .activation = ML_GELU_TANH,
                                        .norm_eps = 1e-5,
                                        .tied_head = true,
                                        .qkv_bias = true,
                                        .o_bias = true,
                                        .mlp_bias = true};

static const ml_model_spec tiny_llama = {.family = &ml_family_llama,
                                         .gated = true,
                                         .layers = 2,
                                         .width = 8,
                                         .mlp_width = 12,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = 2,
                                         .vocab = 50,
                                         .context = 16,
                                         .activation = ML_SILU,
                                         .norm_eps = 1e-5,
                                         .rope_theta = 10000.0,
                                         .tied_head = true};

/* An adapter with the named kinds ("attn.q", …) in layers [first, layers). */
static inline ml_adapter make_adapter(const ml_model_spec *spec, const char *const *kinds,
                                      int64_t first, int64_t rank, double alpha, bool rslora)
{
    ml_adapter adapter = {.rslora = rslora, .dropout = 0.125, .base_source_hash = SOURCE_HASH};
    int64_t capacity = 0;
    for (int64_t layer = first; layer < spec->layers; layer++) {
        for (int k = 0; kinds[k]; k++) {
            char module[64];
            int64_t in, out;
            ml_adapter_pair *pair;
            snprintf(module, sizeof module, "layers.%lld.%s", (long long)layer, kinds[k]);
            ml_module_shape(spec, ml_family_find_target(spec->family, kinds[k]), &in, &out);
            if (ml_adapter_add(&adapter, &capacity, module, rank, in, out, &pair) != ML_OK) abort();
            pair->alpha = alpha;
            pair->scale = ml_adapter_scale(alpha, rank, rslora);
            for (int64_t i = 0; i < rank * in; i++)
                pair->a[i] = sinf((float)(i + 100 * layer + 7 * k));
            for (int64_t i = 0; i < out * rank; i++)
                pair->b[i] = cosf((float)(3 * i + 50 * layer + 11 * k));
        }
    }
    return adapter;
}

/* DoRA's magnitudes for every pair. */
static inline void add_magnitudes(ml_adapter *adapter)
{
    for (int64_t i = 0; i < adapter->count; i++) {
        ml_adapter_pair *pair = &adapter->pairs[i];
        if (ml_adapter_add_magnitudes(pair) != ML_OK) abort();
        for (int64_t k = 0; k < pair->out; k++) pair->m[k] = 1.5F + sinf((float)(k + 13 * i));
    }
}

static inline const ml_adapter_pair *pair_at(const ml_adapter *adapter, const char *module)
{
    for (int64_t i = 0; i < adapter->count; i++)
        if (!strcmp(adapter->pairs[i].module, module)) return &adapter->pairs[i];
    return NULL;
}

/* The largest |difference| of two adapters' pairs, scale included; infinite where modules or shapes
 * differ. */
static inline float adapter_distance(const ml_adapter *x, const ml_adapter *y)
{
    float most = 0.0F;
    if (x->count != y->count) return INFINITY;
    for (int64_t i = 0; i < x->count; i++) {
        const ml_adapter_pair *p = &x->pairs[i], *q = pair_at(y, p->module);
        if (!q || p->rank != q->rank || p->in != q->in || p->out != q->out) return INFINITY;
        most = fmaxf(most, fabsf(p->scale - q->scale));
        for (int64_t k = 0; k < p->rank * p->in; k++) most = fmaxf(most, fabsf(p->a[k] - q->a[k]));
        for (int64_t k = 0; k < p->out * p->rank; k++) most = fmaxf(most, fabsf(p->b[k] - q->b[k]));
        if ((p->m != NULL) != (q->m != NULL)) return INFINITY;
        for (int64_t k = 0; p->m && k < p->out; k++) most = fmaxf(most, fabsf(p->m[k] - q->m[k]));
    }
    return most;
}

#endif
