/* together: several sessions that train on one copy of the frozen weights. Each has its own data,
 * method, parameters and packing; grid, base, model and kernels are the first one's. In a pass the
 * micro-batches of all of them lie one behind the other: the frozen products go over all rows, and
 * every row goes through the adapter of its own session. An internal module.
 *
 * A row's results depend on no other row but those of its sequence, so what a session computes is
 * what it would compute alone, as far as the kernels' products do not round otherwise for another
 * number of rows.
 *
 * Order of calls: ml_session_open(member 0), ml_session_open_beside(the others) → create → build →
 * passes and evaluations → destroy → ml_session_close, the first one last. All collective. */
#ifndef MPILORA_SESSION_TOGETHER_H
#define MPILORA_SESSION_TOGETHER_H

#include "session/session.h"

typedef struct ml_together ml_together;

/* Attaches every member's method. *out is the caller's; the sessions are borrowed until
 * ml_together_destroy. ML_USAGE where a member asks for what cannot be together, naming key and
 * both values; ML_RESOURCE. */
ml_status ml_together_create(ml_together **out, int64_t count, session *const *member) ML_NODISCARD;
void ml_together_destroy(ml_together *together);

/* Kernels, storage and weights once, parameters for each; then as ml_session_build. */
ml_status ml_together_build(ml_together *together, const char *backend,
                            const char *vector_path) ML_NODISCARD;

/* What ml_session_predict says, of all members. Before build. */
void ml_together_predict(const ml_together *together, const char *backend, const char *vector_path,
                         int64_t bytes[ML_MEM_CATEGORIES]);

/* What a member but the first adds to a rank, which is a writer of checkpoints; and what all of
 * them need to join their micro-batches. Local. */
void ml_together_guest_bytes(const ml_peft *peft, const ml_parameters *parameters,
                             const ml_session_shape *shape, bool writer,
                             int64_t bytes[ML_MEM_CATEGORIES]);
int64_t ml_together_pass_bytes(int64_t tokens, int64_t sequences, const ml_model_spec *spec);

/* Passes of the model by itself, as in an evaluation, go through this member's adapter. */
void ml_together_choose(ml_together *together, int64_t member);

/* What a member has in a pass: `count` of its objective's units (sequences, pairs, answers) of its
 * training data from position `first` on; 0: nothing. */
typedef struct ml_together_part {
    int64_t first, count;
    int64_t targets, tokens; /* of its step: what the mean loss, and that on tokens of chosen
                                answers, is over; as of pair_batch */
    bool keyed;              /* with dropout */
    double loss;             /* += Σ −log p of its targets */
    double computed;         /* += the rows computed */
    ml_exact *losses;        /* += as loss, where sums are exact */
    double *compared;        /* [PAIR_SUMS] += where the objective has figures */
} ml_together_part;

/* Passes over the members' micro-batches. choose: the parts of the i-th into part[members]; take:
 * of a part that was computed, on the last stage. ahead: forward alone, of the members whose
 * objective looks ahead: ml_session_measure; else forward and backward, which adds each member's
 * gradients. */
typedef struct ml_together_passes {
    void *of;
    int64_t count; /* of ml_together_staged; in each some member has something */
    bool ahead;
    ml_together_part *part; /* [members] borrowed */
    void (*choose)(void *of, int64_t i, ml_together_part *part);
    void (*take)(void *of, const ml_together_part *part);
} ml_together_passes;

/* The i-th pass, of a model in one stage. Collective over tp. */
ml_status ml_together_pass(ml_together *together, const ml_together_passes *passes,
                           int64_t i) ML_NODISCARD;
/* All of them through the stages of a pipeline, as ml_session_pipeline. Collective over the pipe
 * and over tp. */
ml_status ml_together_staged(ml_together *together, const ml_together_passes *passes) ML_NODISCARD;

#endif
