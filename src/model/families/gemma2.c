/* Gemma 2 (Gemma Team 2024): Gemma with norms before and behind both branches, scores and logits
 * that are capped, and a window in every other layer. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    GGUF_PLUS_ONE("norm1", NORM1, WIDTH, "@.input_layernorm", "@.attn_norm"),
    LLAMA_QKV(PLAIN, QKV_BIAS),
    LLAMA_O,
    GEMMA_MLP,
    GEMMA_ENDS,
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    KEY("hidden_activation", ACTIVATION, activation),
    KEY("query_pre_attn_scalar", ROOT, attention_scale),
    KEY("attn_logit_softcapping", CAP, score_cap),
    KEY("final_logit_softcapping", CAP, logit_cap),
    LLAMA_ATTENTION_BIAS,
    CHECKED("use_bidirectional_attention", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {
    LLAMA_GGUF,
    KEY("attention.sliding_window", COUNT, window),
    KEY("attn_logit_softcapping", REAL, score_cap),
    KEY("final_logit_softcapping", REAL, logit_cap),
    GGUF_REFUSED_OF_ALL,
    {0},
};

const ml_family ml_family_gemma2 = {
    .name = "gemma2",
    .title = "Gemma 2",
    .defaults = {.family = &ml_family_gemma2,
                 GEMMA_FEATURES(10000.0),
                 .norm_places = ML_NORMS_BOTH,
                 .attention_scale = 1.0 / 16.0,
                 .score_cap = 50.0,
                 .logit_cap = 30.0},
    .tensors = tensors,
    .hf = {LLAMA_HF("gemma2", "Gemma2ForCausalLM"), .keys = config_keys,
           .windows = {.size = "sliding_window",
                       .types = "layer_types",
                       .default_size = 4096,
                       .full_every = 2}},
    .gguf = {.architecture = "gemma2",
             .head = ML_GGUF_HEAD_NEVER,
             .wide_layers = 46, /* 27b */
             .keys = gguf_keys,
             .unsaid = "query_pre_attn_scalar and layer_types: the head size (27b: width / heads) "
                       "and a window in every other layer are assumed"},
};
