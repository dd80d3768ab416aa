/* One run on one grid after the other: what `plan` describes once, and search asks for many grids,
 * sizes of micro-batches and activation modes. plan.c. */
#ifndef MPILORA_PLAN_GRID_H
#define MPILORA_PLAN_GRID_H

#include "mpilora/plan.h"

/* The run's description and, where they are there, its data. */
typedef struct plan_run plan_run;

/* `machine` NULL: no times; `model` as in ml_plan_create_on. All are borrowed. Local. ML_USAGE,
 * ML_INPUT, ML_RESOURCE. */
ml_status plan_run_open(plan_run **out, const ml_run_config *config, const ml_machine *machine,
                        const ml_model_spec *model) ML_NODISCARD;
void plan_run_close(plan_run *run);
const ml_model_spec *plan_run_spec(const plan_run *run);

/* Ranks that can share its sequences out, at most. Local. */
int64_t plan_run_shares_most(const plan_run *run);

/* Micro-batches of one size, in every activation mode. */
typedef struct plan_micro {
    int64_t micro;
    ml_plan_method mode[ML_ACTIVATION_MODES];
    char why[ML_PLAN_WHY]; /* it and larger ones cannot be; "" where it can */
} plan_micro;

/* `method` on a grid, of which `grid` says ranks, nodes, tp, cp and pp; the rest of it is filled
 * in. The sizes in micro[count] ascend. Local. ML_USAGE where the model cannot be divided so. */
ml_status plan_run_on(plan_run *run, ml_plan *grid, ml_method method, int64_t count,
                      plan_micro *micro) ML_NODISCARD;

#endif
