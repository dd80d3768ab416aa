/* GPT-2 (Radford et al. 2019), and GPT-3's dense models (Brown et al. 2020). */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "transformer.wte", PLAIN, "token_embd", PLAIN, ""),
    WEIGHT("position", POSITION, CONTEXT, WIDTH, ROWS, "transformer.wpe", PLAIN, "position_embd",
           PLAIN, ""),
    NORM_WEIGHT("norm1", NORM1, WIDTH, "@.ln_1", "@.attn_norm"),
    NORM_BIAS("norm1", NORM1, WIDTH, "@.ln_1", "@.attn_norm"),
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.attn.c_attn", TRANSPOSED, "@.attn_qkv", PLAIN,
           "q"),
    WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.attn.c_attn", TRANSPOSED, "@.attn_qkv", PLAIN, "k"),
    WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.attn.c_attn", TRANSPOSED, "@.attn_qkv", PLAIN, "v"),
    FUSED("attn.qkv", QKV, QKV, WIDTH, "@.attn.c_attn", TRANSPOSED, "@.attn_qkv", PLAIN, "qkv"),
    BIAS("attn.q", QKV, QUERIES, ROWS, ALWAYS, "@.attn.c_attn", "@.attn_qkv", PLAIN),
    BIAS("attn.k", QKV, KEYS, ROWS, ALWAYS, "@.attn.c_attn", "@.attn_qkv", PLAIN),
    BIAS("attn.v", QKV, KEYS, ROWS, ALWAYS, "@.attn.c_attn", "@.attn_qkv", PLAIN),
    WEIGHT("attn.o", O, WIDTH, QUERIES, COLS, "@.attn.c_proj", TRANSPOSED, "@.attn_output", PLAIN,
           "o"),
    BIAS("attn.o", O, WIDTH, NONE, ALWAYS, "@.attn.c_proj", "@.attn_output", PLAIN),
    NORM_WEIGHT("norm2", NORM2, WIDTH, "@.ln_2", "@.ffn_norm"),
    NORM_BIAS("norm2", NORM2, WIDTH, "@.ln_2", "@.ffn_norm"),
    WEIGHT("mlp.fc", UP, MLP, WIDTH, ROWS, "@.mlp.c_fc", TRANSPOSED, "@.ffn_up", PLAIN, "fc"),
    BIAS("mlp.fc", UP, MLP, ROWS, ALWAYS, "@.mlp.c_fc", "@.ffn_up", PLAIN),
    WEIGHT("mlp.proj", DOWN, WIDTH, MLP, COLS, "@.mlp.c_proj", TRANSPOSED, "@.ffn_down", PLAIN,
           "proj"),
    BIAS("mlp.proj", DOWN, WIDTH, NONE, ALWAYS, "@.mlp.c_proj", "@.ffn_down", PLAIN),
    NORM_WEIGHT("norm", FINAL_NORM, WIDTH, "transformer.ln_f", "output_norm"),
    NORM_BIAS("norm", FINAL_NORM, WIDTH, "transformer.ln_f", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    SCORE(WIDTH),
    TOKEN_SCORE("classifier"),
    {0},
};

/* n_ctx is what older files say for n_positions, and what llama.cpp's converter asks for. */
static const ml_family_key config_keys[] = {
    REQUIRED("n_layer", SIZE, layers),         REQUIRED("n_embd", SIZE, width),
    REQUIRED("n_head", SIZE, heads),           KEY("n_inner", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),       KEY("n_ctx", SIZE, context),
    KEY("n_positions", SIZE, context),         KEY("activation_function", ACTIVATION, activation),
    KEY("layer_norm_epsilon", REAL, norm_eps), KEY("tie_word_embeddings", FLAG, tied_head),
    CHECKED("scale_attn_weights", ON),         CHECKED("scale_attn_by_inverse_layer_idx", OFF),
    CHECKED("add_cross_attention", OFF),       {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    KEY("attention.layer_norm_epsilon", REAL, norm_eps),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_gpt2 = {
    .name = "gpt2",
    .title = "GPT-2",
    .defaults = {.family = &ml_family_gpt2,
                 .context = 1024,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_LEARNED,
                 .activation = ML_GELU_TANH,
                 .qkv_bias = true,
                 .o_bias = true,
                 .mlp_bias = true,
                 .tied_head = true},
    .mlp_factor = 4,
    .plain_heads = true,
    .tensors = tensors,
    .hf = {.model_type = "gpt2",
           .architecture = "GPT2LMHeadModel",
           .prefix = "transformer.",
           .layers = "transformer.h.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "gpt2", .keys = gguf_keys},
};
