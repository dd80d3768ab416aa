/* What the two files of `mpilora bench step` share. */
#ifndef MPILORA_CLI_BENCH_STEP_H
#define MPILORA_CLI_BENCH_STEP_H

#include "cli/bench/bench.h"
#include "mpilora/trial.h"

typedef struct step_options {
    bool json;
    const char *base, *model;
    const char *methods_text, *targets, *precision;
    int64_t rounds, tp, tokens;
    double seconds;
    ml_model_spec spec;
    ml_trial_options trial;
    int methods;
    ml_trial_method method[ML_TRIAL_METHODS];
} step_options;

/* What one method gave, round by round. */
typedef struct method_results {
    ml_trial_facts facts;
    int64_t count;
    ml_trial_step steps[BENCH_ROUNDS_MOST];
    bench_times seconds, ratio; /* ratio: to the first method's step of the same round */
} method_results;

typedef struct step_bench {
    ml_grid *grid;
    ml_trial *trial[ML_TRIAL_METHODS];
    const char *backend; /* NULL: not chosen yet */
    bool in_turn; /* too little memory for all methods at once: each is built again for each step */
    method_results results[ML_TRIAL_METHODS];
    bench_times peaks;
} step_bench;

/* bench_step_report.c */
void bench_step_report(const step_bench *b, const step_options *o);

#endif
