/* linear: column- and row-parallel linear layers with a frozen (or trained) weight and a hook for
 * adapters.
 *
 * Letters: T tokens, in/out widths of the whole layer, tp ranks share it; r adapter rank.
 *   column-parallel  W[out/tp, in]: y[T, out/tp] = x·Wᵀ + b; every rank has the whole x. Backward:
 *     dx = dy·W, summed over tp.
 *   row-parallel     W[out, in/tp]: y = Σ_tp x·Wᵀ, then + b; every rank has its columns of x.
 *     Backward: dx[T, in/tp] = dy·W.
 * (Shoeybi et al. 2019, arXiv:1909.08053.) A layer may be several projections of one input laid
 * out one after the other in its output ("parts": q|k|v, gate|up): one product, one sum.
 *
 * The embedding is a look-up: row-parallel over the vocabulary, its weight turned, and the model
 * itself finds the columns; what it has in common with the others is where adapters hang.
 *
 * Leaves: what tp cuts, cut further into a number of shares that the model alone decides. Where
 * `leaves` is set, a sum over what tp cuts is the sum of these shares' sums, added as a tree in
 * which each rank's share is one node, so that its bits do not depend on tp. Then the adapter's
 * part is not a partial sum either: its hook is called behind the layer's own sum, and sums what it
 * contracts itself.
 *
 * All matrices here are contiguous, a row a token.
 * Without leaves an adapter enters before the layer's own sum, so it adds no collective.
 */
#ifndef MPILORA_LINEAR_H
#define MPILORA_LINEAR_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"
#include "mpilora/shard.h"

ML_BEGIN_DECLS

#define ML_LINEAR_PARTS ML_SHARD_PARTS

typedef enum ml_linear_kind { ML_LINEAR_COLUMN, ML_LINEAR_ROW } ml_linear_kind;

/* What a pass over a micro-batch hands to every layer. Borrowed pointers. */
typedef struct ml_pass {
    const ml_kernels *kernels;
    const ml_grid *grid; /* NULL: one rank */
    int64_t tokens;      /* T */
    int64_t first;  /* of the micro-batch's rows that are gone through, the number of the first of
                       these */
    bool predicted; /* they are gone through where their successors are predicted, else all are */
    /* Where each token stands in the run, for dropout: the sampler's position of its sequence and
     * the place in the sequence. NULL: no dropout. */
    const int64_t *key_sequence;
    const int32_t *key_position;
    /* Where a new piece of gradients begins: each gives a partial sum by itself (`numerics: grid`,
     * optim.h). [T], the first of them is one; NULL: all rows are one. */
    const uint8_t *starts;
    const int32_t *token; /* [T] of a look-up, in the place of x; virtual tokens are negative */
    float *saved; /* [T, hook.saved_per_token]: written by the hook's forward, read by its backward;
                    NULL in evaluation */
    float *scratch; /* [T · hook.scratch_per_token] */
    float *partial; /* room of ml_linear_sum_leaves; NULL without leaves */
    bool sparse;    /* of backward: much of dy is blocks of zeros (ml_kernels.xent_filter) */
} ml_pass;

/* Rows of the piece of gradients that begins at row `at`; 0: there is none. */
static inline int64_t ml_pass_piece(const ml_pass *pass, int64_t at)
{
    if (!pass->starts || at == pass->tokens) return pass->tokens - at;
    int64_t end = at + 1;
    while (end < pass->tokens && !pass->starts[end]) end++;
    return end - at;
}

/* Implemented by peft/. Matrices are contiguous, T rows; x is the layer's (local) input, y its
 * local output before the sum over tp. */
typedef struct ml_linear_hook {
    void *self;              /* NULL: no adapter */
    int64_t saved_per_token; /* floats */
    int64_t scratch_per_token;
    void (*forward)(void *self, const ml_pass *pass, const float *x, float *y);
    /* Adds to its own gradients; dx += where dx is not NULL. With leaves y, dy and dx are whole
     * sums: what has been summed over tp has been so before. */
    void (*backward)(void *self, const ml_pass *pass, const float *x, const float *dy, float *dx);
    /* Where forward also scales y's columns (DoRA): dy for what was scaled, in the pass's scratch;
     * the weight's and the input's gradients and the backward above take it in the place of dy.
     * NULL: dy itself. */
    const float *(*scale_backward)(void *self, const ml_pass *pass, const float *dy);
    int64_t scaled_per_token; /* of saved_per_token, what scale_backward needs */
    /* On the layer's output itself, after its sum and bias: y ← f(y); backward returns df/dyᵀ·dy,
     * [T, out] in the pass's scratch, and leaves dy as it is. A hook has the pair above, or this
     * one. */
    void (*after_forward)(void *self, const ml_pass *pass, float *y);
    const float *(*after_backward)(void *self, const ml_pass *pass, const float *dy);
} ml_linear_hook;

/* One projection of a layer: its name and which of its global rows (column-parallel) this rank
 * holds. */
typedef struct ml_linear_part {
    char module[64];      /* "layers.3.attn.q" */
    int64_t out;          /* global rows */
    int64_t first, count; /* this rank's rows; 0, out for row-parallel */
    int64_t units, unit;  /* what tp cuts is so many units of so many rows, or columns */
    int copies;           /* ranks of tp that hold these rows; */
    bool spare;           /* this one is not the first of them */
} ml_linear_part;

typedef struct ml_linear {
    ml_linear_kind kind;
    int nparts;
    ml_linear_part part[ML_LINEAR_PARTS];
    int64_t global_in, first_in;      /* this rank's input columns start there (row-parallel) */
    int64_t in, out;                  /* of this rank */
    int leaves, leaf_first, leaf_end; /* of the model, 0: none; this rank's */
    bool lookup;      /* x is one-hot, a token's number: its column of W, which is stored as Wᵀ */
    float multiplier; /* of a look-up: of what is found, with the adapter's part */
    int nweights;     /* 1, or more where parts are kept in different formats */
    ml_weight weight[ML_LINEAR_PARTS];  /* [out, in], of a look-up [in, out]: their rows stand one
                                           behind the other; borrowed */
    const float *bias[ML_LINEAR_PARTS]; /* [part[i].count] of each part, NULL where it has none;
                                           borrowed */
    float *weight_gradient;             /* NULL: frozen. [out, in]; borrowed */
    float *bias_gradient[ML_LINEAR_PARTS];
    ml_linear_hook hook;
} ml_linear;

/* Fills kind, parts and sizes for tp_rank of tp. Parts of a column-parallel layer are cut by
 * ml_part_start over units[i] units (heads) of outs[i] / units[i] rows each, so a head is never
 * cut; for a row-parallel layer the input is cut over units[0] units. Where repeat[i], units that
 * are fewer than the ranks are held by several, as ml_shard_units has it: each of them gets the
 * whole output of its units and finds a part of their gradient.
 * Shapes: modules[nparts], outs[nparts], units[nparts], repeat[nparts] or NULL: none.
 * Ownership: all borrowed; names are copied.
 * Local.
 * Errors: none. */
void ml_linear_describe(ml_linear *layer, ml_linear_kind kind, int nparts,
                        const char *const *modules, const int64_t *outs, int64_t global_in,
                        const int64_t *units, const bool *repeat, int tp, int tp_rank);

/* This rank's part of projection `part`'s weight, or of its bias (whole for row-parallel).
 * Shapes: weight out × in; bias out × 1.
 * Ownership: borrows `layer`.
 * Local.
 * Errors: none. */
ml_shard ml_linear_weight_shard(const ml_linear *layer, int part);
ml_shard ml_linear_bias_shard(const ml_linear *layer, int part);

/* y = x·Wᵀ + b with the hook's part, summed over tp where row-parallel (Shoeybi et al. 2019).
 * Shapes: x[T, in], y[T, out] of this rank.
 * Ownership: all borrowed; y is overwritten.
 * Collective over tp where row-parallel, else local.
 * Errors: none. */
void ml_linear_forward(const ml_linear *layer, const ml_pass *pass, const float *x, float *y);

/* dx = dy·W with the hook's part; adds to the gradients of weight, bias and adapter where they
 * train. Needs x only where ml_linear_needs_input.
 * Shapes: x[T, in], dy[T, out]; dx[T, in], or NULL where nobody needs it.
 * Ownership: all borrowed; dx is overwritten.
 * Collective over tp where column-parallel and dx is not NULL, else local.
 * Errors: none. */
void ml_linear_backward(const ml_linear *layer, const ml_pass *pass, const float *x,
                        const float *dy, float *dx);

/* What tp cuts of this layer is summed in so many leaves; tp, as ml_linear_describe had it, divides
 * them.
 * Shapes: none.
 * Ownership: `layer` is the caller's.
 * Local.
 * Errors: none. */
void ml_linear_set_leaves(ml_linear *layer, int leaves, int tp, int tp_rank);

/* What leaf `leaf` has of this rank's rows of projection `part` (column-parallel, counted among all
 * rows of the layer) or of its columns (row-parallel, part 0).
 * Shapes: rows or columns.
 * Ownership: borrows `layer`.
 * Local.
 * Errors: none. */
ml_rows ml_linear_leaf(const ml_linear *layer, int part, int leaf);

/* Makes y one leaf's part of the sum; what is in y is never read. */
typedef void ml_leaf_product(const void *self, int leaf, float *y);

/* y = Σ over all leaves of all ranks of tp, as a tree: the sum of the first 2^k of them, of the
 * largest k that leaves others, and that of the others, added.
 * Shapes: y[T, n], contiguous; pass->partial[ml_linear_leaf_rooms, T, n].
 * Ownership: all borrowed; y is overwritten.
 * Collective over tp.
 * Errors: none. */
void ml_linear_sum_leaves(const ml_linear *layer, const ml_pass *pass, ml_leaf_product *multiply,
                          const void *self, int64_t n, float *y);

/* How many partial sums wait while so many leaves are added.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_linear_leaf_rooms(int leaves);

/* y = x·Wᵀ alone: no hook, bias or sum. And columns [first, first + count) of a row of W as fp32.
 * Shapes: x[T, in], y[T, out], out[count] of this rank.
 * Ownership: all borrowed; y, out are overwritten.
 * Local.
 * Errors: none. */
void ml_linear_product(const ml_linear *layer, const ml_kernels *k, int64_t T, const float *x,
                       float *y);
void ml_linear_row(const ml_linear *layer, int64_t row, int64_t first, int64_t count, float *out);

/* Whether the layer's backward reads x, and whether it has something to train.
 * Shapes: none.
 * Ownership: borrows `layer`.
 * Local.
 * Errors: none. */
bool ml_linear_needs_input(const ml_linear *layer);
bool ml_linear_trains(const ml_linear *layer);

ML_END_DECLS

#endif
