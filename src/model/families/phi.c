/* Phi-1, Phi-1.5 and Phi-2 (Li et al. 2023): attention and MLP side by side behind one norm, half
 * of each head rotated, a bias on the head. */
#include "model/families/families.h"

#define HEAD_NORM(bias, suffix, module, role, hf, gguf)                                            \
    FAMILY_ROW(module, bias, role, HEAD, ONE, NONE, FP32, QK_NORM, hf, suffix, PLAIN, gguf, PLAIN, \
               "")

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "model.embed_tokens", PLAIN, "token_embd", PLAIN,
           ""),
    LAYER_NORM(0, "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    GPT_QKV(ALWAYS, "@.self_attn.q_proj", "@.self_attn.k_proj", "@.self_attn.v_proj", PLAIN,
            "@.attn_q", "@.attn_k", "@.attn_v", PLAIN),
    HEAD_NORM(false, ".weight", "attn.q_norm", Q_NORM, "@.self_attn.q_layernorm", "@.attn_q_norm"),
    HEAD_NORM(true, ".bias", "attn.q_norm", Q_NORM, "@.self_attn.q_layernorm", "@.attn_q_norm"),
    HEAD_NORM(false, ".weight", "attn.k_norm", K_NORM, "@.self_attn.k_layernorm", "@.attn_k_norm"),
    HEAD_NORM(true, ".bias", "attn.k_norm", K_NORM, "@.self_attn.k_layernorm", "@.attn_k_norm"),
    GPT_O(ALWAYS, "@.self_attn.dense"),
    GPT_MLP(ALWAYS, "@.mlp.fc1", "@.mlp.fc2"),
    LAYER_NORM(0, "norm", FINAL_NORM, "model.final_layernorm", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    HEAD_BIAS("lm_head", "output"),
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    KEY("num_key_value_heads", SIZE, kv_heads),
    REQUIRED("intermediate_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("max_position_embeddings", SIZE, context),
    KEY("hidden_act", ACTIVATION, activation),
    KEY("layer_norm_eps", REAL, norm_eps),
    KEY("qk_layernorm", FLAG, qk_norm),
    KEY("tie_word_embeddings", FLAG, tied_head),
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    KEY("attention.layer_norm_epsilon", REAL, norm_eps),
    KEY("rope.freq_base", REAL, rope_theta),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_phi = {
    .name = "phi",
    .title = "Phi",
    .defaults = {.family = &ml_family_phi,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .norm_places = ML_NORMS_PARALLEL,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .activation = ML_GELU_TANH,
                 GPT_BIASED},
    .mlp_factor = 4,
    .tensors = tensors,
    .hf = {.model_type = "phi",
           .architecture = "PhiForCausalLM",
           .prefix = "model.",
           .layers = "model.layers.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys,
           .rope = {.part = "partial_rotary_factor", .default_part = 0.5}},
    .gguf = {.architecture = "phi2", .head = ML_GGUF_HEAD_ALWAYS, .keys = gguf_keys},
};
