/* Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama with fused projections and, for long contexts,
 * longrope. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LLAMA_NORM1,
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.self_attn.qkv_proj", PLAIN, "@.attn_qkv", PLAIN,
           "q"),
    WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.self_attn.qkv_proj", PLAIN, "@.attn_qkv", PLAIN,
           "k"),
    WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.self_attn.qkv_proj", PLAIN, "@.attn_qkv", PLAIN,
           "v"),
    FUSED("attn.qkv", QKV, QKV, WIDTH, "@.self_attn.qkv_proj", PLAIN, "@.attn_qkv", PLAIN, "qkv"),
    LLAMA_O,
    LLAMA_NORM2,
    FUSED_GATED_MLP,
    LLAMA_ENDS,
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    LLAMA_ACTIVATION,
    {0},
};

static const ml_family_key gguf_keys[] = {
    LLAMA_GGUF,
    KEY("attention.sliding_window", COUNT, window),
    GGUF_REFUSED_OF_ALL,
    {0},
};

const ml_family ml_family_phi3 = {
    .name = "phi3",
    .title = "Phi-3",
    .defaults = {.family = &ml_family_phi3, LLAMA_FEATURES(1e-5, 10000.0)},
    .tensors = tensors,
    .hf = {LLAMA_HF("phi3", "Phi3ForCausalLM"), .keys = config_keys,
           .windows = {.size = "sliding_window"},
           .rope = {.part = "partial_rotary_factor", .longrope_alone = true}},
    .gguf = {.architecture = "phi3", .keys = gguf_keys},
};
