/* OPT (Zhang et al. 2022), 125m to 175b: GPT-3's models with ReLU, and learned positions that begin
 * with row 2 of their matrix; 350m has its norms behind the sums and an embedding of its own width.
 * No GGUF file has them. */
#include "model/families/families.h"

#define PROJECTION(module, role, rows, cols, hf)                                               \
    FAMILY_ROW(module, false, role, rows, cols, NONE, MATRIX, PROJECTED, hf, ".weight", PLAIN, \
               module, PLAIN, "")

static const ml_family_tensor tensors[] = {
    WEIGHT("embed", EMBED, VOCAB, EMBED, ROWS, "model.decoder.embed_tokens", PLAIN, "token_embd",
           PLAIN, ""),
    PROJECTION("project_in", PROJECT_IN, WIDTH, EMBED, "model.decoder.project_in"),
    WEIGHT("position", POSITION, CONTEXT, WIDTH, ROWS, "model.decoder.embed_positions", PLAIN,
           "position_embd", PLAIN, ""),
    LAYER_NORM(PLACE(BEFORE), "norm1", NORM1, "@.self_attn_layer_norm", "@.attn_norm"),
    GPT_QKV(QKV_BIAS, "@.self_attn.q_proj", "@.self_attn.k_proj", "@.self_attn.v_proj", PLAIN,
            "@.attn_q", "@.attn_k", "@.attn_v", PLAIN),
    GPT_O(O_BIAS, "@.self_attn.out_proj"),
    LAYER_NORM(PLACE(SUM), "norm1_behind", NORM1_BEHIND, "@.self_attn_layer_norm",
               "@.post_attention_norm"),
    LAYER_NORM(PLACE(BEFORE), "norm2", NORM2, "@.final_layer_norm", "@.ffn_norm"),
    GPT_MLP(MLP_BIAS, "@.fc1", "@.fc2"),
    LAYER_NORM(PLACE(SUM), "norm2_behind", NORM2_BEHIND, "@.final_layer_norm", "@.post_ffw_norm"),
    LAYER_NORM_OF(FINAL_NORM, PLACE(BEFORE), "norm", FINAL_NORM, "model.decoder.final_layer_norm",
                  "output_norm"),
    PROJECTION("project_out", PROJECT_OUT, EMBED, WIDTH, "model.decoder.project_out"),
    HEAD("head", VOCAB, EMBED, ROWS, "lm_head", "output"),
    SCORE(EMBED),
    {0},
};

static const ml_family_key config_keys[] = {
    REQUIRED("num_hidden_layers", SIZE, layers),
    REQUIRED("hidden_size", SIZE, width),
    REQUIRED("num_attention_heads", SIZE, heads),
    REQUIRED("ffn_dim", SIZE, mlp_width),
    REQUIRED("vocab_size", SIZE, vocab),
    REQUIRED("max_position_embeddings", SIZE, context),
    KEY("activation_function", ACTIVATION, activation),
    ALL_BIASES("enable_bias"),
    KEY("tie_word_embeddings", FLAG, tied_head),
    CHOICE("do_layer_norm_before", CHOICE, norm_places, ML_NORMS_BEFORE, ML_NORMS_SUM),
    KEY("word_embed_proj_dim", SIZE, embed_width),
    CHECKED("layer_norm_elementwise_affine", ON),
    KEY("_remove_final_layer_norm", FLAG, no_final_norm),
    {0},
};

static const ml_family_key gguf_keys[] = {GGUF_SIZES, GGUF_REFUSED, {0}};

const ml_family ml_family_opt = {
    .name = "opt",
    .title = "OPT",
    .defaults = {.family = &ml_family_opt,
                 .norm = ML_NORM_LAYER,
                 .norm_eps = 1e-5,
                 .positions = ML_POSITIONS_LEARNED,
                 .position_offset = 2,
                 .activation = ML_RELU,
                 GPT_BIASED,
                 .tied_head = true},
    .mlp_factor = 4,
    .plain_heads = true,
    .norm_places = PLACE(BEFORE) | PLACE(SUM),
    .tensors = tensors,
    .hf = {.model_type = "opt",
           .architecture = "OPTForCausalLM",
           .prefix = "model.",
           .layers = "model.decoder.layers.",
           .gelu_tanh = "gelu_new",
           .keys = config_keys},
    .gguf = {.architecture = "opt", .borrowed = true, .keys = gguf_keys},
};
