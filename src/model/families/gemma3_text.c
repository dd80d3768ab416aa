/* Gemma 3 (Gemma Team 2025), text: Gemma 2 with norms of q and k in the place of the scores' cap,
 * and two ropes: five layers of six have a window and positions that turn faster. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    GGUF_PLUS_ONE("norm1", NORM1, WIDTH, "@.input_layernorm", "@.attn_norm"),
    LLAMA_QKV(PLAIN, QKV_BIAS),
    GGUF_PLUS_ONE("attn.q_norm", Q_NORM, HEAD, "@.self_attn.q_norm", "@.attn_q_norm"),
    GGUF_PLUS_ONE("attn.k_norm", K_NORM, HEAD, "@.self_attn.k_norm", "@.attn_k_norm"),
    LLAMA_O,
    GEMMA_MLP,
    GEMMA_ENDS,
    SCORE(WIDTH),
    {0},
};

/* transformers knows attn_logit_softcapping here, and takes no heed of it. */
static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    KEY("hidden_activation", ACTIVATION, activation),
    KEY("query_pre_attn_scalar", ROOT, attention_scale),
    KEY("final_logit_softcapping", CAP, logit_cap),
    LLAMA_ATTENTION_BIAS,
    CHECKED("use_bidirectional_attention", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {
    LLAMA_GGUF,
    KEY("attention.sliding_window", COUNT, window),
    KEY("final_logit_softcapping", REAL, logit_cap),
    GGUF_REFUSED_OF_ALL,
    {0},
};

const ml_family ml_family_gemma3_text = {
    .name = "gemma3_text",
    .title = "Gemma 3",
    .defaults = {.family = &ml_family_gemma3_text,
                 GEMMA_FEATURES(1000000.0),
                 .norm_places = ML_NORMS_BOTH,
                 .qk_norm = true,
                 .attention_scale = 1.0 / 16.0,
                 .rope_local_theta = 10000.0},
    .tensors = tensors,
    .hf = {LLAMA_HF("gemma3_text", "Gemma3ForCausalLM"), .stem = "Gemma3Text", .keys = config_keys,
           .windows = {.size = "sliding_window",
                       .types = "layer_types",
                       .every = "sliding_window_pattern",
                       .default_size = 4096,
                       .full_every = 6},
           .rope = {.local_theta = "rope_local_base_freq"}},
    .gguf = {.architecture = "gemma3",
             .wide_layers = 62, /* 27b */
             .keys = gguf_keys,
             .unsaid = "query_pre_attn_scalar, layer_types and rope_local_base_freq: the head "
                       "size (27b: width / heads), a window in five layers of six and 10000 are "
                       "assumed"},
};
