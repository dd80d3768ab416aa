/* Llama 1 to 3 (Touvron et al. 2023; Dubey et al. 2024), SmolLM 1 and 2, TinyLlama. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED, LLAMA_NORM1,  LLAMA_QKV(PAIRED, QKV_BIAS), LLAMA_O, LLAMA_NORM2, LLAMA_MLP,
    LLAMA_ENDS,  SCORE(WIDTH), TOKEN_SCORE("score"),        {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    LLAMA_ACTIVATION,
    LLAMA_ATTENTION_BIAS,
    KEY("mlp_bias", FLAG, mlp_bias),
    CHECKED("sliding_window", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_llama = {
    .name = "llama",
    .title = "Llama",
    .defaults = {.family = &ml_family_llama, LLAMA_FEATURES(1e-6, 10000.0)},
    .tensors = tensors,
    .hf = {LLAMA_HF("llama", "LlamaForCausalLM"), .keys = config_keys},
    .gguf = {.architecture = "llama",
             .keys = gguf_keys,
             .unsaid = "a sliding window, which Mistral's models may have: none is assumed"},
};
