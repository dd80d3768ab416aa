/* passes: what the micro-batches of a step find. Inside train/. */
#ifndef MPILORA_TRAIN_PASSES_H
#define MPILORA_TRAIN_PASSES_H

#include "train/run.h"

typedef struct passes {
    double loss_sum, computed;
    ml_exact losses;            /* loss_sum, where sums are exact */
    int64_t targets, chosen;    /* of the step's whole batch; chosen: learnt of the chosen ones */
    double compared[PAIR_SUMS]; /* of an objective that compares pairs */
} passes;

/* A replica's sequences or rows of a batch: [at, end). */
typedef struct batch_share {
    int64_t at, end;
} batch_share;

/* This replica's, of the batch that begins at `first`. Local. */
batch_share passes_share(const run *r, int64_t first);

/* Targets and tokens of the batch that begins at sequence or row `first`. Local. */
void passes_count(const run *r, int64_t first, passes *p, step_result *out);
/* Of objective mlm, whose targets are drawn, these. Collective. */
ml_status passes_count_masked(run *r, int64_t first, passes *p, step_result *out) ML_NODISCARD;
/* What the objective has to know of the whole batch before its gradients. Collective. */
ml_status passes_look_ahead(run *r, int64_t first, passes *p, step_result *out) ML_NODISCARD;
/* Adds the gradients of this replica's share. The status is this rank's. Collective. */
ml_status passes_run(run *r, int64_t first, passes *p, step_result *out) ML_NODISCARD;

/* Whether LoRA's dropout draws by sequences. Local. */
bool passes_are_keyed(const ml_run_config *config);
/* Rounds of micro-batches on every replica. Local. */
int64_t passes_rounds(const run *r);
/* Whether the step is to be left between two rounds; st: this rank's status. Collective. */
bool passes_are_left(const run *r, ml_status st, step_result *out);

/* step.c: what the passes of this rank have found, and their status → the step's results and the
 * update. Collective. */
ml_status step_end(run *r, passes *p, ml_status local, const step_clock *clock,
                   step_result *out) ML_NODISCARD;

#endif
