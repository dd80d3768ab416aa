/* Gemma 1 (Gemma Team 2024): Llama with norms of weight 1 + w, a GELU, and an embedding that is
 * multiplied by √width. */
#include "model/families/families.h"

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    GGUF_PLUS_ONE("norm1", NORM1, WIDTH, "@.input_layernorm", "@.attn_norm"),
    LLAMA_QKV(PLAIN, QKV_BIAS),
    LLAMA_O,
    GGUF_PLUS_ONE("norm2", NORM2, WIDTH, "@.post_attention_layernorm", "@.ffn_norm"),
    LLAMA_MLP,
    GEMMA_ENDS,
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

/* "gelu" in the first configurations means the one with tanh. */
static const ml_family_key config_keys[] = {
    LLAMA_SIZES,
    KEY("hidden_act", GELU, activation),
    LLAMA_ATTENTION_BIAS,
    CHECKED("use_bidirectional_attention", OFF),
    {0},
};

static const ml_family_key gguf_keys[] = {LLAMA_GGUF, GGUF_REFUSED, {0}};

const ml_family ml_family_gemma = {
    .name = "gemma",
    .title = "Gemma",
    .defaults = {.family = &ml_family_gemma, GEMMA_FEATURES(10000.0)},
    .tensors = tensors,
    .hf = {LLAMA_HF("gemma", "GemmaForCausalLM"), .keys = config_keys},
    .gguf = {.architecture = "gemma", .head = ML_GGUF_HEAD_NEVER, .keys = gguf_keys},
};
