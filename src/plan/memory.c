/* One rank's memory, asked from the functions that allocate it. */
#include "mpilora/checkpoint.h"
#include "mpilora/plan.h"
#include "session/session.h"

/* What is held for a moment while everything else is there: reading weights, or images of a
 * checkpoint's files, on world rank 0 beside the run's directory. */
static int64_t transient_bytes(const ml_model *model, const ml_parameters *parameters,
                               const ml_plan_shape *shape, bool writer)
{
    bool full = ml_model_weight_bytes(model) == 0;
    int64_t reading = ml_base_load_bytes(ml_model_slots(model), shape->threads),
            directory = shape->tp_rank == 0 ? ml_run_directory_bytes() : 0;
    return writer ? directory + ml_max(reading, ml_checkpoint_memory(parameters, full, shape->tp,
                                                                     shape->tp_rank))
                  : reading;
}

int64_t ml_plan_writer_bytes(const ml_model *model, const ml_parameters *parameters,
                             const ml_plan_shape *shape)
{
    return transient_bytes(model, parameters, shape, true) -
           transient_bytes(model, parameters, shape, false);
}

void ml_plan_rank(const ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                  const ml_plan_shape *shape, int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_weight shapes[ML_MODEL_SHAPES];
    ml_kernels_options kernels = {.backend = shape->backend, .vector_path = shape->vector_path};
    ml_model_kernel_options(model, shape->tokens, &kernels, shapes);
    bytes[ML_MEM_FROZEN] += ml_model_weight_bytes(model);
    ml_peft_bytes(peft, true, bytes);
    ml_parameters_bytes(parameters, true, bytes);
    ml_model_reserve_bytes(model, shape->tokens, true, bytes);
    bytes[ML_MEM_WORKSPACE] += ml_kernels_workspace_bytes(&kernels, shape->threads);
    bytes[ML_MEM_OTHER] += packer_bytes(shape->tokens, shape->sequences, shape->max_len) +
                           transient_bytes(model, parameters, shape, true);
}
