/* RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT whose positions begin with the row behind the
 * padding token's id. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    BERT_TENSORS("roberta.", "lm_head.decoder"),
    POOLED_SCORE("classifier.dense", "classifier.out_proj"),
    MASKED_HEAD(MASKED, "lm_head.dense", "lm_head.layer_norm", "lm_head"),
    {0}};

static const ml_family_key config_keys[] = {BERT_KEYS, ROBERTA_PLACES, {0}};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_roberta = {
    .name = "roberta",
    .title = "RoBERTa",
    .defaults = {.family = &ml_family_roberta, BERT_FEATURES, .position_offset = 2},
    .mlp_factor = 4,
    .plain_heads = true,
    .padded = true,
    .tensors = tensors,
    .hf = {.model_type = "roberta",
           .architecture = "RobertaModel",
           .prefix = "roberta.",
           .layers = "roberta.encoder.layer.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "bert", .borrowed = true, .keys = gguf_keys},
};
