/* source: what a plan is made from. An internal module. */
#ifndef MPILORA_PLAN_SOURCE_H
#define MPILORA_PLAN_SOURCE_H

#include "mpilora/data.h"
#include "mpilora/plan.h"
#include "mpilora/store.h"
#include "plan/step.h"

/* What is read for the plan and stays open while it is made: the description, and the data sets
 * where they are there. */
typedef struct plan_source {
    ml_base *base;
    ml_model_spec spec;
    ml_dataset *data[2];
    ml_sampler *sampler[2];
    int64_t max_len, tokens;    /* of a sequence; of the largest micro-batch */
    plan_sequence mean;         /* of the method that is planned */
    const ml_model_spec *model; /* in the place of what config's base says; NULL: that */
    const ml_machine *machine;  /* NULL: no times */
    ml_run_config *settles;     /* of which data may choose the objective, NULL: of none */
} plan_source;

/* Opens what the configuration names: data that are not there are left out. Local. What is open is
 * the caller's, who ends it with plan_source_close, also after a failure. */
ml_status plan_source_open(plan_source *s, const ml_run_config *c) ML_NODISCARD;
void plan_source_close(plan_source *s);

/* Tokens that the method puts before each sequence and behind its prompt. */
int64_t plan_virtual_tokens(const ml_run_config *c, ml_method method);

/* The largest micro-batch's tokens, with so many replicas. ML_USAGE where 64 bits cannot count what
 * it takes. */
ml_status plan_source_find_tokens(plan_source *s, const ml_run_config *c, int dp) ML_NODISCARD;

/* Tokens of the longest sequence that is trained. */
int64_t plan_source_longest(const plan_source *s);

/* What vectors of texts are made of, where the objective makes some. */
ml_status plan_source_pooling(const plan_source *s, const ml_run_config *c,
                              ml_pooling *out) ML_NODISCARD;

/* The mean of the first sequences of the run, `more` virtual tokens with each; without data all
 * have max_len tokens and predict at each. */
plan_sequence plan_source_mean(const plan_source *s, const ml_run_config *c, ml_pooling pooling,
                               int64_t more);

#endif
