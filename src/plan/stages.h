/* stages: what a method takes on all stages of a job's pipeline. An internal module. */
#ifndef MPILORA_PLAN_STAGES_H
#define MPILORA_PLAN_STAGES_H

#include "plan/grid.h"
#include "plan/source.h"

/* The runs of one job, and what is read for each: one, or several together. */
typedef struct plan_job {
    int64_t count;
    const ml_run_config *config; /* [count] */
    plan_source *source;         /* [count] */
} plan_job;

/* `method` of the first run, with what the others train beside it, on the grid that `plan` says:
 * into micro[count], whose sizes ascend, in every activation mode. Local. ML_USAGE where the model
 * cannot be divided so; ML_RESOURCE. */
ml_status plan_stages(const ml_plan *plan, ml_method method, const plan_job *job, int64_t count,
                      plan_micro *micro) ML_NODISCARD;

#endif
