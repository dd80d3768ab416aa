/* StableLM (Bellagente et al. 2024): Llama with layer norms and a quarter of each head rotated; the
 * MLP may stand beside attention, behind the same norm. Norms of queries and keys
 * (stablelm-2-12b's) are a tensor for each head. */
#include "model/families/families.h"

#define EACH_HEAD_NORM(module, role, rows, hf, gguf)                                          \
    FAMILY_ROW(module, false, role, rows, ONE, ROWS, FP32, QK_NORM, hf, ".weight", EACH_HEAD, \
               gguf, BY_HEAD, "")

static const ml_family_tensor tensors[] = {
    LLAMA_EMBED,
    LAYER_NORM(0, "norm1", NORM1, "@.input_layernorm", "@.attn_norm"),
    LLAMA_QKV(PLAIN, QKV_BIAS),
    EACH_HEAD_NORM("attn.q_norm", Q_NORM, QUERIES, "@.self_attn.q_layernorm.norms.#",
                   "@.attn_q_norm"),
    EACH_HEAD_NORM("attn.k_norm", K_NORM, KEYS, "@.self_attn.k_layernorm.norms.#", "@.attn_k_norm"),
    LLAMA_O,
    LAYER_NORM(PLACE(BEFORE), "norm2", NORM2, "@.post_attention_layernorm", "@.ffn_norm"),
    LLAMA_MLP,
    LAYER_NORM(0, "norm", FINAL_NORM, "model.norm", "output_norm"),
    HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output"),
    SCORE(WIDTH),
    TOKEN_SCORE("score"),
    {0},
};

/* rope_pct of the first files (stablelm-epoch) is no key of transformers 5, which rotates a quarter
 * of each head whatever it says. */
static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    KEY("num_key_value_heads", SIZE, kv_heads),
    REQUIRED("intermediate_size", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("max_position_embeddings", SIZE, context),
    KEY("hidden_act", ACTIVATION, activation),
    KEY("layer_norm_eps", REAL, norm_eps),
    KEY("use_qkv_bias", FLAG, qkv_bias),
    CHOICE("use_parallel_residual", CHOICE, norm_places, ML_NORMS_PARALLEL, ML_NORMS_BEFORE),
    KEY("tie_word_embeddings", FLAG, tied_head),
    KEY("qk_layernorm", FLAG, qk_norm),
    {0},
};

static const ml_family_key gguf_keys[] = {
    GGUF_SIZES,
    KEY("attention.layer_norm_epsilon", REAL, norm_eps),
    KEY("rope.freq_base", REAL, rope_theta),
    GGUF_REFUSED,
    {0},
};

const ml_family ml_family_stablelm = {
    .name = "stablelm",
    .title = "StableLM",
    .defaults = {.family = &ml_family_stablelm,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_ROTARY,
                 .rope_theta = 10000.0,
                 .qk_norm_kind = ML_QK_NORM_EACH_HEAD,
                 .gated = true,
                 .activation = ML_SILU},
    .norm_places = PLACE(BEFORE) | PLACE(PARALLEL),
    .tensors = tensors,
    .hf = {LLAMA_HF("stablelm", "StableLmForCausalLM"), .keys = config_keys,
           .rope = {.part = "partial_rotary_factor", .default_part = 0.25}},
    .gguf = {.architecture = "stablelm", .head = ML_GGUF_HEAD_ALWAYS, .keys = gguf_keys},
};
