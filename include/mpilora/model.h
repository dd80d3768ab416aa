/* model: what a model is (ml_model_spec) and its forward and backward pass.
 *
 * Tensor names of mpilora, the same in base files, checkpoints and adapters (N counts layers from
 * 0; all matrices out × in):
 *   embed.weight [V, d], or [V, e] with project_in.weight [d, e], project_out.weight [e, d]
 * position.weight [context + offset, d] (learned positions) token_type.weight [types, d]
 *   embed_norm.weight, .bias [d] relative.weight [rows, d] relative_norm.weight, .bias [d]
 *   conv.weight [d, d·kernel], .bias [d] conv_norm.weight, .bias [d]
 * norm.weight, norm.bias [d]    head.weight [V, d] (untied) head.bias [V]
 * transform.weight [e, d], .bias [e] transform_norm.weight, .bias [e]
 *   layers.N.norm1.weight/.bias   layers.N.attn.{q,k,v,pos_q,pos_k,o}.weight/.bias
 *     layers.N.attn.{q_norm,k_norm}.weight [h, or all heads'] layers.N.norm1_behind.weight
 *     layers.N.norm2.weight/.bias   layers.N.norm2_behind.weight
 *   layers.N.mlp.{fc,proj}.weight/.bias (plain)   layers.N.mlp.{gate,up,down}.weight/.bias (gated)
 * Which of them a model has, and in which order, its family's table says (family.h). Fused
 * projections are stored as their parts (q, k and v). Rotary q and k rows are in Hugging Face's
 * order (pairs i, i + h/2, or 2i, 2i + 1 where the family has these).
 */
#ifndef MPILORA_MODEL_H
#define MPILORA_MODEL_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/kernels.h"
#include "mpilora/linear.h"
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

/* ---- a model on one rank ----------------------------------------------------------------------
 *
 * Creating a model makes its structure for one rank of a tp group: layers, shapes, shards. It
 * holds no weights yet. A method (peft/) may then attach to it; storage is bound last. So the same
 * code that trains can be asked for sizes alone (plan).
 *
 * Letters: T tokens of a micro-batch, R rows of it whose next token is predicted (R ≤ T), d width,
 * V vocabulary.
 */

/* One tensor of the base as this rank holds it. */
typedef struct ml_model_slot {
    char name[96];
    const struct ml_family_tensor *row;
    int64_t layer;      /* −1: outside the layers */
    int64_t rows, cols; /* global */
    bool vector;        /* fp32 always; matrices have the model's dtype, or are kept in blocks */
    ml_shard shard;
    int64_t count; /* elements of this rank */
    ml_dtype dtype;
    void *data;      /* this rank's part; NULL before ml_model_bind */
    float *gradient; /* NULL: frozen; set by the method before ml_model_bind */
    bool apart;      /* its storage is the method's: it trains. Set when the method attaches */
    bool partial;    /* whole on every rank of the tp group, but each finds only a part of its
                        gradient (its own heads') */
    bool elsewhere;  /* another stage of the pipeline holds it, this rank has no row of it */
    bool whole;      /* on every rank of the tp group that holds it */
} ml_model_slot;

typedef struct ml_norm {
    const float *weight, *bias;             /* bias NULL: none */
    float *weight_gradient, *bias_gradient; /* NULL: frozen */
} ml_norm;

typedef struct ml_layer {
    /* weight NULL: none */
    ml_norm norm1, norm2, norm1_behind, norm2_behind; /* of attention and of the MLP */
    ml_norm q_norm, k_norm;
    ml_linear qkv, o;   /* parts q, k, v */
    ml_linear pos;      /* parts pos_q, pos_k, of relative rows; without weights where there are
                           none */
    ml_linear up, down; /* parts fc | gate, up; proj | down */
} ml_layer;

typedef struct ml_model ml_model;

/* A model's structure for one rank. `grid` may be NULL for sizes alone (then tp, tp_rank name the
 * rank meant) and in single-rank use (tp 1).
 * Shapes: as `spec` says.
 * Ownership: *out is the caller's, who ends it with ml_model_destroy; the grid is borrowed until
 * then.
 * Local.
 * Errors: ML_USAGE where the model cannot be divided by tp (what it can be divided by is named);
 * ML_RESOURCE. */
ml_status ml_model_create(ml_model **out, const ml_model_spec *spec, const ml_grid *grid, int tp,
                          int tp_rank, ml_dtype dtype) ML_NODISCARD;

/* Whether tp ranks can hold the model together: tp divides the heads; it divides the key/value
 * heads, or is a multiple of them, and then tp / kv_heads neighbours hold the same one; and it
 * leaves the blocks of a matrix whole.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
bool ml_model_can_divide(const ml_model_spec *spec, int64_t tp);

/* In how many leaves (linear.h) a model sums over what tp cuts, so that its numbers have the same
 * bits for every tp that divides them; 1: with tp 1 alone. It follows from the key/value heads: 8,
 * 4 or 2 where these divide them, else 3.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
int ml_model_leaves(const ml_model_spec *spec);

/* From here on sums over what tp cuts are sums of leaves. Right after ml_model_create, before a
 * method is attached; its kernels have products that are `ordered`.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: ML_USAGE where tp does not divide the leaves, with what does. */
ml_status ml_model_sum_leaves(ml_model *model) ML_NODISCARD;

/* Ends a model; NULL is fine.
 * Shapes: none.
 * Ownership: takes `model`.
 * Local.
 * Errors: none. */
void ml_model_destroy(ml_model *model);

/* What the model is; its grid, NULL where this rank has everything; and a layer.
 * Shapes: none.
 * Ownership: borrowed from `model`.
 * Local.
 * Errors: none. */
const ml_model_spec *ml_model_get_spec(const ml_model *model);
const ml_grid *ml_model_grid(const ml_model *model);
ml_layer *ml_model_layer(ml_model *model, int64_t layer);

enum { ML_LINEARS_A_LAYER = 5, ML_LINEARS_OUTSIDE = 2 };

/* Where hooks are attached: the number of linear layers, and one of them. Those of layer l are 5·l
 * (q, k and v), 5·l + 1 (of distances; without parts where the model has none), 5·l + 2 (o),
 * 5·l + 3 (up) and 5·l + 4 (down); behind all of them stand the embedding and the head.
 * Shapes: none.
 * Ownership: borrowed from `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_linears(const ml_model *model);
ml_linear *ml_model_linear(ml_model *model, int64_t index);

/* How many slots there are, and one of them, in storage order: parts of one linear layer lie next
 * to each other.
 * Shapes: none.
 * Ownership: borrowed from `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_slots(const ml_model *model);
ml_model_slot *ml_model_slot_at(ml_model *model, int64_t index);

/* What ml_model_bind allocates: for the slots that are not apart. 0: everything trains.
 * Shapes: bytes.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_weight_bytes(const ml_model *model);

/* Room for the bf16 slots that are apart, in the order that layers need; with a `block` they are
 * pointed into it.
 * Shapes: bytes; the block is aligned to 64.
 * Ownership: `block` is borrowed by the model.
 * Local.
 * Errors: none. */
int64_t ml_model_lay_out_apart(ml_model *model, void *block);

/* After slots' data (and gradients) were set: points the layers at them. Slots that are not apart
 * get storage (category frozen).
 * Shapes: none.
 * Ownership: the storage is the model's.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_model_bind(ml_model *model) ML_NODISCARD;

/* The same with the caller's memory for the slots that are not apart. It may be shared by ranks
 * that hold the same shard, and be read-only once it is filled: passes never write to it.
 * Shapes: ml_model_weight_bytes, aligned to 64.
 * Ownership: borrowed by the model.
 * Local.
 * Errors: none. */
void ml_model_bind_storage(ml_model *model, void *storage);

/* Slots' data (or gradients) have changed: points the layers at them again.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_point(ml_model *model);

enum { ML_MODEL_SHAPES = 8 };

/* The largest shapes that the model multiplies, for ml_kernels_create; returns their number.
 * Shapes: shapes[ML_MODEL_SHAPES], of this rank.
 * Ownership: `shapes` are the caller's.
 * Local.
 * Errors: none. */
int64_t ml_model_shapes(const ml_model *model, ml_weight shapes[ML_MODEL_SHAPES]);

/* What the passes multiply with: the model's dtype, or the first block format among its matrices,
 * which only some product paths can take.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
ml_dtype ml_model_weight_dtype(const ml_model *model);

/* Fills in what ml_kernels_create has to know of passes over at most `tokens` tokens.
 * Shapes: shapes[ML_MODEL_SHAPES].
 * Ownership: `options` borrows `shapes`.
 * Local.
 * Errors: none. */
void ml_model_kernel_options(const ml_model *model, int64_t tokens, ml_kernels_options *options,
                             ml_weight shapes[ML_MODEL_SHAPES]);

/* What the passes compute with, and the table in use.
 * Shapes: none.
 * Ownership: `kernels` is borrowed until the model is destroyed or gets another.
 * Local.
 * Errors: none. */
void ml_model_use_kernels(ml_model *model, const ml_kernels *kernels);
const ml_kernels *ml_model_kernels(const ml_model *model);

/* Virtual tokens: those of a batch that are negative, −1 − j for the j-th. They have no word: at
 * level 0 (the embedding's output, which holds their position alone) the hook adds what stands for
 * one; at level l, 1 … layers − 1 (the output of layer l − 1), it may put something in the place
 * of what came out. backward takes the gradient of x at that level, and clears it in rows that
 * forward put.
 * keys_forward may do so with the keys and values of a layer as attention takes them, keys after
 * their rotation: kv + t·stride has those of token t, this rank's heads of the key and then of the
 * value. keys_backward takes their gradient, and clears it in rows that keys_forward put. Each
 * pair may be NULL. */
typedef struct ml_virtual_hook {
    void *self; /* NULL: none */
    void (*forward)(void *self, int64_t level, int64_t tokens, const int32_t *token, float *x);
    void (*backward)(void *self, int64_t level, int64_t tokens, const int32_t *token, float *dx);
    void (*keys_forward)(void *self, int64_t layer, int64_t tokens, const int32_t *token, float *kv,
                         int64_t stride);
    void (*keys_backward)(void *self, int64_t layer, int64_t tokens, const int32_t *token,
                          float *dkv, int64_t stride);
} ml_virtual_hook;

/* Sets the hook of virtual tokens, and gives the one that is set.
 * Shapes: none.
 * Ownership: `hook.self` is borrowed.
 * Local.
 * Errors: none. */
void ml_model_set_virtual(ml_model *model, ml_virtual_hook hook);
ml_virtual_hook ml_model_virtual(const ml_model *model);

/* ---- passes -------------------------------------------------------------------------------- */

/* Packed sequences without padding, common beginnings perhaps only once (ml_sequences).
 * Borrowed. */
typedef struct ml_batch {
    int64_t tokens;       /* T */
    const int32_t *token; /* [T] */
    ml_sequences sequences;
    const uint8_t *type;   /* [T] token types, each < token_types; NULL: all are 0 */
    int64_t rows;          /* R */
    const int64_t *row;    /* [R] strictly ascending: the tokens whose successors are predicted */
    ml_targets targets;    /* the successors of each of these rows; first 0 */
    const int64_t *length; /* [sequences.count] of the texts that the sequences are the beginnings
                              of, which rotary positions may depend on; NULL: as they are here */
    const int64_t *key_sequence; /* [sequences.count] the sampler's position of each, for dropout
                                    (then nothing may be shared); NULL: no dropout */
    double *row_loss;        /* [R] ml_model_loss writes Σ −log p of each row's targets there;
                                NULL: nowhere */
    ml_exact *losses;        /* ml_model_loss adds these to it; NULL: nowhere */
    const ml_row_runs *part; /* [cp] where ranks share the tokens out: which rows of the sequences'
                                keys and values each of them computes. The T tokens are this rank's,
                                in the order of its runs, and sequences.query says where they are;
                                NULL: it has all */
} ml_batch;

/* What forward keeps for backward, bytes a token and layer in bf16 (twice that in fp32), f = 4·d,
 * beside some statistics: full 20·d; selective 12·d: the MLP's up-product is computed again;
 * checkpoint 2·d, and 10·d once: all but the MLP's down-product is (Chen et al. 2016,
 * arXiv:1604.06174). A norm behind a branch adds 2·d. Losses and gradients are the same, in fp32
 * bit for bit. */
typedef enum ml_activation_mode {
    ML_ACTIVATIONS_FULL,
    ML_ACTIVATIONS_SELECTIVE,
    ML_ACTIVATIONS_CHECKPOINT
} ml_activation_mode;
enum { ML_ACTIVATION_MODES = 3 };

/* The word of a mode: "full", "selective", "checkpoint".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_activation_mode_name(ml_activation_mode mode);

/* Chooses the mode, before ml_model_reserve. chunk: the most tokens that go through an MLP or a
 * head together; 0: as many as are fast.
 * Shapes: tokens.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_set_activations(ml_model *model, ml_activation_mode mode, int64_t chunk);

/* Before ml_model_reserve: gradients are sums over pieces of sequences, ml_pass's `starts`, which
 * are the same in every micro-batch: 512 tokens, and 64 rows of the head, from their sequence's
 * first on. A pass goes through whole pieces.
 * Shapes: tokens.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_cut_pieces(ml_model *model);

/* Before ml_model_reserve: this rank passes over its part of batches that `cp` ranks share out, of
 * at most `keys` tokens together, whose keys and values all of them gather in each layer. `grid`:
 * theirs; NULL where only sizes are asked for. cp 1: nothing is shared.
 * Shapes: tokens.
 * Ownership: `grid` is borrowed as long as the model.
 * Local.
 * Errors: none. */
void ml_model_share_tokens(ml_model *model, const ml_grid *grid, int cp, int64_t keys);

/* Room for the activations of micro-batches of at most `tokens` tokens; with `backward` all that
 * backward needs. Once.
 * Shapes: T tokens.
 * Ownership: the model's.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_model_reserve(ml_model *model, int64_t tokens, bool backward) ML_NODISCARD;

/* The longest pieces that a pass over so many tokens goes through: of the MLP, and of the head.
 * Shapes: rows.
 * Ownership: borrows `model`; the numbers are the caller's.
 * Local.
 * Errors: none. */
void ml_model_chunks(const ml_model *model, int64_t tokens, bool backward, int64_t *chunk,
                     int64_t *head_chunk);

/* The tokens that ml_model_reserve made room for; 0 before it.
 * Shapes: T tokens.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_reserved_tokens(const ml_model *model);

/* Adds the bytes that ml_model_reserve accounts for in each category.
 * Shapes: bytes.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_reserve_bytes(const ml_model *model, int64_t tokens, bool backward,
                            int64_t bytes[ML_MEM_CATEGORIES]);

/* loss_sum = Σ over rows of −log p(target), the same on every rank of a tp group, without label
 * smoothing. With `backward` adds the gradients of scale·Σ (the loss with label smoothing ε:
 * (1−ε)·nll + ε·mean over V of −log p) to everything that trains.
 * Shapes: as ml_batch says; nats.
 * Ownership: all borrowed.
 * Collective over tp.
 * Errors: none; a model without finite numbers gives a loss that is not finite. */
void ml_model_loss(ml_model *model, const ml_batch *batch, bool backward, double scale,
                   double smoothing, double *loss_sum);

/* Called between the passes of ml_model_weighed with log p of every target: may set
 * batch->targets.weight. */
typedef struct ml_weighing {
    void (*weigh)(void *self, const float *log_p);
    void *self;
} ml_weighing;

/* log p of every target, the same on every rank of a tp group; then weigh is called. With
 * `backward` adds the gradients of Σ over targets of weight·(−log p) to everything that trains,
 * with the weights that stand in batch->targets.weight after that call: an objective whose
 * gradient depends on all of a sequence has its log-probabilities first. Where the head itself
 * trains it is computed twice then, the layers once.
 * Shapes: log_p and the weights: [number of targets], nats.
 * Ownership: all borrowed; `log_p` is the caller's.
 * Collective over tp.
 * Errors: none. */
void ml_model_weighed(ml_model *model, const ml_batch *batch, bool backward, float *log_p,
                      const ml_weighing *weighing);

/* Called between the passes of ml_model_score with the scores of the batch's rows: sets `slope` to
 * the loss's derivatives by them. */
typedef struct ml_judging {
    void (*judge)(void *self, const float *score, float *slope);
    void *self;
} ml_judging;

/* A model with a head for labels: their scores on each of the batch's rows, whose targets are not
 * looked at, the same on every rank of a tp group; then judge is called, and with `backward` adds
 * the gradients of what it says to everything that trains.
 * Shapes: score, slope [rows, labels].
 * Ownership: all borrowed; `score` and `slope` are the caller's.
 * Collective over tp.
 * Errors: none. */
void ml_model_score(ml_model *model, const ml_batch *batch, bool backward, float *score,
                    float *slope, const ml_judging *judging);

/* Some of a batch's rows, and its sequences that these belong to, with a head of their own. */
typedef struct ml_scored_part {
    int64_t row, rows, sequence, sequences; /* the first ones, and how many */
    float *score, *slope;
    ml_judging judging;
    void (*choose)(void *self); /* points the model at the head: its slots, then ml_model_point;
                                   NULL: it is there */
    void *self;
} ml_scored_part;

/* The same, of parts that lie behind one another and are all of the batch.
 * Shapes: score, slope [rows of the part, labels].
 * Ownership: all borrowed.
 * Collective over tp.
 * Errors: none. */
void ml_model_score_parts(ml_model *model, const ml_batch *batch, bool backward, int64_t count,
                          const ml_scored_part *parts);

/* Vectors of texts: of each the mean of the last hidden states, the norm behind the last layer
 * included, of those of the batch's rows that belong to it. A row has a target for each text that
 * it belongs to; their tokens are not looked at. */
typedef struct ml_text_vectors {
    int64_t texts;
    const int32_t *text;   /* [targets] */
    const float *share;    /* [texts] 1 / rows of the text */
    float *vector, *slope; /* [texts, d] */
} ml_text_vectors;

/* Finds the vectors, the same on every rank of a tp group; then judge is called with them, sets
 * `slope` to the loss's derivatives by them, and with `backward` the gradients are added to
 * everything that trains.
 * Shapes: as ml_text_vectors says.
 * Ownership: all borrowed.
 * Collective over tp.
 * Errors: none. */
void ml_model_vectors(ml_model *model, const ml_batch *batch, bool backward,
                      const ml_text_vectors *vectors, const ml_judging *judging);

/* The last hidden states of batch->row, the norm behind the last layer included: what a head starts
 * from. Forward only; the batch's targets are not looked at.
 * Shapes: out[R, d].
 * Ownership: all borrowed; `out` is the caller's.
 * Collective over tp: every rank gets all of it.
 * Errors: none. */
void ml_model_hidden(ml_model *model, const ml_batch *batch, float *out);

/* A pass through the layers for the sake of the virtual hook alone; no row of the batch predicts.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over a replica: the stages of a pipeline compute in turn.
 * Errors: none. */
void ml_model_watch(ml_model *model, const ml_batch *batch);

/* Takes the logits of `count` of the batch's rows from `first` on. */
typedef struct ml_logits_reader {
    void (*take)(void *self, int64_t first, int64_t count, const float *logits);
    void *self;
    float *room; /* [ml_model_logits_rows, V] */
} ml_logits_reader;

/* The logits of all rows, a piece at a time and in order, whole on every rank of a tp group; the
 * batch's targets are not looked at.
 * Shapes: logits[count, V].
 * Ownership: all borrowed; `logits` until take returns.
 * Collective over a replica: of a pipeline's stages the last takes them.
 * Errors: none. */
void ml_model_logits(ml_model *model, const ml_batch *batch, const ml_logits_reader *reader);

/* Rows of such a piece, at most, where the model is reserved.
 * Shapes: rows.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_logits_rows(const ml_model *model);

/* The embeddings of these tokens, without their positions'; every rank gets them whole.
 * Shapes: token[count], out[count, d].
 * Ownership: `out` is the caller's.
 * Collective over tp.
 * Errors: none. */
void ml_model_embed(const ml_model *model, int64_t count, const int32_t *token, float *out);

/* Time that ml_model_loss has spent on this rank so far, outside collectives. Backward contains
 * what is computed again for it, and the head's gradient.
 * Shapes: seconds.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
double ml_model_forward_seconds(const ml_model *model);
double ml_model_backward_seconds(const ml_model *model);

/* The name of the first tensor of this rank (slot) that holds a NaN or Inf, or NULL.
 * Shapes: none.
 * Ownership: borrowed from `model`.
 * Local.
 * Errors: none. */
const char *ml_model_find_nonfinite(const ml_model *model);

ML_END_DECLS

#endif
