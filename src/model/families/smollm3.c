/* SmolLM3 (Hugging Face 2025): Llama whose every fourth layer knows no positions. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED, LLAMA_NORM1,  LLAMA_QKV(PAIRED, QKV_BIAS), LLAMA_O, LLAMA_NORM2, LLAMA_MLP,
    LLAMA_ENDS,  SCORE(WIDTH), TOKEN_SCORE("score"),        {0},
};

static const ml_family_key config_keys[] = {
    LLAMA_SIZES, LLAMA_ACTIVATION, LLAMA_ATTENTION_BIAS, KEY("mlp_bias", FLAG, mlp_bias), {0},
};

static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_smollm3 = {
    .name = "smollm3",
    .title = "SmolLM3",
    .defaults = {.family = &ml_family_smollm3, LLAMA_FEATURES(1e-6, 2000000.0), .tied_head = true},
    .tensors = tensors,
    .hf = {LLAMA_HF("smollm3", "SmolLM3ForCausalLM"), .keys = config_keys,
           .windows = {.size = "sliding_window",
                       .on = "use_sliding_window",
                       .types = "layer_types",
                       .unrotated = true},
           .rope = {.layers = "no_rope_layers",
                    .every = "no_rope_layer_interval",
                    .unrotated_every = 4}},
    .gguf = {.architecture = "smollm3",
             .keys = gguf_keys,
             .unsaid = "no_rope_layers and use_sliding_window: every fourth layer without "
                       "positions and no window are assumed"},
};
