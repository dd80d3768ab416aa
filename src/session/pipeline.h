/* Micro-batches through the stages of a pipeline: pipeline.c; what a stage of it holds: stages.c.
 */
#ifndef MPILORA_SESSION_PIPELINE_H
#define MPILORA_SESSION_PIPELINE_H

#include "mpilora/stages.h"
#include "session/session.h"

/* What goes through: micro-batches 0 … count − 1, the same on all stages of a pipe. `pack` makes
 * one of them `batch`, again where backward comes later; `finish` is the last stage's whole
 * pass over one, its packing with it, by ml_model_loss or another pass of the model. Both return
 * the same status on every rank of the tp group. */
typedef struct pipeline_work {
    void *of;
    int64_t count;
    bool backward;
    const ml_batch *batch; /* borrowed */
    ml_status (*pack)(void *of, int64_t i);
    ml_status (*finish)(void *of, int64_t i);
    void (*complete)(void *of); /* behind a micro-batch's backward on a stage before the last: its
                                   gradients are there; NULL: nobody asks */
} pipeline_work;

/* All of them, with their gradients where `backward`. A stage that fails goes on with empty
 * messages, and so do its neighbours, so that none waits; its status is its own. Collective over
 * the pipe and over tp. */
ml_status ml_session_pipeline(session *s, const pipeline_work *work) ML_NODISCARD;

/* Positions [at, end) of a source, forward alone, in micro-batches of `micro`: `one` is the last
 * stage's whole pass over one of them; `mismatched`: the answers of objective kto behind others'
 * prompts. Collective over the pipe and over tp. */
typedef struct pipeline_part {
    session *s;
    const data_source *source;
    int64_t at, end, micro;
    bool mismatched;
    void *of;
    ml_status (*one)(void *of, int64_t at, int64_t count);
} pipeline_part;
ml_status ml_session_pipeline_part(const pipeline_part *part) ML_NODISCARD;

/* Positions of a replica that go through between two questions to all ranks: several micro-batches
 * a stage, so that all are busy; without stages one. Local. */
int64_t ml_session_pipeline_round(const session *s, int64_t micro);

/* stages.c: most micro-batches of a replica that a stage has between forward and backward. Local.
 */
int64_t ml_stages_in_flight(const ml_run_config *config, int dp, int pp, int stage);
/* Once they are laid out: whether the gradients of what stages have in common may be summed as they
 * are. Local. ML_USAGE. */
ml_status ml_stages_check_common(const ml_run_config *config,
                                 const ml_parameters *parameters) ML_NODISCARD;
/* Floats of the messages to the neighbours that wait to be taken. Local. */
int64_t ml_stages_buffers(int64_t tokens, int64_t width, int pp, int stage);

#endif
