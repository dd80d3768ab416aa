/* Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, where it has one. GGUF
 * files call it llama and lose the window. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED, LLAMA_NORM1,  LLAMA_QKV(PAIRED, QKV_BIAS), LLAMA_O, LLAMA_NORM2, LLAMA_MLP,
    LLAMA_ENDS,  SCORE(WIDTH), TOKEN_SCORE("score"),        {0},
};

static const ml_family_key config_keys[] = {LLAMA_SIZES, LLAMA_ACTIVATION, {0}};
static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_mistral = {
    .name = "mistral",
    .title = "Mistral",
    .defaults = {.family = &ml_family_mistral, LLAMA_FEATURES(1e-6, 10000.0)},
    .tensors = tensors,
    .hf = {LLAMA_HF("mistral", "MistralForCausalLM"), .keys = config_keys,
           .windows = {.size = "sliding_window", .default_size = 4096}},
    .gguf = {.architecture = "llama", .borrowed = true, .keys = gguf_keys},
};
