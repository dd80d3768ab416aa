/* GPT-J-6B (Wang and Komatsuzaki 2021): attention and MLP side by side behind one norm, pairs of
 * neighbours rotated, a bias on the head. No GGUF file has it. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "transformer.wte", PLAIN, "token_embd", PLAIN, ""),
    LAYER_NORM(0, "norm1", NORM1, "@.ln_1", "@.attn_norm"),
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.attn.q_proj", PLAIN, "@.attn_q", PLAIN, "q"),
    WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.attn.k_proj", PLAIN, "@.attn_k", PLAIN, "k"),
    WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.attn.v_proj", PLAIN, "@.attn_v", PLAIN, "v"),
    WEIGHT("attn.o", O, WIDTH, QUERIES, COLS, "@.attn.out_proj", PLAIN, "@.attn_output", PLAIN,
           "o"),
    GPT_MLP(ALWAYS, "@.mlp.fc_in", "@.mlp.fc_out"),
    LAYER_NORM(0, "norm", FINAL_NORM, "transformer.ln_f", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    HEAD_BIAS("lm_head", "output"),
    SCORE(WIDTH),
    {0},
};

static const ml_family_key config_keys[] = {
    REQUIRED("n_layer", SIZE, layers),
    REQUIRED("n_embd", SIZE, width),
    REQUIRED("n_head", SIZE, heads),
    KEY("n_inner", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("n_positions", SIZE, context),
    KEY("rotary_dim", SIZE, rope_width),
    KEY("activation_function", ACTIVATION, activation),
    KEY("layer_norm_epsilon", REAL, norm_eps),
    KEY("tie_word_embeddings", FLAG, tied_head),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_gptj = {
    .name = "gptj",
    .title = "GPT-J",
    .defaults = {.family = &ml_family_gptj,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .norm_places = ML_NORMS_PARALLEL,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .rope_neighbours = true,
                 .activation = ML_GELU_TANH,
                 .mlp_bias = true},
    .mlp_factor = 4,
    .plain_heads = true,
    .tensors = tensors,
    .hf = {.model_type = "gptj",
           .architecture = "GPTJForCausalLM",
           .prefix = "transformer.",
           .layers = "transformer.h.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys,
           .rope = {.fixed = true}},
    .gguf = {.architecture = "gptj", .borrowed = true, .keys = gguf_keys},
};
