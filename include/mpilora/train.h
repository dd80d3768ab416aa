/* train: a fine-tuning run, from a configuration to files.
 *
 * Loss of step s = Σ −log p(target) over the unmasked targets of the global batch ÷ their number,
 * so neither the process grid nor the micro-batch size changes it. Step s takes the sampler's
 * positions (s−1)·B … s·B−1; dp replica i the i-th part of them.
 */
#ifndef MPILORA_TRAIN_H
#define MPILORA_TRAIN_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/model.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* From now on SIGTERM, SIGINT and SIGUSR1 do not end the process: a run saves and gives
 * ML_STOPPED. ml_train_run calls it; a program calls it earlier so that no signal is lost while
 * MPI starts. They are blocked in this thread and those it starts.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
void ml_train_catch_signals(void);

/* Continuations while a run trains (train.samples), made by what the caller hands over: prepare
 * says how many tokens a pass of it has at most, before the model is built (local); make appends
 * lines of JSON to `lines` (collective over the grid). */
typedef struct ml_train_sampler {
    void *self;
    ml_status (*prepare)(void *self, const ml_base *base, int64_t prefix, int64_t infix,
                         int64_t *tokens);
    ml_status (*make)(void *self, const ml_grid *grid, ml_model *model, int64_t step,
                      ml_text *lines);
} ml_train_sampler;

/* How a run starts. Borrowed strings. */
typedef struct ml_train_options {
    bool fresh; /* does not resume: the checkpoints that are there are set aside */
    int64_t allowed;
    const char *const *allow; /* [allowed] keys of optim that may differ from the checkpoint's */
    const ml_train_sampler *sampler; /* NULL: none, whatever train.samples says */
} ml_train_options;

/* Trains as `config` says, resuming from run.dir's newest valid checkpoint unless told otherwise.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: ML_STOPPED after a signal, with a checkpoint written; ML_NUMERIC naming step and tensor
 * where a number is none any more, and then no checkpoint or result has it; every other status
 * with its text, the same on every rank. */
ml_status ml_train_run(const ml_run_config *config, const ml_train_options *options) ML_NODISCARD;

/* Trains several runs of one base in one job: the frozen weights are there once, and every step of
 * the job is one of each run, in passes over all their sequences (as ml_train_run says of each: its
 * losses, files, checkpoints and end are its own). A run whose numbers are none any more ends, and
 * the others go on.
 * Shapes: config[count], options[count], count >= 1.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: as ml_train_run; ML_USAGE where two runs differ in what is one for the job, or train what
 * they share; ML_NUMERIC at the end where a run ended so. */
ml_status ml_train_together(int64_t count, const ml_run_config *config,
                            const ml_train_options *options) ML_NODISCARD;

/* What a step's time goes to. The phases of a rank add up to its step. Collectives count as
 * communication wherever they are: sums inside forward and backward (tp), gradients, agreements;
 * waiting for slower ranks is part of it. Recomputation counts as backward. */
typedef enum ml_phase {
    ML_PHASE_FORWARD,
    ML_PHASE_BACKWARD,
    ML_PHASE_COMM,
    ML_PHASE_OPTIMIZER, /* gradients to zero, norm, clipping, AdamW, bf16 copies */
    ML_PHASE_DATA,      /* reading and packing of the micro-batches */
    ML_PHASE_OTHER,
    ML_PHASES
} ml_phase;

/* The word of a phase: "forward", "backward", "comm", "optimizer", "data", "other".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_phase_name(ml_phase phase);

/* What a file of lines is to have, in the order of their steps: a JSON object with "step" a line,
 * or rows that begin with it. */
typedef struct ml_metrics_lines {
    bool rows;
    bool once;     /* one line a step at most */
    int64_t every; /* at least one of every step that this divides; 0: none is due */
} ml_metrics_lines;

/* Cuts such a file behind its last whole line with a step ≤ `step`; what stays is not touched.
 * Lines that are none, or not in order, leave it: it is written anew without them, and the file as
 * it was stays as PATH.damaged. That, and steps up to `step` without a line, is warned of. No file
 * lacks all of them.
 * Shapes: none.
 * Ownership: borrows all.
 * Local.
 * Errors: ML_INPUT where it cannot be read; ML_USAGE where it is a link; ML_RESOURCE where it is no
 * file or cannot be cut or written. */
ml_status ml_metrics_cut(const char *path, const ml_metrics_lines *lines,
                         int64_t step) ML_NODISCARD;

ML_END_DECLS

#endif
