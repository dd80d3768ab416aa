/* DeBERTa (He et al. 2020, arXiv:2006.03654), base to xlarge: encoders whose scores have relative
 * terms, every distance with a row of its own and projections of their own for these; q, k and v
 * are one tensor, and k has no bias. */
#include "model/families/families.h"

/* A bias that is a parameter of attention itself. */
#define OWN_BIAS(module, rows, hf) \
    FAMILY_ROW(module, true, QKV, rows, ONE, ROWS, FP32, ALWAYS, hf, "", PLAIN, hf, PLAIN, "")

static const ml_family_tensor tensors[] = {
    DEBERTA_EMBEDDINGS,
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.attention.self.in_proj", GROUPED, "@.attn_qkv",
           PLAIN, "q"),
    WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.attention.self.in_proj", GROUPED, "@.attn_qkv",
           PLAIN, "k"),
    WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.attention.self.in_proj", GROUPED, "@.attn_qkv",
           PLAIN, "v"),
    OWN_BIAS("attn.q", QUERIES, "@.attention.self.q_bias"),
    OWN_BIAS("attn.v", KEYS, "@.attention.self.v_bias"),
    FUSED("attn.qkv", QKV, QKV, WIDTH, "@.attention.self.in_proj", GROUPED, "@.attn_qkv", PLAIN,
          "qkv"),
    DISTANCES("attn.pos_q", POS_Q, "@.attention.self.pos_q_proj", "pos_q"),
    DISTANCES("attn.pos_k", POS_K, "@.attention.self.pos_proj", "pos_k"),
    VECTOR("attn.pos_q", POS, QUERIES, ROWS, POS_Q, "@.attention.self.pos_q_proj"),
    DEBERTA_LAYER,
    POOLED_SCORE("pooler.dense", "classifier"),
    DEBERTA_MASKED,
    {0},
};

static const ml_family_key config_keys[] = {
    DEBERTA_KEYS,
    CHECKED("talking_head", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_deberta = {
    .name = "deberta",
    .title = "DeBERTa",
    .defaults = {.family = &ml_family_deberta, DEBERTA_FEATURES},
    .mlp_factor = 4,
    .plain_heads = true,
    .positions = DEBERTA_POSITIONS,
    .tensors = tensors,
    .hf = {.model_type = "deberta",
           .architecture = "DebertaModel",
           .prefix = "deberta.",
           .layers = "deberta.encoder.layer.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "bert", .borrowed = true, .keys = gguf_keys},
};
