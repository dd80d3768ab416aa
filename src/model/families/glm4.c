/* GLM-4-0414 (GLM Team 2024): Llama with norms before and behind both branches, half of each head
 * rotated in pairs of neighbours, biases on q, k and v, and gate and up as one. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LLAMA_NORM1,
    LLAMA_QKV(PLAIN, QKV_BIAS),
    LLAMA_O,
    NORM_WEIGHT("norm1_behind", NORM1_BEHIND, WIDTH, "@.post_self_attn_layernorm",
                "@.post_attention_norm"),
    LLAMA_NORM2,
    FUSED_GATED_MLP,
    NORM_WEIGHT("norm2_behind", NORM2_BEHIND, WIDTH, "@.post_mlp_layernorm", "@.post_ffw_norm"),
    LLAMA_ENDS,
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    LLAMA_ACTIVATION,
    KEY("attention_bias", FLAG, qkv_bias),
    {0},
};

static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_glm4 = {
    .name = "glm4",
    .title = "GLM-4",
    .defaults = {.family = &ml_family_glm4,
                 LLAMA_FEATURES(1.5625e-7, 10000.0),
                 .head_dim = 128,
                 .norm_places = ML_NORMS_BOTH,
                 .rope_neighbours = true},
    .tensors = tensors,
    .hf = {LLAMA_HF("glm4", "Glm4ForCausalLM"), .keys = config_keys,
           .rope = {.part = "partial_rotary_factor", .default_part = 0.5}},
    .gguf = {.architecture = "glm4", .keys = gguf_keys},
};
