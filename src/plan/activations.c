/* Which activation mode a run takes: the fastest that fits. */
#include "mpilora/plan.h"

void ml_plan_needs(ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                   const ml_plan_shape *shape, int64_t need[ML_ACTIVATION_MODES])
{
    int64_t accounted = 0, beside = ml_memory_process_now();
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) accounted += ml_memory_current((ml_category)c);
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) {
        int64_t bytes[ML_MEM_CATEGORIES] = {0};
        ml_model_set_activations(model, (ml_activation_mode)mode, 0);
        ml_plan_rank(model, peft, parameters, shape, bytes);
        need[mode] = ml_memory_current(ML_MEM_OTHER) + ml_max(0, beside - accounted);
        for (int c = 0; c < ML_MEM_CATEGORIES; c++) need[mode] += bytes[c];
    }
}

bool ml_plan_choose(const ml_run_config *config, const int64_t need[ML_ACTIVATION_MODES],
                    ml_activation_mode *mode)
{
    int64_t limit = config->memory.limit;
    if (config->memory.activations != ML_KEEP_AUTO) {
        *mode = (ml_activation_mode)(config->memory.activations - ML_KEEP_FULL);
        return limit == 0 || need[*mode] <= limit;
    }
    *mode = ML_ACTIVATIONS_FULL;
    while (limit > 0 && need[*mode] > limit && *mode < ML_ACTIVATIONS_CHECKPOINT) (*mode)++;
    return limit == 0 || need[*mode] <= limit;
}
