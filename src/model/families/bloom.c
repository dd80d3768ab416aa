/* BLOOM (BigScience 2022), 560m to 176b, and BLOOMZ: ALiBi, a norm behind the embedding, q, k and v
 * of each head in one tensor. The residual stream may be what comes out of a layer's norms. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "transformer.word_embeddings", PLAIN, "token_embd",
           PLAIN, ""),
    LAYER_NORM(0, "embed_norm", EMBED_NORM, "transformer.word_embeddings_layernorm",
               "token_embd_norm"),
    LAYER_NORM(0, "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    GPT_FUSED_QKV(ALWAYS, "@.self_attention.query_key_value"),
    GPT_O(ALWAYS, "@.self_attention.dense"),
    LAYER_NORM(0, "norm2", NORM2, "@.post_attention_layernorm", "@.ffn_norm"),
    GPT_MLP(ALWAYS, "@.mlp.dense_h_to_4h", "@.mlp.dense_4h_to_h"),
    LAYER_NORM(0, "norm", FINAL_NORM, "transformer.ln_f", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    SCORE(WIDTH),
    TOKEN_SCORE("classifier"),
    {0},
};

/* The first files say n_embed, num_attention_heads and num_hidden_layers. */
static const ml_family_key config_keys[] = {
    KEY("num_hidden_layers", SIZE, layers),
    KEY("n_layer", SIZE, layers),
    KEY("n_embed", SIZE, width),
    KEY("hidden_size", SIZE, width),
    KEY("num_attention_heads", SIZE, heads),
    KEY("n_head", SIZE, heads),
    REQUIRED("vocab_size", SIZE, vocab),
    KEY("seq_length", SIZE, context),
    KEY("layer_norm_epsilon", REAL, norm_eps),
    KEY("tie_word_embeddings", FLAG, tied_head),
    CHOICE("apply_residual_connection_post_layernorm", CHOICE, norm_places, ML_NORMS_STREAM,
           ML_NORMS_BEFORE),
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    KEY("attention.layer_norm_epsilon", REAL, norm_eps),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_bloom = {
    .name = "bloom",
    .title = "BLOOM",
    .defaults = {.family = &ml_family_bloom,
                 .context = 2048,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_ALIBI,
                 .activation = ML_GELU_TANH,
                 GPT_BIASED,
                 .tied_head = true},
    .mlp_factor = 4,
    .plain_heads = true,
    .norm_places = PLACE(BEFORE) | PLACE(STREAM),
    .tensors = tensors,
    .hf = {.model_type = "bloom",
           .architecture = "BloomForCausalLM",
           .prefix = "transformer.",
           .layers = "transformer.h.",
           .gelu_tanh = "gelu_pytorch_tanh",
           .keys = config_keys},
    .gguf = {.architecture = "bloom",
             .keys = gguf_keys,
             .unsaid = "apply_residual_connection_post_layernorm: false is assumed"},
};
