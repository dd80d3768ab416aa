/* OLMo 2 (OLMo Team 2024): Llama with its norms behind the branches, and norms over all heads of
 * q and k. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LLAMA_QKV(PLAIN, QKV_BIAS),
    HEADS_NORM("attn.q_norm", Q_NORM, QUERIES, ALWAYS, PLAIN, "@.self_attn.q_norm",
               "@.attn_q_norm"),
    HEADS_NORM("attn.k_norm", K_NORM, KEYS, ALWAYS, PLAIN, "@.self_attn.k_norm", "@.attn_k_norm"),
    LLAMA_O,
    NORM_WEIGHT("norm1_behind", NORM1_BEHIND, WIDTH, "@.post_attention_layernorm",
                "@.post_attention_norm"),
    LLAMA_MLP,
    NORM_WEIGHT("norm2_behind", NORM2_BEHIND, WIDTH, "@.post_feedforward_layernorm",
                "@.post_ffw_norm"),
    LLAMA_ENDS,
    SCORE(WIDTH),
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    LLAMA_ACTIVATION,
    LLAMA_ATTENTION_BIAS,
    {0},
};

static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_olmo2 = {
    .name = "olmo2",
    .title = "OLMo 2",
    .defaults = {.family = &ml_family_olmo2,
                 LLAMA_FEATURES(1e-5, 10000.0),
                 .norm_places = ML_NORMS_BEHIND,
                 .qk_norm = true,
                 .qk_norm_kind = ML_QK_NORM_WIDTH},
    .tensors = tensors,
    .hf = {LLAMA_HF("olmo2", "Olmo2ForCausalLM"), .keys = config_keys},
    .gguf = {.architecture = "olmo2", .head = ML_GGUF_HEAD_ALWAYS, .keys = gguf_keys},
};
