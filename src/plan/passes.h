/* What the passes over one micro-batch cost a rank. */
#ifndef MPILORA_PLAN_PASSES_H
#define MPILORA_PLAN_PASSES_H

#include "plan/step.h"

/* What a rank spends: compute in seconds of one core, sums of its groups in calls and bytes. */
typedef struct tally {
    const plan_step *step;
    const ml_model_spec *spec;
    ml_model *model;
    ml_method method;
    bool full;  /* every tensor trains */
    bool apart; /* a tensor of the base does */
    ml_dtype dtype;
    double forward, backward;
    double tp_calls, tp_bytes;
    double cp_calls, cp_bytes; /* of gathering keys and values, as sums that take as long */
} tally;

/* This rank's part of a micro-batch. */
typedef struct micro {
    double tokens, rows, pairs, near_pairs;
    double chunks, last_chunks, head_chunks;
} micro;

static inline double elements(const tally *t, ml_element_kind kind, double n)
{
    return 1e-9 * t->step->machine->element_ns[kind] * n;
}

/* Adds what this rank does forward and backward for `batch`, whose chunks are found here. */
void micro_batch(tally *t, ml_model *model, const micro *batch, ml_activation_mode mode);

#endif
