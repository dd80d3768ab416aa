/* `mpilora score --task`: predictions against labels. Local; an internal module. */
#ifndef MPILORA_CLI_COMMANDS_SCORE_TASK_H
#define MPILORA_CLI_COMMANDS_SCORE_TASK_H

#include "mpilora/base.h"

typedef struct score_task_given {
    const char *task, *path;
    const char *mismatched; /* MNLI's second file, or NULL */
    const char *positive;   /* the class that f1 is of, or NULL: the task's own */
    bool json;
} score_task_given;

/* Prints the task's figures under the keys that `eval --json` has. ML_USAGE for a task that is not
 * known, or what does not go with it; ML_INPUT and ML_RESOURCE as ml_predictions_read. */
ml_status score_task(const score_task_given *given) ML_NODISCARD;

#endif
