/* What the files of model/ share: the model's structure on one rank, its activations, and the
 * order of its operations. */
#ifndef MPILORA_MODEL_MODEL_PRIVATE_H
#define MPILORA_MODEL_MODEL_PRIVATE_H

#include "mpilora/cache.h"
#include "mpilora/family.h"

/* The operations of a layer in forward order; operation `op` of layer l has the number l·ML_OPS +
 * op. Backward needs an operation's input gradient only where something that trains comes before
 * it. */
enum { OP_NORM1, OP_QKV, OP_O, OP_NORM2, OP_UP, OP_DOWN, OPS_A_LAYER };
enum { OP_EMBEDDING = -1 };

/* What one layer keeps for backward. x1, x2: what attention and the MLP start from; qkv: what
 * attention took, or with norms of q and k what the projection gave; h: inputs of the activation,
 * NULL where it is computed again or where slopes are kept in its place, the activation's in 8
 * bits, since nothing else of it is needed; y1, y2: inputs of the norms behind attention and MLP,
 * NULL where there are none; all of the model's dtype, but attention and x2 in 8 bits where
 * backward takes little of them. x1_part: what of x1 this rank of the tp group keeps until
 * backward, where x1 itself is the room of the layer under way; else NULL. */
typedef struct saved_layer {
    void *x1, *x1_part, *qkv, *attention, *x2, *h, *y1, *y2;
    uint8_t *slopes;
    float *mean1, *rstd1, *mean2, *rstd2, *lse;
    float *hook_qkv, *hook_o, *hook_up, *hook_down;
} saved_layer;

/* What pairs are turned by, [rows, rotated/2]: a row for each position, and behind them, where a
 * model turns sequences beyond its original context in another way, a row for each of these. */
typedef struct rope_table {
    float *cosine, *sine;
} rope_table;

/* Relative terms: of a batch's distances, which fall on `count` rows of relative.weight from the
 * `first` on, what every layer projects, and what it is projected to in the layer under way. */
typedef struct relative_rows {
    int64_t first, count, longest; /* longest: sequence of the batch */
    int32_t *row;                  /* [2·longest − 1] of each distance, counted from the first */
    float *x, *d_x;                /* [count, d] normed, and the gradient of all layers */
    float *qk, *d_qk;              /* [count, out of relative_linear] */
    float *saved;                  /* of that layer's hook */
    int64_t *key_sequence;         /* [count]: dropout has a place of its own for the rows */
    int32_t *key_position;
    ml_relative terms;
} relative_rows;

/* The convolution behind the first layer. */
typedef struct convolution {
    float *input, *d_input;     /* [T, d] the embedding, which it starts from */
    float *columns, *d_columns; /* [C, d·kernel] the neighbours of each token */
    void *sum; /* [T, d] what its norm starts from, of the model's dtype; NULL: nothing is kept */
} convolution;

/* Keys and values of all ranks that share the tokens of a batch out, [tokens, k+v] of the layer
 * under way, and the gradient of it that this rank's queries give, or that its own keys have; what
 * comes of one from another rank, or the queries of all. */
typedef struct gathered_keys {
    float *kv, *d_kv, *came;
    void *storage;
} gathered_keys;

/* Room for micro-batches of up to `tokens` tokens, T; C tokens of a chunk, R rows of a chunk of
 * the head. The work buffers are fp32 and shared by all layers; forward and backward use them in
 * turn (x holds the residual stream, then its gradient). */
typedef struct activations {
    int64_t tokens, chunk, head_chunk;
    bool backward;
    saved_layer
        *layers; /* [spec.layers]; all pointers NULL without backward, or of another stage */
    int64_t place, kept; /* of the micro-batch under way; bytes of each place */
    float *x, *other_x;  /* [T, d]; other_x: in checkpoint mode, what is computed again */
    float *branch; /* [T, d] where branches are parallel: what attention adds, or its gradient */
    float *qk_rstd, *qk_average;   /* [2, T] of q and k, where norms go over all heads */
    float *qkv, *attention;        /* [T, q+2kv], [T, q] */
    float *d_attention, *wide_qkv; /* backward only; wide_qkv: what was saved, widened, and where q
                                      and k are normalised that again; NULL: backward takes what
                                      was saved */
    float *h, *a, *dh,
        *d_mlp; /* [C, h], [C, f]; gradients of h, and of a where gated. In attention's place */
    float *logits, *row_max, *row_sums; /* [R, vocab_count], [R], [2·R]: Σ exp, Σ target logits. In
                                           attention's place */
    float *slope;             /* [R, vocab_count] of the logits' cap; NULL: none, or no backward */
    float *n, *y, *wide_x;    /* [max(C, R), max(d, e)] ×2, [C, d] */
    float *projected;         /* [max(C, R), d] of a head that is projected to; NULL: it is not */
    float *pooled, *unpooled; /* [R, d] behind the layer between first token and labels, and before
                                 its function; NULL: the head has no such layer */
    float *raw, *activated, *transformed;   /* [R, max(d, e)] of the layer before the head: what its
                                               activation took and gave, and behind its norm; NULL:
                                               there is none */
    float *transform_mean, *transform_rstd; /* [R] */
    float *means, *d_means;   /* [R, d] of sequences that are scored on the mean of their tokens;
                                 NULL: they are not */
    float *mean, *rstd, *lse; /* where nothing is kept */
    float *scratch;           /* of the hooks */
    float *partial;           /* of ml_linear_sum_leaves; NULL: a rank has one leaf, or none */
    float *qk_partial;        /* [2, T] as often as partial sums wait: of those of qk_rstd */
    float *hook_head;         /* what the head's hook keeps from forward to backward of a chunk */
    uint8_t *starts, *row_starts, *head_starts; /* [T] where pieces of gradients begin: of tokens,
                                                   and of rows that are predicted, which are shorter
                                                   in the head; NULL: there are none */
    int32_t *position, *row_position;
    int64_t *key_sequence, *row_key_sequence;
    rope_table rope, local_rope; /* the second NULL where the model has one rope */
    int32_t *rope_row;           /* [T] of the first; NULL: the position */
    float *key_bias;             /* [heads, key_bias_stride] of ALiBi; NULL: none */
    int64_t key_bias_stride;
    relative_rows relative;
    convolution convolution;
    gathered_keys gathered;
    void *embedded; /* [T, d] input of the norm behind the embedding, of the model's dtype; NULL:
                       none */
    void *saved_storage, *work_storage;
} activations;

typedef enum pass_phase { PASS_NONE, PASS_FORWARD, PASS_BACKWARD, PASS_PHASES } pass_phase;

typedef struct pass_clock {
    pass_phase phase;
    double since, seconds[PASS_PHASES];
} pass_clock;

/* A linear layer that every rank has whole, in fp32. */
typedef struct whole_linear {
    const float *weight, *bias;             /* bias NULL: none */
    float *weight_gradient, *bias_gradient; /* NULL: frozen */
} whole_linear;

struct ml_model {
    ml_model_spec spec;
    const ml_grid *grid; /* NULL: sizes alone, or one rank */
    int tp, tp_rank;
    int leaves;          /* that sums over what tp cuts are made of; 0: of the ranks' shares */
    int pp, stage;       /* of the pipeline's stages */
    const ml_grid *pipe; /* NULL: sizes alone, or one stage */
    int64_t first_layer, end_layer; /* of this stage: [first_layer, end_layer) */
    int64_t *stage_end;             /* [pp] where each stage's layers end; NULL: there is one */
    int64_t in_flight;              /* micro-batches between forward and backward, at most */
    const ml_grid *sharers;         /* whose cp group shares tokens out; NULL: nobody, or sizes */
    int64_t shared_tokens;          /* of a batch that it shares out, at most; 0: none */
    ml_dtype dtype;
    int64_t mlp_block;       /* what tp cuts an MLP's width into: 1, or the weights of a block */
    int64_t heads, kv_heads; /* of this rank */
    int kv_copies;           /* ranks of tp that have the same key/value head */
    int64_t vocab_first, vocab_count, position_first, position_count;
    ml_layer *layers;
    ml_norm embed_norm, final_norm, relative_norm, conv_norm, transform_norm;
    ml_linear conv; /* whole on every rank, of neighbours laid side by side */
    ml_linear project_in,
        project_out;        /* whole on every rank; without weights where there are none */
    ml_linear embed, head;  /* a tied head has the embedding's weight, and adapters of its own */
    whole_linear transform; /* [e, d], with an activation and a norm behind it, before the head */
    whole_linear pool;      /* [d, d], with an activation before the scores; no weight: none */
    whole_linear score;     /* [labels, e]; in the head's place */
    int64_t nslots, capacity;
    ml_model_slot *slots;
    bool *follows; /* slot i must lie right behind slot i − 1 */
    int64_t embed_slot, position_slot, type_slot, relative_slot; /* −1: there is none */
    bool has_embed_norm, has_pool, has_transform, has_project_out;
    void *storage;
    int64_t least_placed; /* bytes of what lies together: ml_model_storage_bytes */
    const ml_kernels *kernels;
    ml_activation_mode mode;
    int64_t chunk_most; /* 0: chosen */
    bool pieces;        /* gradients come in pieces, which chunks do not cut */
    float filter;       /* least probability of ml_kernels.xent_filter; 0: nothing is left out */
    ml_filtered filtered;
    activations act;
    pass_clock clock;
    ml_virtual_hook virtual_hook;
};

/* Query i of this layer sees keys j with i − window < j ≤ i; 0: all up to itself. */
static inline int64_t layer_window(const ml_model *m, int64_t layer)
{
    return ml_model_window(&m->spec, layer);
}

static inline bool is_parallel(const ml_model *m)
{
    return m->spec.norm_places == ML_NORMS_PARALLEL || m->spec.norm_places == ML_NORMS_TWIN;
}
static inline bool is_normed_behind(const ml_model *m)
{
    return m->spec.norm_places == ML_NORMS_BEHIND || m->spec.norm_places == ML_NORMS_BOTH ||
           m->spec.norm_places == ML_NORMS_SUM;
}
/* The norms change the residual stream itself: those behind a sum, those before a branch. */
static inline bool norms_sums(const ml_model *m) { return m->spec.norm_places == ML_NORMS_SUM; }
static inline bool norms_stream(const ml_model *m)
{
    return m->spec.norm_places == ML_NORMS_STREAM;
}

/* Of one layer. */
ml_attention_shape attention_shape(const ml_model *m, int64_t layer);

static inline int64_t qkv_width(const ml_model *m)
{
    return (m->heads + 2 * m->kv_heads) * m->spec.head_dim;
}
static inline int64_t q_width(const ml_model *m) { return m->heads * m->spec.head_dim; }
static inline int64_t kv_width(const ml_model *m) { return m->kv_heads * m->spec.head_dim; }
static inline int64_t h_width(const ml_model *m)
{
    return m->layers[0].up.out;
} /* f, or 2f where gated */
static inline int64_t a_width(const ml_model *m) { return m->layers[0].down.in; } /* f */

/* kept.c: whether a layer keeps slopes in the place of h, and this rank of the tp group its part of
 * x1 alone; x1 of T rows in words of four bytes. */
bool keeps_slopes(const ml_model *m, int64_t l);
/* Whether h is widened or computed again in backward, so that its gradient needs a place. */
bool has_h_again(const ml_model *m, ml_activation_mode mode);
bool keeps_part(const ml_model *m);
int64_t stream_words(const ml_model *m, int64_t T);
/* `count` numbers from the `first` on. */
void save_rows(const ml_model *m, void *saved, int64_t first, const float *x,
               int64_t count); /* x → kept, rounded in bf16 */
/* What a layer keeps attention's output and x2 as, m->dtype or blocks; and x as that. */
ml_dtype attention_dtype(const ml_model *m, int64_t l);
ml_dtype mlp_input_dtype(const ml_model *m, int64_t l);
void save_as(const ml_model *m, ml_dtype dtype, void *saved, const float *x, int64_t count);
/* Where gradients come in pieces: x as it would come back. What is computed again starts from that,
 * so the same bits in every mode need that forward does, too. */
void round_as_kept(const ml_model *m, float *x, int64_t count);
void round_to_bf16(const ml_model *m, float *x, int64_t count); /* nothing in fp32 */
const float *saved_rows(const ml_model *m, const void *saved, int64_t first, float *wide,
                        int64_t count); /* as fp32, converted into `wide` in bf16 */
/* a->x of T rows as the layer's x1; and before it is computed again x1 whole, where each rank has
 * kept its part. */
void save_stream(const ml_model *m, const saved_layer *saved, int64_t T);
void gather_stream(const ml_model *m, const saved_layer *saved, int64_t T);

/* chunks.c: numbers of logits of a token, 0 where a head for labels has none; a->chunk and
 * a->head_chunk of T tokens, beside what needs `room` bytes anyway. */
int64_t logits_of_row(const ml_model *m);
void choose_chunks(const ml_model *m, activations *a, int64_t T, int64_t room, bool backward);

/* activations.c */
void release_activations(ml_model *m);
/* Where the pieces of a batch begin. */
void place_pieces(const ml_model *m, const ml_batch *batch);

/* pass.c: from now on time belongs to `phase`; this stage's layers forward, from the embedding on
 * the first one, and back, as far as something trains; the number of the first operation that has
 * something to train, past the last one where nothing has. */
void pass_enter(ml_model *m, pass_phase phase);
void go_forward(ml_model *m, const ml_batch *batch, bool backward);
void go_back(ml_model *m, const ml_batch *batch);
int64_t lowest_trained(const ml_model *m);

/* rope.c: rows of the first table for so many positions, and whether it has some of sequences
 * beyond the original context. */
int64_t rope_rows(const ml_model_spec *spec, int64_t positions);
bool rope_has_beyond(const ml_model_spec *spec, int64_t positions);
void fill_rope_tables(const ml_model_spec *spec, int64_t positions, const rope_table *rope,
                      const rope_table *local);

/* gathered.c: positions that a pass over so many tokens may come to. */
int64_t positions_most(const ml_model *m, int64_t tokens);
/* What the gathered keys take, in bytes; their room. */
int64_t gathered_bytes(const ml_model *m, int64_t tokens, bool backward);
ml_status reserve_gathered(ml_model *m, int64_t tokens, bool backward) ML_NODISCARD;
/* Queries of a batch and what they attend to: where it is shared out gathered, else of qkv; of
 * `dtype`, that of qkv, which is ML_FP32 where it is shared out. Collective over cp. */
typedef struct attended {
    const void *q, *key, *value;
    float *d_key, *d_value;
    int64_t ld;
    ml_dtype dtype;
} attended;
attended attended_keys(const ml_model *m, const ml_batch *batch, const void *qkv, ml_dtype dtype,
                       float *dqkv);
/* From what attention took and gave, and d_o, the gradient of its output, to that of qkv, which
 * `to` came from. Collective over cp. */
void attended_backward(const ml_model *m, const ml_batch *batch, const ml_attention_shape *shape,
                       const ml_attention_kept *kept, const attended *to, const float *d_o,
                       float *dqkv);

/* query_key.c: qkv [T, qkv_width]. Again: of layer l as attention took it, from what was saved;
 * backward: dqkv as attention gives it → as the projection takes it. */
void query_key_forward(const ml_model *m, int64_t l, int64_t T, float *qkv);
void virtual_keys_forward(const ml_model *m, int64_t l, const ml_batch *batch, float *qkv);
const float *query_key_again(const ml_model *m, int64_t l, const ml_batch *batch);
void query_key_backward(const ml_model *m, int64_t l, const ml_batch *batch, float *dqkv);

/* relative.c: rows for the longest sequence; what projects them, and what its hook keeps of one;
 * of a batch; of a layer, before attention and behind its backward; and, behind all layers, of the
 * rows themselves. */
int64_t relative_rows_most(const ml_model_spec *spec, int64_t longest);
const ml_linear *relative_linear(const ml_model *m, int64_t l);
int64_t relative_saved_per_row(const ml_model *m);
void relative_place(ml_model *m, const ml_batch *batch);
void relative_forward(ml_model *m, int64_t l, const ml_batch *batch, bool saves);
void relative_backward(ml_model *m, int64_t l, const ml_batch *batch);
bool relative_trains(const ml_model *m);
void relative_embedding_backward(ml_model *m);

/* convolution.c: x behind the first layer; backward before that layer's, with `below` the gradient
 * of the embedding, which is added behind it. */
void convolution_keep(ml_model *m, int64_t T);
void convolution_forward(ml_model *m, const ml_batch *batch, bool backward);
void convolution_backward(ml_model *m, const ml_batch *batch, bool below);
void convolution_add(ml_model *m, int64_t T);

/* alibi.c */
int64_t alibi_stride(int64_t positions);
void fill_alibi(const ml_model *m, int64_t positions, float *bias);

/* pass.c: token and position embedding into x, and the norm behind it. What stands for virtual
 * tokens is added between the two. */
void embed_forward(ml_model *m, const ml_batch *batch);
void embed_norm_forward(ml_model *m, int64_t T, bool backward);

/* layer_forward.c, layer_backward.c: the norm of x, in y; x itself where the model has no such
 * norm. */
const float *norm_forward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                          float *y, float *mean, float *rstd);
void norm_backward(const ml_model *m, const ml_norm *norm, int64_t T, const float *x,
                   const float *mean, const float *rstd, const float *dy, float *dx, bool add);

/* Some of the rows that a pass goes over: all tokens, or those whose successor is predicted. Start
 * with count 0. Where gradients come in pieces, a chunk has whole ones. */
typedef struct chunk {
    int64_t rows, first, count;
    bool predicted;
} chunk;
bool next_chunk(const ml_model *m, chunk *c);
/* The same of rows of distances, which are no tokens: pieces do not begin among them. */
bool next_distances(const ml_model *m, chunk *c);
/* activations.c: x2 of a chunk as fp32, as saved_rows in a->wide_x. */
const float *saved_mlp_input(const ml_model *m, int64_t l, const chunk *c);
/* The same of the rows that go to a head. */
bool next_head_chunk(const ml_model *m, chunk *c);

/* layer_forward.c, layer_backward.c */
ml_pass pass_over(const ml_model *m, const ml_batch *batch, const chunk *c);
float *hook_rows(float *saved, const ml_linear *layer, const chunk *c);
void activate(const ml_model *m, int64_t T, const float *h,
              float *a); /* a = activation(h), gated or plain */
void gather_rows(const ml_batch *batch, int64_t width, const float *from, float *to);
/* x → a->qkv (rotated); then, with a->attention filled, the rest of the layer. `kept` NULL:
 * nothing is kept. */
void project_qkv(ml_model *m, int64_t l, const ml_batch *batch, const saved_layer *saved);
void round_qkv(const ml_model *m, int64_t T); /* then, as attention takes them */
void add_attention_and_mlp(ml_model *m, const ml_layer *layer, const ml_batch *batch, int64_t rows,
                           bool predicted, const saved_layer *saved);
/* The two halves of a layer; a->qkv lasts until the second. */
void layer_attend(ml_model *m, int64_t layer, const ml_batch *batch, bool backward);
void layer_finish(ml_model *m, int64_t layer, const ml_batch *batch, bool backward);
/* From x1 what checkpoint mode did not keep; a->x stays. */
void layer_recompute(ml_model *m, int64_t layer, const ml_batch *batch);
void layer_backward(ml_model *m, int64_t layer, const ml_batch *batch, int64_t lowest);

/* pass.c */
void place_tokens(ml_model *m,
                  const ml_batch *batch); /* positions and dropout keys of every token */

void place_rope(ml_model *m, int64_t t, int64_t length);

/* structure.c: a pass through a layer that every rank has whole, which sums nothing. */
ml_pass whole_pass(const ml_pass *pass);

static inline bool norm_trains(const ml_norm *norm)
{
    return norm->weight_gradient || norm->bias_gradient;
}

/* pass.c: what stands for virtual tokens, at a level */
void virtual_forward(ml_model *m, int64_t level, int64_t T, const int32_t *token, float *x);

/* stages.c: passes without a gradient. stage_receive: the residual stream of T tokens from the
 * stage before; false: this one is the first. stage_send: to the next, as soon as it takes it;
 * false: this one is the last. */
bool stage_receive(ml_model *m, int64_t T);
bool stage_send(ml_model *m, int64_t T);

/* cache.c */
struct ml_cache {
    int64_t slots, capacity, rows, width; /* width: keys and values of one token, 2·kv heads·h */
    int64_t *length;                      /* [slots] */
    int32_t *path;                        /* [slots, capacity] the rows of each sequence's tokens */
    int32_t *uses;                        /* [rows] sequences that list it */
    int32_t *spare;                       /* [spares] rows that none lists */
    int64_t spares;
    int64_t first_layer;
    float *data; /* [layers of this stage, rows, width] */
};
void cache_append(ml_cache *c, int64_t slot); /* a spare row */
static inline int32_t *cache_path(const ml_cache *c, int64_t slot)
{
    return c->path + slot * c->capacity;
}
static inline float *cache_row(const ml_cache *c, int64_t layer, int64_t row)
{
    return c->data + ((layer - c->first_layer) * c->rows + row) * c->width;
}

/* loss.c: what a head would start from, of any number of rows. */
void head_states(const ml_model *m, int64_t rows, const float *x, float *out);

/* loss.c: the norm of these rows, projected, in a->n: what a head starts from; and back, from its
 * gradient in a->y to that of x, in place. */
void head_input(const ml_model *m, int64_t C, const float *x);
void head_input_backward(const ml_model *m, const ml_pass *pass, float *x);
/* Multiplied as logits are, in a->n. */
void head_multiply(const ml_model *m, int64_t C);
double head_loss(ml_model *m, const ml_batch *batch, bool backward, double scale, double smoothing);
void head_logits(ml_model *m, const ml_batch *batch, const ml_logits_reader *reader);
/* Of a chunk of rows: their targets from `first` on, relative to this rank's part of the
 * vocabulary; the logits of C rows in a->logits, which start from a->x and need no targets; from
 * the logits, and from their gradient, that of the rows x, in place: adds to the gradients of head
 * and final norm where these train. */
ml_targets targets_from(const ml_model *m, const ml_batch *batch, int64_t first);
ml_pass chunk_logits(ml_model *m, const ml_batch *batch, int64_t first, int64_t C, bool backward);
void chunk_backward(const ml_model *m, const ml_pass *pass, const ml_targets *targets, float *x,
                    double scale, double smoothing);
void logits_backward(const ml_model *m, const ml_pass *pass, float *x);
/* Of C rows of logits z: sum[C] = Σ exp(z − row_max), behind it [C] the sums of the targets'
 * logits, over tp. */
void sum_exponentials(const ml_model *m, const ml_targets *targets, int64_t C, const float *z,
                      const float *row_max, float *sum);
/* Over the tp group. */
void reduce_max(const ml_model *m, float *x, int64_t n);
void reduce_sum(const ml_model *m, float *x, int64_t n);

/* weighed.c: log p of every target, the same on all ranks of the tp group; what weighs them; and
 * with `backward` the gradient of the rows in a->x. Collective over that group. */
void head_weighed(ml_model *m, const ml_batch *batch, bool backward, float *log_p,
                  const ml_weighing *weighing);

/* transform.c: y[C, out] ← x[C, in]·Wᵀ + b; and back, dx ← dy·W, which adds to the gradients of W
 * and b where these train. */
void whole_forward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                   const float *x, float *y);
void whole_backward(const ml_model *m, const whole_linear *w, int64_t C, int64_t in, int64_t out,
                    const float *x, const float *dy, float *dx);
/* The layer before the head: what the head takes of C rows in a->n, which are that themselves where
 * there is no such layer; and back, a->y from the gradient of that to the one of a->n. */
const float *transform_forward(const ml_model *m, int64_t C);
void transform_backward(const ml_model *m, int64_t C);

/* mean.c: where sequences are scored on the mean of their tokens, of `count` sequences from the
 * first on, in a->n; and back, from its gradient in a->y to the rows of a->x. `row`: of the batch's
 * rows the first that is theirs. Both return the row behind theirs. */
int64_t sequence_means(const ml_model *m, const ml_batch *batch, int64_t sequence, int64_t count,
                       int64_t row);
int64_t sequence_means_backward(const ml_model *m, const ml_batch *batch, int64_t sequence,
                                int64_t count, int64_t row);

/* score.c: of the batch's rows, or where means are scored of its sequences, score[rows, labels];
 * and back, from the gradient of that. */
void head_scores(const ml_model *m, const ml_batch *batch, const ml_scored_part *part);
void head_scores_backward(const ml_model *m, const ml_batch *batch, const ml_scored_part *part);

/* pool.c: the vectors, and back from their gradients. */
void pool_vectors(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v);
void pool_vectors_backward(const ml_model *m, const ml_batch *batch, const ml_text_vectors *v);

#endif
