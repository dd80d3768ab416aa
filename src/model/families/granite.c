/* Granite 3 (IBM 2024), dense: Llama with four multipliers. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED, LLAMA_NORM1, LLAMA_QKV(PAIRED, QKV_BIAS), LLAMA_O, LLAMA_NORM2, LLAMA_MLP,
    LLAMA_ENDS,  {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    LLAMA_ACTIVATION,
    LLAMA_ATTENTION_BIAS,
    KEY("mlp_bias", FLAG, mlp_bias),
    KEY("embedding_multiplier", REAL, embed_multiplier),
    KEY("attention_multiplier", REAL, attention_scale),
    KEY("residual_multiplier", REAL, residual_multiplier),
    KEY("logits_scaling", INVERSE, logit_multiplier),
    {0},
};

static const ml_family_key gguf_keys[] = {
    LLAMA_GGUF,
    KEY("embedding_scale", REAL, embed_multiplier),
    KEY("attention.scale", REAL, attention_scale),
    KEY("residual_scale", REAL, residual_multiplier),
    KEY("logit_scale", INVERSE, logit_multiplier),
    CHECKED("expert_count", OFF),
    CHECKED("attention.sliding_window", OFF),
    {0},
};

const ml_family ml_family_granite = {
    .name = "granite",
    .title = "Granite",
    .defaults = {.family = &ml_family_granite,
                 LLAMA_FEATURES(1e-6, 10000.0),
                 .embed_multiplier = 1.0,
                 .attention_scale = 1.0,
                 .residual_multiplier = 1.0,
                 .logit_multiplier = 1.0},
    .tensors = tensors,
    .hf = {LLAMA_HF("granite", "GraniteForCausalLM"), .keys = config_keys},
    .gguf = {.architecture = "granite", .keys = gguf_keys},
};
