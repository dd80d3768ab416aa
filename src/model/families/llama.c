/* Llama 1 to 3 (Touvron et al. 2023; Dubey et al. 2024), SmolLM 1 and 2, TinyLlama. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "model.embed_tokens", PLAIN, "token_embd", PLAIN,
           ""),
    NORM_WEIGHT("norm1", NORM1, WIDTH, "@.input_layernorm", "@.attn_norm"),
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.self_attn.q_proj", PLAIN, "@.attn_q", PAIRED,
           "q"),
    WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.self_attn.k_proj", PLAIN, "@.attn_k", PAIRED, "k"),
    WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.self_attn.v_proj", PLAIN, "@.attn_v", PLAIN, "v"),
    BIAS("attn.q", QKV, QUERIES, ROWS, QKV_BIAS, "@.self_attn.q_proj", "@.attn_q", PAIRED),
    BIAS("attn.k", QKV, KEYS, ROWS, QKV_BIAS, "@.self_attn.k_proj", "@.attn_k", PAIRED),
    BIAS("attn.v", QKV, KEYS, ROWS, QKV_BIAS, "@.self_attn.v_proj", "@.attn_v", PLAIN),
    WEIGHT("attn.o", O, WIDTH, QUERIES, COLS, "@.self_attn.o_proj", PLAIN, "@.attn_output", PLAIN,
           "o"),
    BIAS("attn.o", O, WIDTH, NONE, O_BIAS, "@.self_attn.o_proj", "@.attn_output", PLAIN),
    NORM_WEIGHT("norm2", NORM2, WIDTH, "@.post_attention_layernorm", "@.ffn_norm"),
    WEIGHT("mlp.gate", UP, MLP, WIDTH, ROWS, "@.mlp.gate_proj", PLAIN, "@.ffn_gate", PLAIN, "gate"),
    WEIGHT("mlp.up", UP, MLP, WIDTH, ROWS, "@.mlp.up_proj", PLAIN, "@.ffn_up", PLAIN, "up"),
    BIAS("mlp.gate", UP, MLP, ROWS, MLP_BIAS, "@.mlp.gate_proj", "@.ffn_gate", PLAIN),
    BIAS("mlp.up", UP, MLP, ROWS, MLP_BIAS, "@.mlp.up_proj", "@.ffn_up", PLAIN),
    WEIGHT("mlp.down", DOWN, WIDTH, MLP, COLS, "@.mlp.down_proj", PLAIN, "@.ffn_down", PLAIN,
           "down"),
    BIAS("mlp.down", DOWN, WIDTH, NONE, MLP_BIAS, "@.mlp.down_proj", "@.ffn_down", PLAIN),
    NORM_WEIGHT("norm", FINAL_NORM, WIDTH, "model.norm", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    {0},
};

/* attention_bias stands for two of our flags: a model that has only one of them has no
 * config.json. */
static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    KEY("num_key_value_heads", SIZE, kv_heads),
    KEY("head_dim", SIZE, head_dim),
    REQUIRED("intermediate_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("max_position_embeddings", SIZE, context),
    KEY("hidden_act", ACTIVATION, activation),
    KEY("rms_norm_eps", REAL, norm_eps),
    KEY("tie_word_embeddings", FLAG, tied_head),
    KEY("attention_bias", FLAG, qkv_bias),
    KEY("attention_bias", FLAG, o_bias),
    KEY("mlp_bias", FLAG, mlp_bias),
    CHECKED("quantization_config", OFF),
    CHECKED("sliding_window", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    REQUIRED("attention.layer_norm_rms_epsilon", REAL, norm_eps),
    KEY("rope.freq_base", REAL, rope_theta),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_llama = {
    .name = "llama",
    .title = "Llama",
    .defaults = {.family = &ml_family_llama,
                 .norm = ML_NORM_RMS,
                 .norm_eps = 1e-6,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .gated = true,
                 .activation = ML_SILU},
    .tensors = tensors,
    .hf = {.model_type = "llama",
           .architecture = "LlamaForCausalLM",
           .prefix = "model.",
           .layers = "model.layers.",
           .gelu_tanh = "gelu_pytorch_tanh",
           .keys = config_keys},
    .gguf = {.architecture = "llama",
             .keys = gguf_keys,
             .unsaid = "a sliding window, which Mistral's models may have: none is assumed"},
};
