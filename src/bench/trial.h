/* What the files of a trial share. */
#ifndef MPILORA_BENCH_TRIAL_H
#define MPILORA_BENCH_TRIAL_H

#include "mpilora/family.h"
#include "mpilora/trial.h"
#include "train/step.h"

struct ml_trial {
    session session;
    ml_run_config config;
    ml_model_spec spec;
    ml_trial_options options; /* targets resolved */
    float *bias_gradient;     /* of the first layer that LoRA would adapt; frozen only */
    int64_t steps;
    int64_t state_bytes, frozen_bytes;
    int64_t tp_bytes; /* of the last step */
};

/* The operations of a layer that have weights, in their order. */
enum { TRIAL_QKV, TRIAL_O, TRIAL_UP, TRIAL_DOWN, TRIAL_LINEARS };

extern const ml_role trial_role[TRIAL_LINEARS];

/* The first of them, in layer 0, that `targets` names; the last where it names none. */
int first_adapted(const ml_model_spec *spec, unsigned targets);

/* trial_work.c */
double trial_flops(const ml_trial *trial);
int64_t trial_tp_bytes(const ml_trial *trial); /* of this rank in one step */

/* trial.c: `count` sequences of n random tokens, of which every one predicts the next, from
 * sequence `first` on: the session's batch. */
void trial_fill_batch(session *s, int64_t vocab, int64_t first, int64_t count, int64_t n);

#endif
