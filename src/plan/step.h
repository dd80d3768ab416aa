/* The time of a step, from a machine's rates. */
#ifndef MPILORA_PLAN_STEP_H
#define MPILORA_PLAN_STEP_H

#include "mpilora/plan.h"

/* What the data make of a sequence on average, after cutting: its tokens, those whose successor is
 * predicted, and the pairs of tokens that attend, in a layer without and with the model's window.
 */
typedef struct plan_sequence {
    double tokens, rows, pairs, near_pairs;
} plan_sequence;

typedef struct plan_step {
    const ml_machine *machine;
    const ml_run_config *config;
    int ranks, nodes, threads;
    plan_sequence sequence;
    int64_t
        unit; /* sequences of a row of the data: both of a pair, all texts that belong together */
} plan_step;

/* `model`, or a stage of it, in its activation mode, with the method attached and laid out, as if
 * no other stage was waited for. pass[2]: what a whole micro-batch takes of that, forward and
 * backward. */
ml_plan_time plan_time(const plan_step *step, ml_model *model, const ml_parameters *parameters,
                       ml_method method, ml_activation_mode activations, double pass[2]);

/* A step in which a stage waits so long for the others. */
void plan_time_add_bubble(ml_plan_time *time, double waits_s);

#endif
