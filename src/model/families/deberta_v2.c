/* DeBERTa-v2 and v3 (He et al. 2021, arXiv:2006.03654 and 2111.09543), mDeBERTa: encoders whose
 * scores have relative terms, with distances in buckets; the larger models of v2 have a convolution
 * behind their first layer. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    DEBERTA_EMBEDDINGS,
    NORM_OF("relative_norm", RELATIVE_NORM, RELATIVE_NORM, "deberta.encoder.LayerNorm"),
    MATRIX("conv", CONV, WIDTH, CONV, NONE, CONV, "deberta.encoder.conv.conv", CONV),
    VECTOR("conv", CONV, WIDTH, NONE, CONV, "deberta.encoder.conv.conv"),
    NORM_OF("conv_norm", CONV_NORM, CONV, "deberta.encoder.conv.LayerNorm"),
    GPT_QKV(ALWAYS, "@.attention.self.query_proj", "@.attention.self.key_proj",
            "@.attention.self.value_proj", PLAIN, "@.attn_q", "@.attn_k", "@.attn_v", PLAIN),
    DISTANCES("attn.pos_q", POS_Q, "@.attention.self.pos_query_proj", "pos_q"),
    DISTANCES("attn.pos_k", POS_K, "@.attention.self.pos_key_proj", "pos_k"),
    VECTOR("attn.pos_q", POS, QUERIES, ROWS, POS_Q, "@.attention.self.pos_query_proj"),
    VECTOR("attn.pos_k", POS, QUERIES, ROWS, POS_K, "@.attention.self.pos_key_proj"),
    DEBERTA_LAYER,
    POOLED_SCORE("pooler.dense", "classifier"),
    DEBERTA_MASKED,
    {0},
};

static const ml_family_key config_keys[] = {
    DEBERTA_KEYS,
    KEY("attention_head_size", SIZE, head_dim),
    KEY("share_att_key", FLAG, relative_shared),
    KEY("norm_rel_ebd", NORMED, relative_norm),
    KEY("position_buckets", BUCKETS, relative_buckets),
    KEY("conv_kernel_size", CONV, conv_kernel),
    KEY("conv_act", ACTIVATION, conv_activation),
    CHECKED("conv_groups", SOLE),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_deberta_v2 = {
    .name = "deberta_v2",
    .title = "DeBERTa-v2",
    .defaults = {.family = &ml_family_deberta_v2, DEBERTA_FEATURES},
    .mlp_factor = 4,
    .plain_heads = true,
    .positions = DEBERTA_POSITIONS,
    .tensors = tensors,
    .hf = {.model_type = "deberta-v2",
           .architecture = "DebertaV2Model",
           .prefix = "deberta.",
           .layers = "deberta.encoder.layer.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "bert", .borrowed = true, .keys = gguf_keys},
};
