/* What a family's file includes: the rows of its table, one line each.
 *
 * A file NAME.c here defines `const ml_family ml_family_NAME` and nothing else; the build lists the
 * folder, so there is no other place to add it to. family.h explains the table's columns, this file
 * only shortens its rows:
 *
 *   WEIGHT       a matrix: module, role, rows, cols, cut over tp, Hugging Face's name and layout,
 *                GGUF's name and layout, target word ("": no adapter goes there)
 *   HEAD         a matrix that a tied model lacks; HEAD_CALLED with PEFT's name for it
 *   SCORE        of labels, of a sequence's last token, in the place of the head: cols
 *   TOKEN_SCORE  the same of each token: Hugging Face's name
 *   FUSED        all modules of a role as one target: module, role, rows, cols, names, word
 *   BIAS         of a matrix: module, role, rows, cut, when it is there, names, GGUF's layout
 *   NORM_WEIGHT  and
 *   NORM_BIAS    module, role, rows, Hugging Face's name, GGUF's name
 *
 * Names lack ".weight" and ".bias"; '@' is the layer's prefix. A table ends with {0}.
 *
 *   KEY          a key of config.json or of GGUF's metadata: key, kind, field of ml_model_spec
 *   REQUIRED     such a key that must be there
 *   CHECKED      a key that is only looked at: key, kind
 *
 * What Llama and its kin have in common stands at the end, in macros whose names begin with LLAMA.
 */
#ifndef MPILORA_MODEL_FAMILIES_FAMILIES_H
#define MPILORA_MODEL_FAMILIES_FAMILIES_H

#include <stddef.h>

#include "mpilora/family.h"

#define FAMILY(name) extern const ml_family ml_family_##name;
#include "model/families.inc" /* made by the build: FAMILY(gpt2) … */
#undef FAMILY

#define FAMILY_ROW_CALLED(module_, bias_, role_, rows_, cols_, cut_, storage_, present_, hf_, \
                          suffix_, hf_layout_, gguf_, gguf_layout_, target_, peft_)           \
    {                                                                                         \
        .module = module_, .bias = bias_, .role = ML_ROLE_##role_, .rows = ML_EXTENT_##rows_, \
        .cols = ML_EXTENT_##cols_, .cut = ML_CUT_##cut_, .storage = ML_STORED_##storage_,     \
        .present = ML_PRESENT_##present_, .hf = {hf_ suffix_, ML_LAYOUT_##hf_layout_},        \
        .gguf = {gguf_ suffix_, ML_LAYOUT_##gguf_layout_}, .peft = peft_, .target = target_   \
    }
#define FAMILY_ROW(module_, bias_, role_, rows_, cols_, cut_, storage_, present_, hf_, suffix_,    \
                   hf_layout_, gguf_, gguf_layout_, target_)                                       \
    FAMILY_ROW_CALLED(module_, bias_, role_, rows_, cols_, cut_, storage_, present_, hf_, suffix_, \
                      hf_layout_, gguf_, gguf_layout_, target_, hf_)

#define WEIGHT(module, role, rows, cols, cut, hf, hf_layout, gguf, gguf_layout, target)        \
    FAMILY_ROW(module, false, role, rows, cols, cut, MATRIX, ALWAYS, hf, ".weight", hf_layout, \
               gguf, gguf_layout, target)
#define HEAD(module, rows, cols, cut, hf, gguf)                                                  \
    FAMILY_ROW(module, false, HEAD, rows, cols, cut, MATRIX, UNTIED, hf, ".weight", PLAIN, gguf, \
               PLAIN, "")
/* The same where the module in memory, and so in PEFT's directories, has another name than the
 * files' tensor. */
#define HEAD_CALLED(module, rows, cols, cut, hf, gguf, peft)                                      \
    FAMILY_ROW_CALLED(module, false, HEAD, rows, cols, cut, MATRIX, UNTIED, hf, ".weight", PLAIN, \
                      gguf, PLAIN, "", peft)
#define SCORE(cols)                                                                              \
    FAMILY_ROW("score", false, CLASSIFY, LABELS, cols, NONE, FP32, SEQUENCE, "score", ".weight", \
               PLAIN, "cls.output", PLAIN, "")
/* The same of each token, with a bias. */
#define TOKEN_SCORE(hf)                                                                          \
    FAMILY_ROW("token_score", false, CLASSIFY, LABELS, WIDTH, NONE, FP32, TOKENS, hf, ".weight", \
               PLAIN, "cls.output", PLAIN, ""),                                                  \
        FAMILY_ROW("token_score", true, CLASSIFY, LABELS, ONE, NONE, FP32, TOKENS, hf, ".bias",  \
                   PLAIN, "cls.output", PLAIN, "")
/* BERT's kin score a sequence on its first token: a layer with tanh, and the scores; and each token
 * with one layer. Hugging Face's names. */
#define WHOLE(module, role, rows, present, hf)                                                     \
    FAMILY_ROW(module, false, role, rows, WIDTH, NONE, FP32, present, hf, ".weight", PLAIN, "cls", \
               PLAIN, ""),                                                                         \
        FAMILY_ROW(module, true, role, rows, ONE, NONE, FP32, present, hf, ".bias", PLAIN, "cls",  \
                   PLAIN, "")
#define POOLED_SCORE(pooled, scored)                                                              \
    WHOLE("pool", POOL, WIDTH, POOL, pooled), WHOLE("score", CLASSIFY, LABELS, SEQUENCE, scored), \
        TOKEN_SCORE("classifier")
/* A layer with an activation and a norm, and what its head adds to logits: the names of both layers
 * and of the bias. */
#define TRANSFORM_ROW(bias_, rows_, cols_, present_, hf_, suffix_)                              \
    FAMILY_ROW("transform", bias_, TRANSFORM, rows_, cols_, NONE, FP32, present_, hf_, suffix_, \
               PLAIN, "cls.transform", PLAIN, "")
#define TRANSFORM_NORM_ROW(bias_, present_, hf_, suffix_)                                      \
    FAMILY_ROW("transform_norm", bias_, TRANSFORM_NORM, EMBED, ONE, NONE, FP32, present_, hf_, \
               suffix_, PLAIN, "cls.norm", PLAIN, "")
#define MASKED_BIAS(present, hf) BIAS("head", HEAD, VOCAB, ROWS, present, hf, "cls", PLAIN)
#define MASKED_HEAD(present, dense, norm, head)                    \
    TRANSFORM_ROW(false, EMBED, WIDTH, present, dense, ".weight"), \
        TRANSFORM_ROW(true, EMBED, ONE, present, dense, ".bias"),  \
        TRANSFORM_NORM_ROW(false, present, norm, ".weight"),       \
        TRANSFORM_NORM_ROW(true, present, norm, ".bias"), MASKED_BIAS(present, head)
#define FUSED(module, role, rows, cols, hf, hf_layout, gguf, gguf_layout, target)              \
    FAMILY_ROW(module, false, role, rows, cols, ROWS, MATRIX, FUSED, hf, ".weight", hf_layout, \
               gguf, gguf_layout, target)
#define BIAS(module, role, rows, cut, present, hf, gguf, gguf_layout)                       \
    FAMILY_ROW(module, true, role, rows, ONE, cut, FP32, present, hf, ".bias", PLAIN, gguf, \
               gguf_layout, "")
#define NORM_WEIGHT(module, role, rows, hf, gguf)                                              \
    FAMILY_ROW(module, false, role, rows, ONE, NONE, FP32, ALWAYS, hf, ".weight", PLAIN, gguf, \
               PLAIN, "")
#define NORM_BIAS(module, role, rows, hf, gguf)                                                    \
    FAMILY_ROW(module, true, role, rows, ONE, NONE, FP32, ALWAYS, hf, ".bias", PLAIN, gguf, PLAIN, \
               "")

/* A norm's weight that GGUF stores as 1 + w, Hugging Face as w. */
#define GGUF_PLUS_ONE(module, role, rows, hf, gguf)                                            \
    FAMILY_ROW(module, false, role, rows, ONE, NONE, FP32, ALWAYS, hf, ".weight", PLAIN, gguf, \
               PLUS_ONE, "")
/* A norm's weight for all heads of q or k, which are cut over tp. */
#define HEADS_NORM(module, role, rows, present, layout, hf, gguf)                                \
    FAMILY_ROW(module, false, role, rows, ONE, ROWS, FP32, present, hf, ".weight", layout, gguf, \
               layout, "")

#define FAMILY_KEY(key_, kind_, required_, field_)                                  \
    {                                                                               \
        .key = key_, .kind = ML_KEY_##kind_, .required = required_, .field = field_ \
    }
#define KEY(key, kind, name) FAMILY_KEY(key, kind, false, offsetof(ml_model_spec, name))
#define REQUIRED(key, kind, name) FAMILY_KEY(key, kind, true, offsetof(ml_model_spec, name))
#define CHECKED(key, kind) FAMILY_KEY(key, kind, false, 0)

/* GGUF keys that every family refuses, and those that only a few know: they change what a model
 * computes. */
#define GGUF_REFUSED_OF_ALL                                                                     \
    CHECKED("expert_count", OFF), CHECKED("attention.scale", OFF), CHECKED("logit_scale", OFF), \
        CHECKED("embedding_scale", OFF), CHECKED("residual_scale", OFF)
#define GGUF_REFUSED CHECKED("attention.sliding_window", OFF), GGUF_REFUSED_OF_ALL
/* GGUF's sizes, the same in every architecture. */
#define GGUF_SIZES                                                                                 \
    REQUIRED("block_count", SIZE, layers), REQUIRED("embedding_length", SIZE, width),              \
        REQUIRED("feed_forward_length", SIZE, mlp_width),                                          \
        REQUIRED("attention.head_count", SIZE, heads),                                             \
        KEY("attention.head_count_kv", SIZE, kv_heads), REQUIRED("context_length", SIZE, context), \
        KEY("attention.key_length", SIZE, head_dim)

/* ---- Llama and its kin -----------------------------------------------------------------------
 *
 * Rows, in the order of a table: embedding; norm before attention; q, k and v (GGUF's layout of q
 * and k, when their biases are there); o; norm before the MLP; gate, up and down; the ends. */
#define LLAMA_EMBED \
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, "model.embed_tokens", PLAIN, "token_embd", PLAIN, "")
#define LLAMA_NORM1 NORM_WEIGHT("norm1", NORM1, WIDTH, "@.input_layernorm", "@.attn_norm")
#define LLAMA_QKV(turned, biased)                                                                 \
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, "@.self_attn.q_proj", PLAIN, "@.attn_q", turned,  \
           "q"),                                                                                  \
        WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, "@.self_attn.k_proj", PLAIN, "@.attn_k", turned, \
               "k"),                                                                              \
        WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, "@.self_attn.v_proj", PLAIN, "@.attn_v", PLAIN,  \
               "v"),                                                                              \
        BIAS("attn.q", QKV, QUERIES, ROWS, biased, "@.self_attn.q_proj", "@.attn_q", turned),     \
        BIAS("attn.k", QKV, KEYS, ROWS, biased, "@.self_attn.k_proj", "@.attn_k", turned),        \
        BIAS("attn.v", QKV, KEYS, ROWS, biased, "@.self_attn.v_proj", "@.attn_v", PLAIN)
#define LLAMA_O                                                                                    \
    WEIGHT("attn.o", O, WIDTH, QUERIES, COLS, "@.self_attn.o_proj", PLAIN, "@.attn_output", PLAIN, \
           "o"),                                                                                   \
        BIAS("attn.o", O, WIDTH, NONE, O_BIAS, "@.self_attn.o_proj", "@.attn_output", PLAIN)
#define LLAMA_NORM2 NORM_WEIGHT("norm2", NORM2, WIDTH, "@.post_attention_layernorm", "@.ffn_norm")
#define LLAMA_MLP                                                                                 \
    WEIGHT("mlp.gate", UP, MLP, WIDTH, ROWS, "@.mlp.gate_proj", PLAIN, "@.ffn_gate", PLAIN,       \
           "gate"),                                                                               \
        WEIGHT("mlp.up", UP, MLP, WIDTH, ROWS, "@.mlp.up_proj", PLAIN, "@.ffn_up", PLAIN, "up"),  \
        BIAS("mlp.gate", UP, MLP, ROWS, MLP_BIAS, "@.mlp.gate_proj", "@.ffn_gate", PLAIN),        \
        BIAS("mlp.up", UP, MLP, ROWS, MLP_BIAS, "@.mlp.up_proj", "@.ffn_up", PLAIN),              \
        WEIGHT("mlp.down", DOWN, WIDTH, MLP, COLS, "@.mlp.down_proj", PLAIN, "@.ffn_down", PLAIN, \
               "down"),                                                                           \
        BIAS("mlp.down", DOWN, WIDTH, NONE, MLP_BIAS, "@.mlp.down_proj", "@.ffn_down", PLAIN)
#define LLAMA_ENDS                                                       \
    NORM_WEIGHT("norm", FINAL_NORM, WIDTH, "model.norm", "output_norm"), \
        HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output")

/* Keys of config.json, and of GGUF. */
#define LLAMA_SIZES_WITHOUT_EPS                                                                   \
    REQUIRED("num_hidden_layers", SIZE, layers), REQUIRED("hidden_size", SIZE, width),            \
        REQUIRED("num_attention_heads", SIZE, heads), KEY("num_key_value_heads", SIZE, kv_heads), \
        KEY("head_dim", SIZE, head_dim), REQUIRED("intermediate_size", SIZE, mlp_width),          \
        REQUIRED("vocab_size", SIZE, vocab), REQUIRED("max_position_embeddings", SIZE, context),  \
        KEY("tie_word_embeddings", FLAG, tied_head)
#define LLAMA_SIZES LLAMA_SIZES_WITHOUT_EPS, KEY("rms_norm_eps", REAL, norm_eps)
#define LLAMA_ACTIVATION KEY("hidden_act", ACTIVATION, activation)
/* attention_bias stands for two of our flags: a model that has only one of them has no
 * config.json. */
#define LLAMA_ATTENTION_BIAS \
    KEY("attention_bias", FLAG, qkv_bias), KEY("attention_bias", FLAG, o_bias)
#define LLAMA_GGUF                                                            \
    GGUF_SIZES, REQUIRED("attention.layer_norm_rms_epsilon", REAL, norm_eps), \
        KEY("rope.freq_base", REAL, rope_theta)

/* Features of ml_model_spec, behind `.family = …`. */
#define LLAMA_FEATURES(eps, theta)                                                               \
    .norm = ML_NORM_RMS, .norm_eps = eps, .positions = ML_POSITIONS_ROTARY, .rope_theta = theta, \
    .gated = true, .activation = ML_SILU
#define LLAMA_HF(type, class)                                                                 \
    .model_type = type, .architecture = class, .prefix = "model.", .layers = "model.layers.", \
    .gelu_tanh = "gelu_pytorch_tanh"
/* ---- Gemma ----------------------------------------------------------------------------------
 *
 * The MLP between its norms and behind attention's; the ends; features. */
#define GEMMA_MLP                                                                          \
    GGUF_PLUS_ONE("norm1_behind", NORM1_BEHIND, WIDTH, "@.post_attention_layernorm",       \
                  "@.post_attention_norm"),                                                \
        GGUF_PLUS_ONE("norm2", NORM2, WIDTH, "@.pre_feedforward_layernorm", "@.ffn_norm"), \
        LLAMA_MLP,                                                                         \
        GGUF_PLUS_ONE("norm2_behind", NORM2_BEHIND, WIDTH, "@.post_feedforward_layernorm", \
                      "@.post_ffw_norm")
#define GEMMA_ENDS                                                         \
    GGUF_PLUS_ONE("norm", FINAL_NORM, WIDTH, "model.norm", "output_norm"), \
        HEAD("head", VOCAB, WIDTH, ROWS, "lm_head", "output")
#define GEMMA_FEATURES(theta)                                                                 \
    .head_dim = 256, .norm = ML_NORM_RMS, .norm_eps = 1e-6, .norm_plus_one = true,            \
    .positions = ML_POSITIONS_ROTARY, .rope_theta = theta, .embed_root = true, .gated = true, \
    .activation = ML_GELU_TANH, .tied_head = true

/* ---- others --------------------------------------------------------------------------------- */

/* Gate and up in one stored tensor. */
#define FUSED_GATED_MLP                                                                           \
    WEIGHT("mlp.gate", UP, MLP, WIDTH, ROWS, "@.mlp.gate_up_proj", PLAIN, "@.ffn_up", PLAIN,      \
           "gate"),                                                                               \
        WEIGHT("mlp.up", UP, MLP, WIDTH, ROWS, "@.mlp.gate_up_proj", PLAIN, "@.ffn_up", PLAIN,    \
               "up"),                                                                             \
        FUSED("mlp.gate_up", UP, GATE_UP, WIDTH, "@.mlp.gate_up_proj", PLAIN, "@.ffn_up", PLAIN,  \
              "gate_up"),                                                                         \
        WEIGHT("mlp.down", DOWN, WIDTH, MLP, COLS, "@.mlp.down_proj", PLAIN, "@.ffn_down", PLAIN, \
               "down")

/* Windows that are off unless a flag is set, and then in the last layers. */
#define QWEN_WINDOWS                                                                              \
    {                                                                                             \
        .size = "sliding_window", .on = "use_sliding_window", .first_layer = "max_window_layers", \
        .types = "layer_types", .default_size = 4096, .default_first_layer = 28                   \
    }

/* ---- GPT's kin -------------------------------------------------------------------------------
 *
 * Linear layers with biases, layer norms whose places differ from model to model. */
#define PLACE(name) (1U << ML_NORMS_##name)

/* Weight and bias of a layer norm, in models with these norm_places (0: all), where it is there. */
#define LAYER_NORM_ROW(bias_, suffix, present_, places_, module_, role_, hf_, gguf_)              \
    {                                                                                             \
        .module = module_, .bias = bias_, .role = ML_ROLE_##role_, .rows = ML_EXTENT_WIDTH,       \
        .cols = ML_EXTENT_ONE, .cut = ML_CUT_NONE, .storage = ML_STORED_FP32,                     \
        .present = ML_PRESENT_##present_, .places = places_, .hf = {hf_ suffix, ML_LAYOUT_PLAIN}, \
        .gguf = {gguf_ suffix, ML_LAYOUT_PLAIN}, .peft = hf_, .target = ""                        \
    }
#define LAYER_NORM_OF(present, places, module, role, hf, gguf)                 \
    LAYER_NORM_ROW(false, ".weight", present, places, module, role, hf, gguf), \
        LAYER_NORM_ROW(true, ".bias", present, places, module, role, hf, gguf)
#define LAYER_NORM(places, module, role, hf, gguf) \
    LAYER_NORM_OF(ALWAYS, places, module, role, hf, gguf)

/* q, k and v, apart or in one tensor: their stored names (PEFT's names too) and layouts. */
#define GPT_QKV(biased, q, k, v, layout, gguf_q, gguf_k, gguf_v, gguf_layout)          \
    WEIGHT("attn.q", QKV, QUERIES, WIDTH, ROWS, q, layout, gguf_q, gguf_layout, "q"),  \
        WEIGHT("attn.k", QKV, KEYS, WIDTH, ROWS, k, layout, gguf_k, gguf_layout, "k"), \
        WEIGHT("attn.v", QKV, KEYS, WIDTH, ROWS, v, layout, gguf_v, gguf_layout, "v"), \
        BIAS_LAYOUT("attn.q", QUERIES, biased, q, layout, gguf_q, gguf_layout),        \
        BIAS_LAYOUT("attn.k", KEYS, biased, k, layout, gguf_k, gguf_layout),           \
        BIAS_LAYOUT("attn.v", KEYS, biased, v, layout, gguf_v, gguf_layout)
#define BIAS_LAYOUT(module, rows, biased, hf, hf_layout, gguf, gguf_layout)                    \
    FAMILY_ROW(module, true, QKV, rows, ONE, ROWS, FP32, biased, hf, ".bias", hf_layout, gguf, \
               gguf_layout, "")
/* The same as one tensor, whose rows go by key/value heads, and in GGUF file as [Q; K; V]. */
#define GPT_FUSED_QKV(biased, hf)                                                          \
    GPT_QKV(biased, hf, hf, hf, GROUPED, "@.attn_qkv", "@.attn_qkv", "@.attn_qkv", PLAIN), \
        FUSED("attn.qkv", QKV, QKV, WIDTH, hf, GROUPED, "@.attn_qkv", PLAIN, "qkv")
#define GPT_O(biased, hf)                                                              \
    WEIGHT("attn.o", O, WIDTH, QUERIES, COLS, hf, PLAIN, "@.attn_output", PLAIN, "o"), \
        BIAS("attn.o", O, WIDTH, NONE, biased, hf, "@.attn_output", PLAIN)
#define GPT_MLP(biased, fc, proj)                                                             \
    WEIGHT("mlp.fc", UP, MLP, WIDTH, ROWS, fc, PLAIN, "@.ffn_up", PLAIN, "fc"),               \
        BIAS("mlp.fc", UP, MLP, ROWS, biased, fc, "@.ffn_up", PLAIN),                         \
        WEIGHT("mlp.proj", DOWN, WIDTH, MLP, COLS, proj, PLAIN, "@.ffn_down", PLAIN, "proj"), \
        BIAS("mlp.proj", DOWN, WIDTH, NONE, biased, proj, "@.ffn_down", PLAIN)
/* An untied head's bias. */
#define HEAD_BIAS(hf, gguf) BIAS("head", HEAD, VOCAB, ROWS, ALWAYS, hf, gguf, PLAIN)

/* A flag that chooses, and one that says both biases of a layer. */
#define CHOICE(key_, kind_, name, yes_, no_)                                                      \
    {                                                                                             \
        .key = key_, .kind = ML_KEY_##kind_, .field = offsetof(ml_model_spec, name), .yes = yes_, \
        .no = no_                                                                                 \
    }
#define ALL_BIASES(key) KEY(key, FLAG, qkv_bias), KEY(key, FLAG, o_bias), KEY(key, FLAG, mlp_bias)
#define GPT_BIASED .qkv_bias = true, .o_bias = true, .mlp_bias = true

/* ---- BERT and its kin ------------------------------------------------------------------------
 *
 * Encoders: norms behind the sums, learned positions and token types, a norm behind the embedding.
 * `p` stands before the names of the files of a model with a head; those of the bare model lack it.
 */
#define BERT_TENSORS(p, head)                                                                     \
    WEIGHT("embed", EMBED, VOCAB, WIDTH, ROWS, p "embeddings.word_embeddings", PLAIN,             \
           "token_embd", PLAIN, ""),                                                              \
        WEIGHT("position", POSITION, CONTEXT, WIDTH, ROWS, p "embeddings.position_embeddings",    \
               PLAIN, "position_embd", PLAIN, ""),                                                \
        FAMILY_ROW("token_type", false, TOKEN_TYPE, TYPES, WIDTH, NONE, MATRIX, TYPES,            \
                   p "embeddings.token_type_embeddings", ".weight", PLAIN, "token_types", PLAIN,  \
                   ""),                                                                           \
        LAYER_NORM(0, "embed_norm", EMBED_NORM, p "embeddings.LayerNorm", "token_embd_norm"),     \
        GPT_QKV(ALWAYS, "@.attention.self.query", "@.attention.self.key",                         \
                "@.attention.self.value", PLAIN, "@.attn_q", "@.attn_k", "@.attn_v", PLAIN),      \
        GPT_O(ALWAYS, "@.attention.output.dense"),                                                \
        LAYER_NORM(0, "norm1_behind", NORM1_BEHIND, "@.attention.output.LayerNorm",               \
                   "@.attn_output_norm"),                                                         \
        GPT_MLP(ALWAYS, "@.intermediate.dense", "@.output.dense"),                                \
        LAYER_NORM(0, "norm2_behind", NORM2_BEHIND, "@.output.LayerNorm", "@.layer_output_norm"), \
        HEAD("head", VOCAB, WIDTH, ROWS, head, "output")

#define BERT_KEYS                                                                              \
    REQUIRED("num_hidden_layers", SIZE, layers), REQUIRED("hidden_size", SIZE, width),         \
        REQUIRED("num_attention_heads", SIZE, heads),                                          \
        REQUIRED("intermediate_size", SIZE, mlp_width), REQUIRED("vocab_size", SIZE, vocab),   \
        KEY("hidden_act", ACTIVATION, activation), KEY("type_vocab_size", COUNT, token_types), \
        KEY("layer_norm_eps", REAL, norm_eps), CHECKED("is_decoder", OFF),                     \
        CHECKED("add_cross_attention", OFF), CHECKED("position_embedding_type", ABSOLUTE),     \
        KEY("tie_word_embeddings", FLAG, tied_head)
/* The layer before its head for masked tokens has the activation of the others; RoBERTa's, GELU. */
#define TRANSFORM_AS_LAYERS KEY("hidden_act", ACTIVATION, transform_activation)

/* The rows before that of the padding token, and its own, are no positions. */
#define ROBERTA_PLACES \
    KEY("pad_token_id", NEXT, position_offset), REQUIRED("max_position_embeddings", PLACES, context)

#define BERT_FEATURES                                                                             \
    .norm = ML_NORM_LAYER, .norm_eps = 1e-12, .norm_places = ML_NORMS_SUM, .no_final_norm = true, \
    .positions = ML_POSITIONS_LEARNED, .token_types = 2, .both_ways = true,                       \
    .activation = ML_GELU_ERF, .transform_activation = ML_GELU_ERF, .pool_activation = ML_TANH,   \
    GPT_BIASED, .tied_head = true

/* ---- DeBERTa ---------------------------------------------------------------------------------
 *
 * Encoders whose scores have relative terms. No GGUF file has them: Hugging Face's name stands
 * in the place of GGUF's. */
#define MATRIX(module, role, rows, cols, cut, present, hf, layout)                               \
    FAMILY_ROW(module, false, role, rows, cols, cut, MATRIX, present, hf, ".weight", layout, hf, \
               PLAIN, "")
#define DISTANCES(module, present, hf, target)                                                  \
    FAMILY_ROW(module, false, POS, QUERIES, WIDTH, ROWS, MATRIX, present, hf, ".weight", PLAIN, \
               hf, PLAIN, target)
#define VECTOR(module, role, rows, cut, present, hf) \
    FAMILY_ROW(module, true, role, rows, ONE, cut, FP32, present, hf, ".bias", PLAIN, hf, PLAIN, "")
#define NORM_OF(module, role, present, hf) LAYER_NORM_OF(present, 0, module, role, hf, hf)

#define DEBERTA_EMBEDDINGS                                                                  \
    WEIGHT("embed", EMBED, VOCAB, EMBED, ROWS, "deberta.embeddings.word_embeddings", PLAIN, \
           "token_embd", PLAIN, ""),                                                        \
        MATRIX("project_in", PROJECT_IN, WIDTH, EMBED, NONE, PROJECTED,                     \
               "deberta.embeddings.embed_proj", PLAIN),                                     \
        MATRIX("position", POSITION, CONTEXT, WIDTH, ROWS, LEARNED,                         \
               "deberta.embeddings.position_embeddings", PLAIN),                            \
        MATRIX("token_type", TOKEN_TYPE, TYPES, WIDTH, NONE, TYPES,                         \
               "deberta.embeddings.token_type_embeddings", PLAIN),                          \
        NORM_OF("embed_norm", EMBED_NORM, ALWAYS, "deberta.embeddings.LayerNorm"),          \
        MATRIX("relative", RELATIVE, DISTANCES, WIDTH, NONE, RELATIVE,                      \
               "deberta.encoder.rel_embeddings", PLAIN)
#define DEBERTA_LAYER                                                                             \
    GPT_O(ALWAYS, "@.attention.output.dense"),                                                    \
        LAYER_NORM(0, "norm1_behind", NORM1_BEHIND, "@.attention.output.LayerNorm",               \
                   "@.attn_output_norm"),                                                         \
        GPT_MLP(ALWAYS, "@.intermediate.dense", "@.output.dense"),                                \
        LAYER_NORM(0, "norm2_behind", NORM2_BEHIND, "@.output.LayerNorm", "@.layer_output_norm"), \
        HEAD("head", VOCAB, EMBED, ROWS, "cls.predictions.decoder", "output")
#define DEBERTA_KEYS                                                                           \
    REQUIRED("num_hidden_layers", SIZE, layers), REQUIRED("hidden_size", SIZE, width),         \
        REQUIRED("num_attention_heads", SIZE, heads),                                          \
        REQUIRED("intermediate_size", SIZE, mlp_width), REQUIRED("vocab_size", SIZE, vocab),   \
        KEY("embedding_size", SIZE, embed_width),                                              \
        REQUIRED("max_position_embeddings", SIZE, context),                                    \
        KEY("hidden_act", ACTIVATION, activation), KEY("type_vocab_size", COUNT, token_types), \
        KEY("layer_norm_eps", REAL, norm_eps),                                                 \
        CHOICE("position_biased_input", CHOICE, positions, ML_POSITIONS_LEARNED,               \
               ML_POSITIONS_NONE),                                                             \
        KEY("pos_att_type", TERMS, relative_keys), CHECKED("relative_attention", RELATIVE),    \
        KEY("max_relative_positions", DISTANCES, relative_distances),                          \
        KEY("tie_word_embeddings", FLAG, tied_head), KEY("legacy", FLAG, legacy_head),         \
        KEY("pooler_hidden_act", ACTIVATION, pool_activation), TRANSFORM_AS_LAYERS
/* Where config.json says `legacy: false`, the last names. */
#define DEBERTA_MASKED                                                                            \
    MASKED_HEAD(LEGACY, "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", \
                "cls.predictions"),                                                               \
        MASKED_HEAD(RENAMED, "lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm",  \
                    "lm_predictions.lm_head")
#define DEBERTA_FEATURES                                                                         \
    .norm = ML_NORM_LAYER, .norm_eps = 1e-7, .norm_places = ML_NORMS_SUM, .no_final_norm = true, \
    .positions = ML_POSITIONS_LEARNED, .both_ways = true, .activation = ML_GELU_ERF,             \
    .conv_activation = ML_TANH, .transform_activation = ML_GELU_ERF,                             \
    .pool_activation = ML_GELU_ERF, .legacy_head = true, GPT_BIASED, .tied_head = true
#define DEBERTA_POSITIONS (1U << ML_POSITIONS_LEARNED | 1U << ML_POSITIONS_NONE)

#endif
