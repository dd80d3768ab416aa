/* Command R (Cohere 2024): attention and MLP beside each other behind one layer norm without bias,
 * rotary pairs of neighbours, logits that are multiplied; Command R+ has a layer norm over each
 * head of q and k, with a weight for each. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LLAMA_NORM1,
    LLAMA_QKV(PLAIN, QKV_BIAS),
    HEADS_NORM("attn.q_norm", Q_NORM, QUERIES, QK_NORM, BY_HEAD, "@.self_attn.q_norm",
               "@.attn_q_norm"),
    HEADS_NORM("attn.k_norm", K_NORM, KEYS, QK_NORM, BY_HEAD, "@.self_attn.k_norm",
               "@.attn_k_norm"),
    LLAMA_O,
    LLAMA_MLP,
    LLAMA_ENDS,
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES_WITHOUT_EPS,
    LLAMA_ACTIVATION,
    KEY("layer_norm_eps", REAL, norm_eps),
    KEY("logit_scale", REAL, logit_multiplier),
    KEY("use_qk_norm", FLAG, qk_norm),
    LLAMA_ATTENTION_BIAS,
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    REQUIRED("attention.layer_norm_epsilon", REAL, norm_eps),
    KEY("rope.freq_base", REAL, rope_theta),
    KEY("logit_scale", REAL, logit_multiplier),
    CHECKED("expert_count", OFF),
    CHECKED("attention.sliding_window", OFF),
    CHECKED("attention.scale", OFF),
    {0},
};

const ml_family ml_family_cohere = {
    .name = "cohere",
    .title = "Cohere",
    .defaults = {.family = &ml_family_cohere,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 500000.0,
                 .gated = true,
                 .activation = ML_SILU,
                 .norm_places = ML_NORMS_PARALLEL,
                 .qk_norm_kind = ML_QK_NORM_EACH_HEAD,
                 .rope_neighbours = true,
                 .logit_multiplier = 0.0625,
                 .tied_head = true},
    .tensors = tensors,
    .hf = {LLAMA_HF("cohere", "CohereForCausalLM"), .keys = config_keys,
           .rope = {.theta_required = true}},
    .gguf = {.architecture = "command-r", .head = ML_GGUF_HEAD_NEVER, .keys = gguf_keys},
};
