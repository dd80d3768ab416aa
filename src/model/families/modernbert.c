/* ModernBERT (Warner et al. 2024, arXiv:2412.13663): an encoder made as decoders are today. Rotary
 * positions, of which every third layer, from the first on, turns slower and sees all of a text and
 * the others a window to both sides; gated MLPs, no biases, and no norm before the first
 * attention, which starts from the norm behind the embedding. */
#include "model/families/families.h"

#define WQKV(module, rows, target) \
    WEIGHT(module, QKV, rows, WIDTH, ROWS, "@.attn.Wqkv", PLAIN, "@.attn_qkv", PLAIN, target)
#define WQKV_BIAS(module, rows) \
    BIAS_LAYOUT(module, rows, QKV_BIAS, "@.attn.Wqkv", PLAIN, "@.attn_qkv", PLAIN)
#define WI(module, target) \
    WEIGHT(module, UP, MLP, WIDTH, ROWS, "@.mlp.Wi", PLAIN, "@.ffn_up", PLAIN, target)

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "model.embeddings.tok_embeddings", PLAIN,
           "token_embd", PLAIN, ""),
    NORM_WEIGHT("embed_norm", EMBED_NORM, WIDTH, "model.embeddings.norm", "token_embd_norm"),
    NORM_WEIGHT("norm1", NORM1, WIDTH, "@.attn_norm", "@.attn_norm"),
    WQKV("attn.q", QUERIES, "q"),
    WQKV("attn.k", KEYS, "k"),
    WQKV("attn.v", KEYS, "v"),
    FUSED("attn.qkv", QKV, QKV, WIDTH, "@.attn.Wqkv", PLAIN, "@.attn_qkv", PLAIN, "qkv"),
    WQKV_BIAS("attn.q", QUERIES),
    WQKV_BIAS("attn.k", KEYS),
    WQKV_BIAS("attn.v", KEYS),
    GPT_O(O_BIAS, "@.attn.Wo"),
    NORM_WEIGHT("norm2", NORM2, WIDTH, "@.mlp_norm", "@.ffn_norm"),
    WI("mlp.gate", "gate"),
    WI("mlp.up", "up"),
    FUSED("mlp.gate_up", UP, GATE_UP, WIDTH, "@.mlp.Wi", PLAIN, "@.ffn_up", PLAIN, "gate_up"),
    BIAS("mlp.gate", UP, MLP, ROWS, MLP_BIAS, "@.mlp.Wi", "@.ffn_up", PLAIN),
    BIAS("mlp.up", UP, MLP, ROWS, MLP_BIAS, "@.mlp.Wi", "@.ffn_up", PLAIN),
    WEIGHT("mlp.down", DOWN, WIDTH, MLP, COLS, "@.mlp.Wo", PLAIN, "@.ffn_down", PLAIN, "down"),
    BIAS("mlp.down", DOWN, WIDTH, NONE, MLP_BIAS, "@.mlp.Wo", "@.ffn_down", PLAIN),
    NORM_WEIGHT("norm", FINAL_NORM, WIDTH, "model.final_norm", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "decoder", "output"),
    TRANSFORM_ROW(false, WIDTH, WIDTH, TRANSFORM, "head.dense", ".weight"),
    TRANSFORM_ROW(true, WIDTH, ONE, TRANSFORM_BIAS, "head.dense", ".bias"),
    TRANSFORM_NORM_ROW(false, TRANSFORM, "head.norm", ".weight"),
    MASKED_BIAS(MASKED, "decoder"),
    WHOLE("score", CLASSIFY, LABELS, SEQUENCE, "classifier"),
    TOKEN_SCORE("classifier"),
    {0},
};

/* Of how it is computed: nothing here. Old files say layer_norm_eps beside norm_eps,
 * and transformers takes the latter. */
static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    REQUIRED("intermediate_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    KEY("max_position_embeddings", SIZE, context),
    KEY("hidden_activation", ACTIVATION, activation),
    KEY("norm_eps", REAL, norm_eps),
    KEY("attention_bias", FLAG, qkv_bias),
    KEY("attention_bias", FLAG, o_bias),
    KEY("mlp_bias", FLAG, mlp_bias),
    CHECKED("norm_bias", OFF),
    CHECKED("position_embedding_type", ABSOLUTE),
    KEY("tie_word_embeddings", FLAG, tied_head),
    KEY("classifier_pooling", POOLING, mean_pooled),
    KEY("classifier_activation", ACTIVATION, transform_activation),
    KEY("classifier_bias", FLAG, transform_bias),
    CHECKED("decoder_bias", IDLE),
    CHECKED("cls_token_id", IDLE),
    CHECKED("mlp_dropout", IDLE),
    CHECKED("initializer_cutoff_factor", IDLE),
    CHECKED("layer_norm_eps", IDLE),
    CHECKED("deterministic_flash_attn", IDLE),
    CHECKED("reference_compile", IDLE),
    CHECKED("repad_logits_with_grad", IDLE),
    CHECKED("sparse_prediction", IDLE),
    CHECKED("sparse_pred_ignore_index", IDLE),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_modernbert = {
    .name = "modernbert",
    .title = "ModernBERT",
    .defaults = {.family = &ml_family_modernbert,
                 .context = 8192,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .norm_places = ML_NORMS_BEFORE,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 160000.0,
                 .rope_local_theta = 10000.0,
                 .both_ways = true,
                 .gated = true,
                 .activation = ML_GELU_ERF,
                 .transform_activation = ML_GELU_ERF,
                 .tied_head = true},
    .plain_heads = true,
    .first_unnormed = true,
    .shrinking_heads = true,
    .tensors = tensors,
    .hf = {.model_type = "modernbert",
           .architecture = "ModernBertModel",
           .prefix = "model.",
           .layers = "model.layers.",
           .gelu_tanh = "gelu_pytorch_tanh",
           .keys = config_keys,
           .windows = {.size = "local_attention",
                       .types = "layer_types",
                       .every = "global_attn_every_n_layers",
                       .default_size = 128,
                       .full_every = 3,
                       .first_full = true},
           .rope = {.theta = "global_rope_theta", .local_theta = "local_rope_theta"}},
    .gguf = {.architecture = "modern-bert", .borrowed = true, .keys = gguf_keys},
};
