/* optim: the trainable parameters of a run, AdamW over them, schedules, clipping, gradient reduction.
 *
 * All trainable tensors of a rank lie in one contiguous fp32 buffer: first those replicated over tp, then the sharded ones.
 * Gradients and moments have the same layout. Global (unsharded) names and shapes make checkpoints independent of the grid.
 */
#ifndef MPILORA_OPTIM_H
#define MPILORA_OPTIM_H

#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"
#include "mpilora/shard.h"

/* How a replicated tensor's gradient arises on the ranks of a tp group. */
typedef enum ml_gradient_kind {
    ML_GRADIENT_PARTIAL,  /* each rank has a partial sum (LoRA's A of a column-parallel layer) */
    ML_GRADIENT_IDENTICAL /* each rank has the whole (a norm's weight): tp rank 0's alone enters the sum */
} ml_gradient_kind;

typedef struct ml_parameter {
    char name[96];
    int64_t rows, cols; /* global; a vector is n × 1 */
    bool vector;
    ml_shard shard; /* this rank's part; ML_SHARD_WHOLE: replicated over tp */
    ml_gradient_kind kind;
    int64_t offset, count; /* this rank's part in the buffers, in floats */
} ml_parameter;

typedef struct ml_parameters {
    int64_t count, capacity;
    ml_parameter *items;
    int64_t replicated;                          /* floats of the replicated tensors, at the buffers' start */
    int64_t local;                               /* floats of this rank */
    int64_t global;                              /* distinct trainable parameters of the whole grid */
    float *value, *gradient, *moment1, *moment2; /* [local] each, owned; NULL before ml_parameters_allocate */
} ml_parameters;

#endif
