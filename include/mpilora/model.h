/* model: a model (spec.h) on one rank, and its forward and backward pass.
 *
 * Creating a model makes its structure for one rank of a tp group: layers, shapes, shards. It
 * holds no weights yet. A method (peft/) may then attach to it; storage is bound last. So the same
 * code that trains can be asked for sizes alone (plan).
 *
 * Letters: T tokens of a micro-batch, R rows of it whose next token is predicted (R ≤ T), d width,
 * V vocabulary.
 */
#ifndef MPILORA_MODEL_H
#define MPILORA_MODEL_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/kernels.h"
#include "mpilora/linear.h"
#include "mpilora/spec.h"

ML_BEGIN_DECLS

/* ---- structure ----------------------------------------------------------------------------- */

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
    int64_t place;   /* where it begins in a file that is going to be laid over the storage; 0: in
                        none */
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

/* What ml_model_bind_storage needs. Where slots have places, those that lie together begin as far
 * behind a page's start as in the file, so that its pages can be laid over theirs, where they have
 * `least` bytes or it takes no room.
 * Shapes: bytes.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
int64_t ml_model_storage_bytes(ml_model *model, int64_t least);

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
 * Shapes: ml_model_storage_bytes, aligned to 64, to a page where slots have places.
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

/* Tokens of a piece. Sequences that ranks share out are cut between pieces then. */
enum { ML_MODEL_PIECE = 512 };

/* Before ml_model_reserve: gradients are sums over pieces of sequences, ml_pass's `starts`, which
 * are the same in every micro-batch: 512 tokens from their sequence's first on, and of the rows of
 * the head among these 64. A pass goes through whole pieces.
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

/* What the backward of ml_model_loss left out: of so many blocks of the gradient of logits (rows ×
 * columns of this rank's part of the vocabulary, ML_FILTER_ROWS × ML_FILTER_COLUMNS) those that
 * became zeros, and the largest probability that a row lost by it. The gradient of what the head
 * takes of a row is off by at most that probability times scale times the longest row of W (times
 * the sum of the targets' weights, or their number). */
typedef struct ml_filtered {
    int64_t blocks, zeros;
    double lost;
} ml_filtered;

/* From now on ml_model_loss leaves out, in backward, blocks without a target in which no token's
 * probability reaches `least` (Wijmans et al. 2024, arXiv:2411.09009); without label smoothing
 * alone. 0: nothing is left out.
 * Shapes: least in [0, 1).
 * Ownership: borrows `model`.
 * Local, the same on every rank.
 * Errors: none. */
void ml_model_set_filter(ml_model *model, double least);

/* What was left out since the last call; `lost` is the same on every rank of a tp group.
 * Shapes: counts.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
ml_filtered ml_model_take_filtered(ml_model *model);

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

/* Vectors of texts: of each the mean of the last hidden states, what a head starts from, of those
 * of the batch's rows that belong to it. A row has a target for each text that it belongs to; their
 * tokens are not looked at. */
typedef struct ml_text_vectors {
    int64_t texts;
    const int32_t *text;   /* [targets] */
    const float *share;    /* [texts] 1 / rows of the text */
    float *vector, *slope; /* [texts, h], h as ml_model_hidden_width */
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

/* The last hidden states of batch->row, the norm and the projection behind the last layer included:
 * what a head starts from. Forward only; the batch's targets are not looked at.
 * Shapes: out[R, h], h as ml_model_hidden_width.
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
