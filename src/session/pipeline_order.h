/* The order in which the stages of a pipeline do their operations, and how long it takes them:
 * pipeline_order.c. */
#ifndef MPILORA_SESSION_PIPELINE_ORDER_H
#define MPILORA_SESSION_PIPELINE_ORDER_H

#include "mpilora/base.h"

typedef struct pipeline_operation {
    bool backward;
    int64_t micro; /* which micro-batch, 0 … count − 1 */
} pipeline_operation;

/* Where one stage is on its way through its operations. */
typedef struct pipeline_order {
    int64_t count;               /* micro-batches */
    bool backward;               /* they come back */
    int64_t ahead;               /* most that are between their forward and their backward */
    int64_t forwards, backwards; /* done */
} pipeline_order;

/* Of a stage's beginning. Local. */
pipeline_order ml_pipeline_order(int pp, int stage, int64_t count, bool backward);
/* The stage's next operation; false where all are done. Local. */
bool ml_pipeline_next(pipeline_order *order, pipeline_operation *next);
/* The slot of an operation in the clock of the whole pipe. Local. */
int64_t ml_pipeline_slot(int pp, int stage, const pipeline_operation *operation);

/* How long an operation takes on each stage: forward[pp], backward[pp], of whole micro-batches; the
 * last one of a step may be a part of one. Stages whose backward takes nothing do not go back: they
 * wait for no gradient. */
typedef struct pipeline_lengths {
    int pp;
    int64_t count;
    double last; /* 1: as the others */
    const double *forward, *backward;
} pipeline_lengths;

/* From the first operation's beginning to the last one's end, with nothing between a message's end
 * and its arrival. Beyond eight micro-batches a stage each more takes what the slowest stage takes.
 * Local. ML_RESOURCE. */
ml_status ml_pipeline_seconds(const pipeline_lengths *lengths, double *seconds) ML_NODISCARD;

#endif
