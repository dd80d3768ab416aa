/* plan: memory of a run before it is run, by the sizing functions that training allocates with. Nothing large is allocated, no weights are read. */
#ifndef MPILORA_PLAN_H
#define MPILORA_PLAN_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/kernels.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/peft.h"

/* What decides a rank's memory beside model and method. */
typedef struct ml_plan_shape {
    int64_t tokens, sequences, max_len; /* of a micro-batch; of a sequence */
    const char *product_path, *vector_path;
    int threads;
} ml_plan_shape;

/* Adds the bytes that training will account for on world rank 0 (another rank holds no more), by category: weights, parameters, gradients, moments, activations, work space, and in `other` the
 * buffers of packing and the most that reading weights or saving holds for a moment. The model's structure itself exists already and is not counted. */
void ml_plan_rank(const ml_model *model, const ml_peft *peft, const ml_parameters *parameters, const ml_plan_shape *shape,
                  int64_t bytes[ML_MEM_CATEGORIES]);

/* What of it world rank 0 alone holds. */
int64_t ml_plan_writer_bytes(const ml_model *model, const ml_peft *peft, const ml_parameters *parameters, int threads);

/* What a process needs in each activation mode: ml_plan_rank's sum, what is accounted for in `other` already, and what this process has beside that (MPI, libraries). Leaves
 * the model in the last mode. */
void ml_plan_needs(ml_model *model, const ml_peft *peft, const ml_parameters *parameters, const ml_plan_shape *shape,
                   int64_t need[ML_ACTIVATION_MODES]);
/* memory.activations, where auto the fastest mode that needs at most memory.limit. False where none does; then the mode that needs least. */
bool ml_plan_choose(const ml_run_config *config, const int64_t need[ML_ACTIVATION_MODES], ml_activation_mode *mode);

typedef struct ml_plan_method {
    const char *name; /* "lora", "full" */
    int64_t params_total, params_trainable;
    int64_t checkpoint_bytes, allreduce_bytes_per_step;
    int64_t adapter_bytes_16bit;       /* the trained tensors in 16 bit, as the paper counts them */
    ml_activation_mode activations;    /* chosen, and what per_rank is for */
    bool fits;                         /* into memory.limit */
    int64_t need[ML_ACTIVATION_MODES]; /* of a process, MPI and libraries included */
    int64_t per_rank[ML_MEM_CATEGORIES];
    int64_t total_bytes_per_rank;
    int frozen_shared_by;            /* ranks of a node that hold one copy of the frozen weights; 1: none share */
    int64_t node_bytes, total_bytes; /* the fullest node; all ranks. What ranks share is counted once */
} ml_plan_method;

enum { ML_PLAN_METHODS = 2 };

typedef struct ml_plan {
    int ranks, nodes, dp, tp;
    int64_t tokens;              /* of the largest micro-batch */
    int64_t runtime_floor_bytes; /* of this process before anything was read: MPI and libraries; not part of the totals */
    ml_plan_method method[ML_PLAN_METHODS];
} ml_plan;

/* config.base may be a base file or a model description (*.yaml). Micro-batches are as long as the data sets make them where these can be read, else
 * batch.micro × data.max_len. The ranks lie on `nodes` nodes in equal runs, one after the other. ML_USAGE, ML_INPUT. Local. */
ml_status ml_plan_create(ml_plan *out, const ml_run_config *config, int ranks, int nodes) ML_NODISCARD;

#endif
