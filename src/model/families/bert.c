/* BERT (Devlin et al. 2018, arXiv:1810.04805) and the sentence encoders made of it (MiniLM). */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {BERT_TENSORS("bert.", "cls.predictions.decoder"),
                                           POOLED_SCORE("bert.pooler.dense", "classifier"),
                                           MASKED_HEAD(MASKED, "cls.predictions.transform.dense",
                                                       "cls.predictions.transform.LayerNorm",
                                                       "cls.predictions"),
                                           {0}};

static const ml_family_key config_keys[] = {
    BERT_KEYS,
    TRANSFORM_AS_LAYERS,
    REQUIRED("max_position_embeddings", SIZE, context),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_bert = {
    .name = "bert",
    .title = "BERT",
    .defaults = {.family = &ml_family_bert, BERT_FEATURES},
    .mlp_factor = 4,
    .plain_heads = true,
    .tensors = tensors,
    .hf = {.model_type = "bert",
           .architecture = "BertModel",
           .prefix = "bert.",
           .layers = "bert.encoder.layer.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "bert", .borrowed = true, .keys = gguf_keys},
};
