/* evaluate: what a base, alone or with an adapter, makes of a data set: its loss there, and what it
 * writes after the prompts. */
#ifndef MPILORA_EVALUATE_H
#define MPILORA_EVALUATE_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/generate.h"
#include "mpilora/score.h"

ML_BEGIN_DECLS

typedef struct ml_evaluation {
    ml_objective objective; /* the configuration's, or what data.valid has chosen */
    double loss; /* mean over target tokens, nats; of rows or pairs of an objective on scores */
    int64_t target_tokens;
    int64_t rows;    /* or pairs; 0: the objective is of tokens */
    double accuracy; /* of rows; how often the chosen answer has the higher reward */
    double rewards_chosen, rewards_rejected, /* means over pairs, or over answers that are wanted
                                                and those that are not; NaN: there are none */
        logps_chosen, logps_rejected;        /* likewise; NaN: the objective has none */
    double kl;                               /* objective kto's estimate; of others NaN */
    ml_figures figures;                      /* of labels: accuracy, f1, … (score.h); else none */
    int64_t outputs, output_tokens;          /* generated */
    double output_seconds;
} ml_evaluation;

/* What to generate beside the loss: a continuation of every prompt of data.valid (equal prompts
 * once), each a line {"prompt": …, "output": …, "references": [ … ]} of the file `path`, which
 * `mpilora score` reads. Replicas share the prompts. */
typedef struct ml_output_options {
    const char *path;
    ml_generation generation; /* `end` is taken from the tokenizer */
    int64_t together;         /* prompts at a time, at most, on each replica */
} ml_output_options;

/* Loss on data.valid of the base, with the adapter at `adapter` where not NULL (adapter.h5 or a
 * PEFT directory); `outputs` may be NULL. What an objective that asks how far answers have moved
 * measures from is the base alone, or with the adapter of method.init, or the base `reference`
 * where that is not NULL. `predictions`, or NULL: a file for what is predicted of each label, lines
 * {"prediction": …, "label": …} in the order of the data set.
 * Shapes: as ml_evaluation says.
 * Ownership: all borrowed; *out is the caller's.
 * Collective over the world.
 * Errors: ML_USAGE, ML_INPUT, ML_RESOURCE, ML_NUMERIC; the same on every rank. */
ml_status ml_evaluate_run(const ml_run_config *config, const char *adapter, const char *reference,
                          const ml_output_options *outputs, const char *predictions,
                          ml_evaluation *out) ML_NODISCARD;

ML_END_DECLS

#endif
