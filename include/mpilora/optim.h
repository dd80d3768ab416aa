/* optim: the trainable parameters of a run, AdamW over them, schedules, clipping, gradient
 * reduction.
 *
 * All trainable tensors of a rank lie in one contiguous fp32 buffer: first those replicated over
 * tp, then the sharded ones. Gradients and moments have the same layout. Global (unsharded) names
 * and shapes make checkpoints independent of the grid.
 *
 * Of a sharded tensor some ranks of tp may hold the same part (ml_shard's `copied`: key/value heads
 * that are fewer than the ranks). Each has the gradient of its own queries; they are summed, and
 * the first of these ranks alone counts the part in the norm.
 *
 * Moments divided over dp (ZeRO's first stage, Rajbhandari et al. 2020, arXiv:1910.02054):
 * replicas hold the same values, so each keeps the moments of a part of them alone, updates that
 * part, and gets the others' from those who have them. Gradients are then summed by a scatter
 * instead of to all, as many bytes as before in both halves together. The buffer is cut into
 * pieces, so that what MPI holds meanwhile stays small, and of each piece every replica has one
 * part.
 *
 * Gradients that do not depend on the grid (`numerics: grid`): a partial gradient, of one sequence
 * or a piece of it at a fixed place, is found in fp32 in a fixed order and then taken into an exact
 * sum (exact.h) over pieces, micro-batches and ranks, which is rounded to fp32 once.
 */
#ifndef MPILORA_OPTIM_H
#define MPILORA_OPTIM_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"
#include "mpilora/shard.h"

ML_BEGIN_DECLS

/* How a replicated tensor's gradient arises on the ranks of a tp group. */
typedef enum ml_gradient_kind {
    ML_GRADIENT_PARTIAL,  /* each rank has a partial sum (LoRA's A of a column-parallel layer) */
    ML_GRADIENT_IDENTICAL /* each rank has the whole (a norm's weight): tp rank 0's alone enters the
                             sum */
} ml_gradient_kind;

typedef struct ml_parameter {
    char name[96];
    int64_t rows, cols; /* global; a vector is n × 1 */
    bool vector;
    ml_shard shard; /* this rank's part; ML_SHARD_WHOLE: replicated over tp */
    ml_gradient_kind kind;
    int64_t offset, count; /* this rank's part in the buffers, in floats */
    double lr_factor; /* its learning rate is that of the step times this: 1 unless the method says
                         otherwise */
    int stage, also;  /* of the pipeline's stages: that which holds it; another that does, too (both
                         ends), or the same; ML_STAGE_EVERY: they all do, `stage` is the first */
    bool whole;       /* replicated over tp where it is held: there its shard says so, too */
} ml_parameter;

typedef struct ml_parameters {
    int64_t count, capacity;
    ml_parameter *items;
    int64_t replicated;  /* floats of the replicated tensors, at the buffers' start */
    int64_t local;       /* floats of this rank */
    int64_t global;      /* distinct trainable parameters of the whole grid */
    int64_t copied;      /* floats of the parts that neighbours of tp hold as well, */
    int copies;          /* so many of them: 1 where there are none */
    int64_t repeated;    /* floats that other stages of the pipe hold as well */
    int pp, stage;       /* of the pipeline's stages, the one of this rank; pp 0: there is one */
    int dp, dp_rank;     /* the replicas that the moments are divided over; dp 1: each has all */
    int64_t piece, held; /* floats of a piece; moments of each kind that this rank holds */
    float *value, *gradient, *moment1,
        *moment2;    /* [local], moments [held]; owned; NULL before ml_parameters_allocate */
    bool exact;      /* gradients are summed exactly, in */
    ml_fixed *sum;   /* [local]; owned; NULL where they are not, or before allocate */
    int64_t refused; /* partial gradients of the step that were not finite, or too large */
} ml_parameters;

/* ---- the list ------------------------------------------------------------------------------ */

/* Appends a tensor, of which `shard` is this rank's part; its index in *index (may be NULL). The
 * list starts from {0}.
 * Shapes: rows × cols, global.
 * Ownership: `name` is copied; the list is ended by ml_parameters_destroy.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_parameters_add(ml_parameters *p, const char *name, int64_t rows, int64_t cols,
                            bool vector, ml_shard shard, ml_gradient_kind kind,
                            int64_t *index) ML_NODISCARD;

/* After the last add: assigns offsets (replicated tensors first, each group in order) and counts;
 * allocates nothing.
 * Shapes: floats.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_lay_out(ml_parameters *p);

/* Between the last add and lay_out: stages `first` and `also` (the same: one; ML_STAGE_EVERY: all)
 * of a pipeline hold tensor i. A rank whose stage, p->stage of p->pp, does not has no row of it.
 * Shapes: none.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_place(ml_parameters *p, int64_t i, int first, int also);

/* Whether this rank's stage holds tensor i.
 * Shapes: none.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
static inline bool ml_parameters_hold(const ml_parameters *p, int64_t i)
{
    const ml_parameter *item = &p->items[i];
    return item->stage == p->stage || item->also == p->stage || item->also == ML_STAGE_EVERY;
}

/* Whether several stages hold tensor i.
 * Shapes: none.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
static inline bool ml_parameters_repeat(const ml_parameters *p, int64_t i)
{
    return p->pp > 1 && p->items[i].also != p->items[i].stage;
}

/* After lay_out, before allocate: this rank's moments are its share of dp (ZeRO's first stage,
 * Rajbhandari et al. 2020).
 * Shapes: `piece` in floats; 0: 4 Mi.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_divide_moments(ml_parameters *p, int dp, int dp_rank, int64_t piece);

/* A stretch of the sharded tensors, floats [first, first + count) of the buffers: of parts that
 * other ranks of tp hold too, or not. A walk over all of them starts with {0}. */
typedef struct ml_stretch {
    int64_t first, count;
    bool copied, spare; /* spare: a rank before this one holds it */
    int64_t item;       /* where the walk goes on */
    int part;
} ml_stretch;

/* The next stretch of the walk into *stretch; false: there is no more.
 * Shapes: floats.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
bool ml_parameters_next_stretch(const ml_parameters *p, ml_stretch *stretch);

/* Before allocate: gradients are to be summed exactly, which takes 16 bytes a parameter more.
 * Shapes: none.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_sum_exactly(ml_parameters *p);

/* Allocates values (category trainable) and, with `training`, gradients and moments, zero.
 * Shapes: [local] floats, moments [held].
 * Ownership: `p` owns them.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_parameters_allocate(ml_parameters *p, bool training) ML_NODISCARD;

/* Adds the bytes that ml_parameters_allocate(training) accounts for.
 * Shapes: bytes by category.
 * Ownership: borrows all.
 * Local.
 * Errors: none. */
void ml_parameters_bytes(const ml_parameters *p, bool training, int64_t bytes[ML_MEM_CATEGORIES]);

/* Ends a list and its buffers; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `p` owns.
 * Local.
 * Errors: none. */
void ml_parameters_destroy(ml_parameters *p);

/* Tensor i of `buffer` (the values, or what is laid out like them) whole on world rank 0, from the
 * ranks of dp replica 0 in its stage.
 * Shapes: whole[rows, cols] and the work space part[rows × cols], both on world rank 0 and ignored
 * elsewhere.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: none. */
void ml_parameters_gather(const ml_parameters *p, const ml_grid *grid, int64_t i,
                          const float *buffer, float *whole, float *part);

/* The same of its global rows [first, first + rows).
 * Shapes: whole and part: rows × cols floats.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: none. */
void ml_parameters_gather_rows(const ml_parameters *p, const ml_grid *grid, int64_t i,
                               const float *buffer, int64_t first, int64_t rows, float *whole,
                               float *part);

/* ---- moments, whole or divided ------------------------------------------------------------- */

/* What replica `place` holds of a piece: floats [first, first + count) of the buffers, from `at`
 * on in its moments. Undivided there is one piece. */
typedef struct ml_share {
    int64_t first, count, at;
} ml_share;

/* How many pieces the moments are cut into, and what replica `place` holds of one.
 * Shapes: floats, as ml_share says.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
int64_t ml_parameters_pieces(const ml_parameters *p);
ml_share ml_parameters_share(const ml_parameters *p, int64_t piece, int place);

/* Writes this rank's share of the values that stand at [at, at + n) of `buffer` (one of value,
 * moment1, moment2, or NULL: nothing happens).
 * Shapes: values[n].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_parameters_put(const ml_parameters *p, float *buffer, int64_t at, const float *values,
                       int64_t n);

/* Where floats [at, at + n) of `buffer` can be read on dp rank 0, counted from the buffer's start.
 * Shapes: [local] floats.
 * Ownership: borrowed: the buffer itself, or the gradients' place, whose contents are lost then.
 * Collective over dp where moments are divided, else local.
 * Errors: none. */
const float *ml_parameters_assemble(const ml_parameters *p, const ml_grid *grid,
                                    const float *buffer, int64_t at, int64_t n);

/* ---- a step -------------------------------------------------------------------------------- */

/* Before a step's passes: no gradient yet.
 * Shapes: none.
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_clear(ml_parameters *p);

/* Where gradients are summed exactly: a partial gradient is complete, and what lies at `gradient`,
 * in p->gradient, goes into the sum and becomes zero (NaN where it is not finite). Else nothing
 * happens: gradients add up where they lie.
 * Shapes: gradient[count].
 * Ownership: borrows `p`.
 * Local.
 * Errors: none. */
void ml_parameters_take(ml_parameters *p, float *gradient, int64_t count);

/* Bytes that a gradient has in the sum over the grid: 4, or 16 where that is exact.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
static inline int64_t ml_gradient_bytes(bool exact)
{
    return (int64_t)(exact ? sizeof(ml_fixed) : sizeof(float));
}

typedef struct ml_reduction {
    int64_t payload_bytes; /* ml_gradient_bytes × distinct trainable parameters of the whole grid:
                              the same for every grid */
    int64_t passed_bytes;  /* what this rank passed to the call; 0 on one rank */
} ml_reduction;

/* Sums gradients over the grid, in place: what several stages hold over these; then replicated
 * tensors over tp × dp of their stage (identical ones enter from tp rank 0 alone), sharded ones
 * over dp, and what several ranks of tp hold over these too.
 * With divided moments the sums of this rank's share alone are there. Exact sums take what is left
 * in p->gradient first, and are rounded into it.
 * Shapes: fp32; bytes as ml_reduction says.
 * Ownership: borrows `p`.
 * Collective over the world.
 * Errors: none. */
ml_reduction ml_parameters_reduce(ml_parameters *p, const ml_grid *grid);

/* √Σ g² over all distinct trainable parameters (what several ranks hold counts once), in double;
 * where gradients are summed exactly so are their squares.
 * Not finite where a gradient is not.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: none. */
double ml_parameters_gradient_norm(const ml_parameters *p, const ml_grid *grid,
                                   const ml_kernels *kernels);

/* AdamW (Loshchilov and Hutter 2019, as torch.optim.AdamW) on every value of this rank; a tensor's
 * learning rate is step->lr times its lr_factor.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over dp where moments are divided, else local.
 * Errors: none. */
void ml_parameters_update(ml_parameters *p, const ml_grid *grid, const ml_kernels *kernels,
                          const ml_adamw *step);

/* Name of the tensor of the first value in `buffer` that is not finite; NULL: all are. `buffer` is
 * p->value, p->gradient, p->moment1 or p->moment2, of which this rank's part is looked at.
 * Shapes: none.
 * Ownership: the name is borrowed from `p`.
 * Local.
 * Errors: none. */
const char *ml_parameters_find_nonfinite(const ml_parameters *p, const ml_kernels *kernels,
                                         const float *buffer);

/* torch.nn.utils.clip_grad_norm_: the factor min(1, clip / (norm + 1e−6)); 1 where clip is 0.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
double ml_clip_factor(double clip, double norm);

typedef enum ml_schedule {
    ML_SCHEDULE_CONSTANT,
    ML_SCHEDULE_LINEAR,
    ML_SCHEDULE_COSINE
} ml_schedule;

/* transformers' get_{constant,linear,cosine}_schedule_with_warmup: the factor f(done) that update
 * number done + 1 multiplies lr with; cosine with half a cycle.
 * Shapes: steps.
 * Ownership: none.
 * Local.
 * Errors: none. */
double ml_schedule_factor(ml_schedule schedule, int64_t done, int64_t warmup, int64_t steps);

ML_END_DECLS

#endif
