/* Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v, and windows that are off
 * unless a flag is set. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED, LLAMA_NORM1,  LLAMA_QKV(PLAIN, ALWAYS), LLAMA_O, LLAMA_NORM2, LLAMA_MLP,
    LLAMA_ENDS,  SCORE(WIDTH), TOKEN_SCORE("score"),     {0},
};

static const ml_family_key config_keys[] = {LLAMA_SIZES, LLAMA_ACTIVATION, {0}};
static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_qwen2 = {
    .name = "qwen2",
    .title = "Qwen2",
    .defaults = {.family = &ml_family_qwen2, LLAMA_FEATURES(1e-6, 10000.0), .qkv_bias = true},
    .tensors = tensors,
    .hf = {LLAMA_HF("qwen2", "Qwen2ForCausalLM"), .keys = config_keys, .windows = QWEN_WINDOWS},
    .gguf = {.architecture = "qwen2",
             .keys = gguf_keys,
             .unsaid = "use_sliding_window: no sliding window is assumed"},
};
