/* StarCoder2 (Lozhkov et al. 2024): layer norms, biases, a plain MLP, groups of heads, sliding
 * windows. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "model.embed_tokens", PLAIN, "token_embd", PLAIN,
           ""),
    LAYER_NORM(0, "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    GPT_QKV(QKV_BIAS, "@.self_attn.q_proj", "@.self_attn.k_proj", "@.self_attn.v_proj", PLAIN,
            "@.attn_q", "@.attn_k", "@.attn_v", PLAIN),
    GPT_O(O_BIAS, "@.self_attn.o_proj"),
    LAYER_NORM(0, "norm2", NORM2, "@.post_attention_layernorm", "@.ffn_norm"),
    GPT_MLP(MLP_BIAS, "@.mlp.c_fc", "@.mlp.c_proj"),
    LAYER_NORM(0, "norm", FINAL_NORM, "model.norm", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
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
    KEY("norm_epsilon", REAL, norm_eps),
    ALL_BIASES("use_bias"),
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

const ml_family ml_family_starcoder2 = {
    .name = "starcoder2",
    .title = "StarCoder2",
    .defaults = {.family = &ml_family_starcoder2,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .activation = ML_GELU_TANH,
                 GPT_BIASED,
                 .tied_head = true},
    .mlp_factor = 4,
    .tensors = tensors,
    .hf = {.model_type = "starcoder2",
           .architecture = "Starcoder2ForCausalLM",
           .prefix = "model.",
           .layers = "model.layers.",
           .gelu_tanh = "gelu_pytorch_tanh",
           .keys = config_keys,
           .windows = {.size = "sliding_window"}},
    .gguf = {.architecture = "starcoder2",
             .keys = gguf_keys,
             .unsaid = "sliding_window: no sliding window is assumed"},
};
