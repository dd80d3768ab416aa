/* step: the parts of an update that training's step and a bench trial have in common, and the clock
 * that their time goes to. For modules inside the library.
 */
#ifndef MPILORA_TRAIN_STEP_H
#define MPILORA_TRAIN_STEP_H

#include "mpilora/train.h"
#include "session/session.h"

/* What one step gives. Times are this rank's. */
typedef struct step_result {
    double loss, lr, grad_norm;
    int64_t tokens, computed_tokens; /* of the global batch; rows computed for it: common beginnings
                                        once, none that predicts nothing */
    double seconds, phase[ML_PHASES];
    int64_t piped_bytes; /* that the busiest rank sent to neighbouring stages */
    int64_t
        gathered_bytes; /* that it sent, of keys and values, to those that share sequences out */
    ml_reduction reduction;
    double compared[PAIR_SUMS];     /* of the batch's pairs, where the objective compares */
    double filtered, filtered_most; /* under loss.filter: the share of the blocks of the gradient of
                                       logits that were left out, and the largest probability that
                                       a row lost by it; of the whole grid */
    bool stop;                      /* a signal reached some rank */
    bool given_up; /* it was left between two micro-batches, and nothing has changed */
    bool saved;    /* the save beside training has ended */
    bool save;     /* train.save_every is a time, and it has come */
} step_result;

/* A step's clock: what stood on the others when it began. Times outside collectives are differences
 * of busy_seconds. */
typedef struct step_clock {
    double started, comm, forward, backward;
    int64_t piped, gathered; /* bytes */
} step_clock;

double busy_seconds(const session *s);
step_clock step_clock_start(const session *s);
/* Fills in the seconds and the phases that are not yet there, and this rank's piped_bytes and
 * gathered_bytes. Local. */
void step_clock_stop(const step_clock *clock, const session *s, step_result *out);

/* A hash of each trainable tensor's gradient on this rank, before the sum over the grid and after:
 * trace.c; NULL where run.trace is off. */
typedef struct trace_hash {
    char hex[17];
} trace_hash;
typedef struct gradient_trace {
    trace_hash *before, *after; /* [parameters.count] */
} gradient_trace;
/* What a rank holds, or with `summed` what the grid does. Nothing where `out` is NULL. Local. */
void trace_gradients(const session *s, bool summed, trace_hash *out);

/* The parts before and after the passes. */
void clear_gradients(session *s, step_result *out); /* local */
/* Over the grid, and their norm; `trace` may be NULL. Collective. */
void reduce_gradients(session *s, const gradient_trace *trace, step_result *out);
void update_parameters(session *s, int64_t done, step_result *out); /* collective */

#endif
