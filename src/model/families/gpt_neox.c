/* GPT-NeoX-20B (Black et al. 2022) and Pythia (Biderman et al. 2023): attention and MLP side by
 * side, each with its own norm, a part of each head rotated, q, k and v of each head in one tensor.
 */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "gpt_neox.embed_in", PLAIN, "token_embd", PLAIN, ""),
    LAYER_NORM(0, "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    GPT_FUSED_QKV(QKV_BIAS, "@.attention.query_key_value"),
    GPT_O(O_BIAS, "@.attention.dense"),
    LAYER_NORM(0, "norm2", NORM2, "@.post_attention_layernorm", "@.ffn_norm"),
    GPT_MLP(ALWAYS, "@.mlp.dense_h_to_4h", "@.mlp.dense_4h_to_h"),
    LAYER_NORM(0, "norm", FINAL_NORM, "gpt_neox.final_layer_norm", "output_norm"),
    HEAD_CALLED("head", VOCAB, WIDTH, ROWS, "embed_out", "output", "lm_head"),
    SCORE(WIDTH),
    TOKEN_SCORE("classifier"),
    {0},
};

static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    REQUIRED("intermediate_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("max_position_embeddings", SIZE, context),
    KEY("hidden_act", ACTIVATION, activation),
    KEY("layer_norm_eps", REAL, norm_eps),
    CHOICE("use_parallel_residual", CHOICE, norm_places, ML_NORMS_TWIN, ML_NORMS_BEFORE),
    KEY("attention_bias", FLAG, qkv_bias),
    KEY("attention_bias", FLAG, o_bias),
    KEY("tie_word_embeddings", FLAG, tied_head),
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    KEY("attention.layer_norm_epsilon", REAL, norm_eps),
    KEY("rope.freq_base", REAL, rope_theta),
    CHOICE("use_parallel_residual", CHOICE, norm_places, ML_NORMS_TWIN, ML_NORMS_BEFORE),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_gpt_neox = {
    .name = "gpt_neox",
    .title = "GPT-NeoX",
    .defaults = {.family = &ml_family_gpt_neox,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .norm_places = ML_NORMS_TWIN,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .activation = ML_GELU_ERF,
                 GPT_BIASED},
    .mlp_factor = 4,
    .plain_heads = true,
    .norm_places = PLACE(TWIN) | PLACE(BEFORE),
    .tensors = tensors,
    .hf = {.model_type = "gpt_neox",
           .former_head = "embed_out",
           .architecture = "GPTNeoXForCausalLM",
           .prefix = "gpt_neox.",
           .layers = "gpt_neox.layers.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys,
           .rope = {.part = "rotary_pct", .default_part = 0.25, .theta = "rotary_emb_base"}},
    .gguf = {.architecture = "gptneox",
             .head = ML_GGUF_HEAD_ALWAYS,
             .keys = gguf_keys,
             .unsaid = "rope_theta and GELU's kind: 10000 and the exact one are assumed"},
};
