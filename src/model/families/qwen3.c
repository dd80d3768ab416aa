/* Qwen3 (Yang et al. 2025), dense: Llama with an RMS norm over each head of q and k, and heads
 * whose size does not follow from the width. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LLAMA_NORM1,
    LLAMA_QKV(PLAIN, QKV_BIAS),
    NORM_WEIGHT("attn.q_norm", Q_NORM, HEAD, "@.self_attn.q_norm", "@.attn_q_norm"),
    NORM_WEIGHT("attn.k_norm", K_NORM, HEAD, "@.self_attn.k_norm", "@.attn_k_norm"),
    LLAMA_O,
    LLAMA_NORM2,
    LLAMA_MLP,
    LLAMA_ENDS,
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES, LLAMA_ACTIVATION, LLAMA_ATTENTION_BIAS, {0}};
static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_qwen3 = {
    .name = "qwen3",
    .title = "Qwen3",
    .defaults = {.family = &ml_family_qwen3,
                 LLAMA_FEATURES(1e-6, 10000.0),
                 .head_dim = 128,
                 .qk_norm = true},
    .tensors = tensors,
    .hf = {LLAMA_HF("qwen3", "Qwen3ForCausalLM"), .keys = config_keys, .windows = QWEN_WINDOWS},
    .gguf = {.architecture = "qwen3",
             .keys = gguf_keys,
             .unsaid = "use_sliding_window: no sliding window is assumed"},
};
