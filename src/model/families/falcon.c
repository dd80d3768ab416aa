/* Falcon (Almazrouei et al. 2023) in its three kinds: 7b (one key/value head, attention and MLP
 * side by side behind one norm), 40b and 180b (groups of heads, a norm for each of the two), and rw
 * (ALiBi, one after the other). The rows of query_key_value go by key/value heads in all of them.
 */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "transformer.word_embeddings", PLAIN, "token_embd",
           PLAIN, ""),
    LAYER_NORM(PLACE(BEFORE) | PLACE(PARALLEL), "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    LAYER_NORM(PLACE(TWIN), "norm1", NORM1, "@.ln_attn", "@.attn_norm_2"),
    GPT_FUSED_QKV(QKV_BIAS, "@.self_attention.query_key_value"),
    GPT_O(O_BIAS, "@.self_attention.dense"),
    LAYER_NORM(PLACE(BEFORE), "norm2", NORM2, "@.post_attention_layernorm", "@.ffn_norm"),
    LAYER_NORM(PLACE(TWIN), "norm2", NORM2, "@.ln_mlp", "@.attn_norm"),
    GPT_MLP(MLP_BIAS, "@.mlp.dense_h_to_4h", "@.mlp.dense_4h_to_h"),
    LAYER_NORM(0, "norm", FINAL_NORM, "transformer.ln_f", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    SCORE(WIDTH),
    TOKEN_SCORE("classifier"),
    {0},
};

/* num_kv_heads counts in the new architecture alone: the 7b's file says 71 and has one. */
static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    CHOICE("multi_query", SINGLE, kv_heads, 0, 0),
    {.key = "num_kv_heads",
     .kind = ML_KEY_SIZE,
     .field = offsetof(ml_model_spec, kv_heads),
     .when = "new_decoder_architecture"},
    KEY("ffn_hidden_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    KEY("max_position_embeddings", SIZE, context),
    KEY("activation", ACTIVATION, activation),
    KEY("layer_norm_epsilon", REAL, norm_eps),
    CHOICE("parallel_attn", CHOICE, norm_places, ML_NORMS_PARALLEL, ML_NORMS_BEFORE),
    CHOICE("new_decoder_architecture", GROUPED, norm_places, ML_NORMS_TWIN, ML_KEY_LEAVE),
    {.key = "num_ln_in_parallel_attn",
     .kind = ML_KEY_ONE,
     .field = offsetof(ml_model_spec, norm_places),
     .when = "new_decoder_architecture",
     .yes = ML_NORMS_PARALLEL,
     .no = ML_NORMS_TWIN},
    CHOICE("alibi", CHOICE, positions, ML_POSITIONS_ALIBI_SCALED, ML_POSITIONS_ROTARY),
    ALL_BIASES("bias"),
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

const ml_family ml_family_falcon = {
    .name = "falcon",
    .title = "Falcon",
    .defaults = {.family = &ml_family_falcon,
                 .kv_heads = 1,
                 .context = 2048,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .norm_places = ML_NORMS_PARALLEL,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .activation = ML_GELU_ERF,
                 .tied_head = true},
    .mlp_factor = 4,
    .norm_places = PLACE(BEFORE) | PLACE(PARALLEL) | PLACE(TWIN),
    .positions = 1U << ML_POSITIONS_ROTARY | 1U << ML_POSITIONS_ALIBI_SCALED,
    .tensors = tensors,
    .hf = {.model_type = "falcon",
           .architecture = "FalconForCausalLM",
           .prefix = "transformer.",
           .layers = "transformer.h.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "falcon", .keys = gguf_keys},
};
