/* spec: what a model is: sizes, features, and the tensors that follow from them.
 *
 * Tensor names of mpilora, the same in base files, checkpoints and adapters (N counts layers from
 * 0; all matrices out × in):
 *   embed.weight [V, d], or [V, e] with project_in.weight [d, e] and project_out.weight [e, d]
 *   position.weight [context + offset, d] (learned positions), token_type.weight [types, d]
 *   embed_norm.weight, .bias [d]; relative.weight [rows, d], relative_norm.weight, .bias [d]
 *   conv.weight [d, d·kernel], .bias [d], conv_norm.weight, .bias [d]
 *   norm.weight, .bias [d]; head.weight [V, d] (untied), head.bias [V]
 *   transform.weight [e, d], .bias [e], transform_norm.weight, .bias [e]
 *   layers.N.norm1.weight, .bias; layers.N.attn.{q,k,v,pos_q,pos_k,o}.weight, .bias
 *   layers.N.attn.{q_norm,k_norm}.weight [h, or all heads'], layers.N.norm1_behind.weight
 *   layers.N.norm2.weight, .bias; layers.N.norm2_behind.weight
 *   layers.N.mlp.{fc,proj}.weight, .bias (plain), layers.N.mlp.{gate,up,down}.weight, .bias (gated)
 *
 * Which of them a model has, and in which order, its family's table says (family.h). Fused
 * projections are stored as their parts (q, k and v). Rotary q and k rows are in Hugging Face's
 * order (pairs i, i + h/2, or 2i, 2i + 1 where the family has these).
 */
#ifndef MPILORA_SPEC_H
#define MPILORA_SPEC_H

#include "mpilora/base.h"
#include "mpilora/kernels.h"
#include "mpilora/rope.h"

ML_BEGIN_DECLS

typedef struct ml_family ml_family; /* family.h */

typedef enum ml_norm_kind { ML_NORM_RMS, ML_NORM_LAYER } ml_norm_kind;

/* Where a layer's norms stand, f attention or the MLP, x the residual stream. */
typedef enum ml_norm_places {
    ML_NORMS_BEFORE,   /* x += f(norm(x)) */
    ML_NORMS_BEHIND,   /* x += norm(f(x)) */
    ML_NORMS_BOTH,     /* x += norm'(f(norm(x))) */
    ML_NORMS_PARALLEL, /* x += attention(n) + MLP(n), n = norm(x) */
    ML_NORMS_TWIN,     /* x += attention(norm(x)) + MLP(norm'(x)) */
    ML_NORMS_SUM,      /* x = norm(x + f(x)) */
    ML_NORMS_STREAM    /* x = n + f(n), n = norm(x) */
} ml_norm_places;

/* Norms of queries and keys before their rotation, of the kind that the model's others are. */
typedef enum ml_qk_norm_kind {
    ML_QK_NORM_HEAD,      /* over each head, one weight for all */
    ML_QK_NORM_EACH_HEAD, /* over each head, a weight for each */
    ML_QK_NORM_WIDTH      /* over all heads at once */
} ml_qk_norm_kind;

/* Rotary: q and k are turned by their position; learned: a vector is added to the embedding; ALiBi
 * (Press et al. 2022): the score with the key at position p gets p times the head's slope,
 * 2^(−8n/c) of head n = 1 … c with c = 2^⌊log2 heads⌋, and 2^(−4(2n − 1)/c) of the n-th head behind
 * these; scaled: times the attention scale, from slopes and positions rounded to bf16 (Falcon's);
 * none: nothing but relative terms knows of them. */
typedef enum ml_positions {
    ML_POSITIONS_ROTARY,
    ML_POSITIONS_LEARNED,
    ML_POSITIONS_ALIBI,
    ML_POSITIONS_ALIBI_SCALED,
    ML_POSITIONS_NONE
} ml_positions;

/* What stands behind a model's layers: logits of the next token, or scores of labels, one set for a
 * sequence, or for each of its tokens. */
typedef enum ml_head_kind { ML_HEAD_LANGUAGE, ML_HEAD_SEQUENCE, ML_HEAD_TOKENS } ml_head_kind;

/* Some of a model's layers, which then are at most ML_LAYER_SET. */
enum { ML_LAYER_SET = 1024 };
typedef struct ml_layer_set {
    uint64_t word[ML_LAYER_SET / 64]; /* bit l of them: layer l */
} ml_layer_set;

static inline bool ml_layer_set_has(const ml_layer_set *set, int64_t layer)
{
    return layer < ML_LAYER_SET && (set->word[layer / 64] >> (layer % 64) & 1);
}

/* layer < ML_LAYER_SET */
static inline void ml_layer_set_add(ml_layer_set *set, int64_t layer)
{
    set->word[layer / 64] |= UINT64_C(1) << (layer % 64);
}

/* Sizes and features of a model; the family's defaults have the features that every model of it
 * shares. */
typedef struct ml_model_spec {
    const ml_family *family; /* borrowed: a constant of the library */
    int64_t layers, width, mlp_width, heads, kv_heads, head_dim, vocab, context;
    int64_t embed_width; /* of embedding and head, which then are projected to the width and from
                            it; 0: they have the width */
    ml_norm_kind norm;
    double norm_eps;
    bool norm_plus_one; /* the weights of norms are 1 + w */
    ml_norm_places norm_places;
    bool no_final_norm; /* the head starts from what the last layer gives */
    ml_positions positions;
    int64_t position_offset; /* learned positions begin with this row of their matrix */
    /* Disentangled attention (DeBERTa): what the score of a query and a key gets by their distance,
     * the query times a row of relative.weight (relative_keys), the key times one
     * (relative_queries), projected for each layer. */
    bool relative_keys, relative_queries;
    bool relative_shared; /* the rows are projected as what the layer takes is, by its own q and k;
                             else by pos_q and pos_k */
    bool relative_norm;   /* and have a norm before it */
    int64_t relative_distances; /* where they end: further ones have the last row */
    int64_t relative_buckets;   /* distances from half of it on share rows in ever longer runs, so
                                   that   as many rows either way do; 0: each has its own */
    int64_t conv_kernel;        /* x = norm(x + activation(convolution of the embedding over so many
                                   neighbours)) behind the first layer; 0: there is none */
    ml_activation conv_activation;
    int64_t token_types; /* a token's type has a vector, too; 0: there are no types */
    double rope_theta;   /* of rotary positions */
    ml_rope_scaling rope_scaling;
    double rope_local_theta; /* of layers with a window, which then have no scaling; 0: the same */
    ml_layer_set unrotated_layers; /* their queries and keys know no positions */
    int64_t rope_width;            /* elements of a head that are rotated, its first ones; 0: all */
    bool rope_neighbours;          /* in pairs 2i, 2i + 1; else i, i + rope_width/2 */
    bool qk_norm;
    ml_qk_norm_kind qk_norm_kind;
    double attention_scale; /* of q·k; 0: 1/√head_dim */
    double score_cap;       /* scores s become cap·tanh(s/cap); 0: they stay */
    double logit_cap;       /* the same of logits */
    bool embed_root;        /* what is embedded is multiplied by √width */
    double embed_multiplier, residual_multiplier,
        logit_multiplier; /* of what is embedded, of what a branch adds, of logits; 0: 1 */
    bool gated;           /* MLP: down(a(gate)·up), else proj(a(fc)) */
    ml_activation activation;
    bool qkv_bias, o_bias, mlp_bias;
    bool tied_head;
    int64_t window; /* query i sees keys j with i − window < j ≤ i; 0: all up to itself */
    bool both_ways; /* an encoder: query i sees keys j behind it as well as those before it, |i − j|
                       ≤ window / 2; window 0: all of its sequence */
    ml_layer_set full_layers; /* they have no window all the same */
    ml_head_kind head;
    int64_t labels; /* that the head scores; 0 where it gives logits of tokens */
    bool pool; /* the base brings the layer between a sequence's first token and its labels, which
                  then is none of the head's */
    ml_activation pool_activation; /* of that layer, whoever brings it */
    bool transform; /* the base brings the layer between its last states and what is predicted of
                       them, and an encoder's head for masked tokens with it */
    bool masked;    /* an encoder has such a head though its base does not bring it */
    ml_activation transform_activation;
    bool transform_bias; /* of that layer, in families where some have none */
    bool legacy_head;    /* DeBERTa's head for masked tokens has its older names */
    bool mean_pooled; /* an encoder scores a sequence on the mean of its tokens' last states, else
                         on the first one */
    const ml_dtype *formats; /* [ml_model_formats] what a base keeps its matrices in: block formats,
                                ML_FP32 where it has none, which the run's precision then says;
                                NULL: no matrix is in blocks. Borrowed from the base */
} ml_model_spec;

/* The words of ml_activation, ml_norm_places, ml_positions and ml_head_kind in their order,
 * NULL-ended: in descriptions and base files. */
extern const char *const ml_activation_words[],
    *const ml_norm_places_words[], *const ml_positions_words[], *const ml_head_words[];

/* Whether positions are ALiBi's, of either kind.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
static inline bool ml_model_has_alibi(const ml_model_spec *spec)
{
    return spec->positions == ML_POSITIONS_ALIBI || spec->positions == ML_POSITIONS_ALIBI_SCALED;
}

/* The slope of ALiBi of one of so many heads.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
double ml_alibi_slope(int64_t heads, int64_t head);

/* Whether a layer is one of those with a window.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
bool ml_model_is_sliding(const ml_model_spec *spec, int64_t layer);

/* The window of one layer; 0: none, also where the context fits into it.
 * Shapes: tokens.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_window(const ml_model_spec *spec, int64_t layer);

/* What q·k, and what is embedded, is multiplied by.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
double ml_model_attention_scale(const ml_model_spec *spec);
double ml_model_embed_multiplier(const ml_model_spec *spec);

/* Whether an encoder has a head for masked tokens.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
bool ml_model_predicts_masked(const ml_model_spec *spec);

/* Columns of the embedding and of the head.
 * Shapes: elements.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_embed_width(const ml_model_spec *spec);

/* Columns of the last hidden states, from which a head starts: the model's width, or that of the
 * embedding where the last layer's output is projected to it (OPT-350m).
 * Shapes: elements.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_hidden_width(const ml_model_spec *spec);

/* Whether scores have relative terms; the rows of relative.weight, and the one of a distance, that
 * of the query less that of the key.
 * Shapes: rows.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
bool ml_model_is_relative(const ml_model_spec *spec);
int64_t ml_model_relative_rows(const ml_model_spec *spec);
int64_t ml_model_relative_row(const ml_model_spec *spec, int64_t distance);

/* Elements of a head that rotary positions turn.
 * Shapes: elements.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_rope_width(const ml_model_spec *spec);

/* Whether a sequence of so many tokens is turned as one beyond the original context (longrope):
 * sequences that differ in it may share nothing.
 * Shapes: tokens.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
bool ml_model_is_beyond(const ml_model_spec *spec, int64_t length);

/* Sizes that are 0 from those that are given, as in every family: kv_heads = heads, head_dim =
 * width / heads, mlp_width = the family's factor times width; an embed_width that is the width is
 * none. What cannot be known stays 0.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
void ml_model_spec_complete(ml_model_spec *spec);

/* Checks every size and feature, and those that could contradict each other (heads % kv_heads,
 * width of an odd head, …).
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: `bad`, ML_INPUT or ML_USAGE as the caller has it, with a text that names the field. */
ml_status ml_model_spec_check(const ml_model_spec *spec, ml_status bad) ML_NODISCARD;

/* One base tensor as the specification wants it. */
typedef struct ml_model_tensor {
    char name[64];
    const struct ml_family_tensor *row; /* of the family's table */
    int64_t layer;                      /* −1: it stands outside the layers */
    int64_t rows, cols;                 /* vectors: n × 1 */
    bool vector;
    bool norm_or_bias; /* always stored fp32 */
} ml_model_tensor;

/* The model's tensors, numbered 0 … count − 1 in the order of the family's table, the rows of a
 * layer once for each; and the parameters of all of them, a tied head counted once.
 * Shapes: global.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_tensor_count(const ml_model_spec *spec);
void ml_model_tensor_at(const ml_model_spec *spec, int64_t index, ml_model_tensor *out);
int64_t ml_model_parameters_total(const ml_model_spec *spec);

/* How many formats a specification has, and where that of a tensor stands among them; and that
 * format, ML_FP32 where the tensor is not kept in blocks.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int64_t ml_model_formats(const ml_model_spec *spec);
int64_t ml_model_format_place(const ml_model_spec *spec, const ml_model_tensor *tensor);
ml_dtype ml_model_format(const ml_model_spec *spec, const ml_model_tensor *tensor);

ML_END_DECLS

#endif
