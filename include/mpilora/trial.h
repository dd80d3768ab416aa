/* trial: training steps in memory, to be measured: a base's weights or random ones, random tokens,
 * every token predicts; nothing is written.
 *
 * Letters: T tokens of a step of the whole job, S sequences, n their length (T = S·n), d width, L
 * layers, V vocabulary, r rank.
 */
#ifndef MPILORA_TRIAL_H
#define MPILORA_TRIAL_H

#include "mpilora/config.h"
#include "mpilora/train.h"

ML_BEGIN_DECLS

typedef enum ml_trial_method {
    ML_TRIAL_LORA,
    ML_TRIAL_FULL,
    ML_TRIAL_FROZEN, /* LoRA's passes without LoRA: the same products with the frozen weights,
                        forward and back to the first layer that `targets` names */
    ML_TRIAL_METHODS
} ml_trial_method;

/* The word of a method: "lora", "full", "frozen".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_trial_method_name(ml_trial_method method);

typedef struct ml_trial_options {
    ml_trial_method method;
    const char *base;          /* BASE.h5; NULL: `spec` with random weights. Borrowed. */
    const ml_model_spec *spec; /* borrowed; not read where `base` is given */
    unsigned targets;          /* ml_target bits, of LoRA and frozen */
    int64_t rank;
    double dropout;
    int64_t sequences, length; /* S, n */
    int tp;
    ml_dtype precision;
    const char *backend, *vector_path; /* NULL: chosen; borrowed */
} ml_trial_options;

typedef struct ml_trial ml_trial;

/* A model with its data in memory, ready to be trained.
 * Shapes: S, n of the options.
 * Ownership: *out is the caller's, who ends it with the destroy below; the options' texts are
 * borrowed until then.
 * Collective over the world.
 * Errors: ML_USAGE (fewer sequences than dp, a length beyond the context, targets that the family
 * lacks), ML_INPUT, ML_RESOURCE; the same on every rank. */
ml_status ml_trial_create(ml_trial **out, const ml_trial_options *options) ML_NODISCARD;

/* Ends it; NULL is fine.
 * Shapes: none.
 * Ownership: takes `trial`.
 * Collective over the world.
 * Errors: none. */
void ml_trial_destroy(ml_trial *trial);

typedef struct ml_trial_step {
    double loss;
    double seconds, phase[ML_PHASES];
    double gradient_seconds; /* of the communication: the sum of the gradients, ranks together at
                                its start */
} ml_trial_step;

/* One update, all ranks starting together. Times are this rank's.
 * Shapes: seconds.
 * Ownership: borrows `trial`; `out` is the caller's.
 * Collective over the world.
 * Errors: none. */
void ml_trial_run(ml_trial *trial, ml_trial_step *out);

/* The fp32 multiply-add peak of all ranks at once, measured now; 0 under the vector path "ref".
 * Shapes: GF/s.
 * Ownership: borrows `trial`.
 * Collective over the world.
 * Errors: none. */
double ml_trial_peak_gflops(ml_trial *trial);

/* What a step is and needs. Flops count a product of an m × k and a k × n matrix as 2·m·k·n, and
 * each only where it is needed:
 *   forward 2 a weight and token; backward 2 more for the input's gradient, except before the first
 *     adapter, and 2 more for a weight that trains;
 *   LoRA's pair: 2·r·(in + out) forward, twice that backward; attention: 4·h a head and pair of
 *     tokens that attend forward, twice that backward.
 * For LoRA on a model of P weights that is 4P + 6·r·(in + out) of every pair + attention a token,
 * less what lies before the first adapter; for full 6P. Norms, activations, the optimizer and
 * everything computed a second time count as nothing. */
typedef struct ml_trial_facts {
    const char *backend, *vector_path;
    int ranks, dp, tp;
    double flops;             /* of the whole job's step */
    int64_t params_trainable; /* of the whole job */
    int64_t state_bytes;      /* accounted on this rank: what trains, gradients and moments */
    int64_t frozen_bytes;     /* accounted on this rank */
    int64_t allreduce_bytes;  /* payload of the gradients' sum */
    int64_t tp_bytes;         /* that this rank passed to sums over its tp group in the last step */
    int64_t tp_bytes_expected; /* 4·(T·d for the embedding, 2 sums of T·d forward and 2 backward a
                                  layer, less what is not needed, T·(d + 3) for the head) */
} ml_trial_facts;

/* What a step is and needs, as ml_trial_facts says.
 * Shapes: none.
 * Ownership: borrows `trial`, and so do the texts in `out`.
 * Local.
 * Errors: none. */
void ml_trial_get_facts(const ml_trial *trial, ml_trial_facts *out);

/* ---- forward passes ------------------------------------------------------------------------ */

/* A model that computes the logits of every token of a batch, under no adapter or one with random
 * values that nothing trains. */
typedef struct ml_forward_options {
    const char *base;          /* NULL: `spec` with random weights. Borrowed, as is the next. */
    const ml_model_spec *spec; /* not read where `base` is given */
    bool adapted;              /* false: the base alone, which a merged adapter is as fast as */
    ml_method method;
    ml_method_sizes sizes;
    unsigned targets; /* of LoRA, as is rank */
    int64_t rank;
    int64_t sequences, length; /* the most of a batch */
    ml_dtype precision;
    const char *backend; /* NULL: chosen; borrowed */
} ml_forward_options;

typedef struct ml_forward_trial ml_forward_trial;

/* A model that computes logits, with tp = all ranks.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with the destroy below; the options' texts are
 * borrowed until then.
 * Collective over the world.
 * Errors: ML_USAGE (fewer sequences than dp, a length beyond the context, targets that the family
 * lacks), ML_INPUT, ML_RESOURCE; the same on every rank. */
ml_status ml_forward_trial_create(ml_forward_trial **out,
                                  const ml_forward_options *options) ML_NODISCARD;

/* Ends it; NULL is fine.
 * Shapes: none.
 * Ownership: takes `trial`.
 * Collective over the world.
 * Errors: none. */
void ml_forward_trial_destroy(ml_forward_trial *trial);

/* The time of one pass over `sequences` sequences of `length` random tokens, all ranks starting
 * together.
 * Shapes: seconds.
 * Ownership: borrows `trial`.
 * Collective over the world.
 * Errors: none. */
double ml_forward_trial_run(ml_forward_trial *trial, int64_t sequences, int64_t length);

/* Parameters of the adapter, and the backend that multiplies.
 * Shapes: a count.
 * Ownership: borrows `trial`, and so does the text.
 * Local.
 * Errors: none. */
int64_t ml_forward_trial_parameters(const ml_forward_trial *trial);
const char *ml_forward_trial_backend(const ml_forward_trial *trial);

/* ---- generation ---------------------------------------------------------------------------- */

typedef enum ml_decode_adapter {
    ML_DECODE_BASE,
    ML_DECODE_ADAPTED,
    ML_DECODE_MERGED
} ml_decode_adapter;

typedef struct ml_decode_options {
    const char *base; /* NULL: `spec` with random weights. Borrowed, as are the next two. */
    const ml_model_spec *spec; /* not read where `base` is given */
    const char
        *adapter; /* adapter.h5 or a PEFT directory; NULL: random factors on `targets`, of `rank` */
    ml_decode_adapter how;
    unsigned targets;
    int64_t rank;
    int64_t tokens;    /* generated by each run */
    int64_t sequences; /* at once */
    int64_t prompt;    /* tokens that each of them has before the first new one */
    ml_dtype precision;
    bool rounds_activations;
} ml_decode_options;

/* A model that continues sequences; tp = all ranks. */
typedef struct ml_decode_trial ml_decode_trial;

/* A model that continues sequences, with tp = all ranks.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with the destroy below; the options' texts are
 * borrowed until then.
 * Collective over the world.
 * Errors: ML_USAGE (fewer sequences than dp, a length beyond the context, targets that the family
 * lacks), ML_INPUT, ML_RESOURCE; the same on every rank. */
ml_status ml_decode_trial_create(ml_decode_trial **out,
                                 const ml_decode_options *options) ML_NODISCARD;

/* Ends it; NULL is fine.
 * Shapes: none.
 * Ownership: takes `trial`.
 * Collective over the world.
 * Errors: none. */
void ml_decode_trial_destroy(ml_decode_trial *trial);

/* Generates options.tokens tokens of every sequence behind its prompt, as `mpilora generate` does;
 * *seconds of all of them together, by the clock, and *processor, those that all threads of this
 * rank have had of processors.
 * Shapes: seconds.
 * Ownership: borrows `trial`.
 * Collective over the world.
 * Errors: ML_NUMERIC, ML_RESOURCE. */
ml_status ml_decode_trial_run(ml_decode_trial *trial, double *seconds,
                              double *processor) ML_NODISCARD;

/* The time in which every rank's threads read its weights once: all that a token needs (linear
 * layers, norms, head).
 * Shapes: seconds.
 * Ownership: borrows `trial`.
 * Collective over the world.
 * Errors: none. */
double ml_decode_trial_read(ml_decode_trial *trial);

/* Bytes of these weights on this rank, and the vector path that computes.
 * Shapes: bytes.
 * Ownership: borrows `trial`, and so does the text.
 * Local.
 * Errors: none. */
int64_t ml_decode_trial_bytes(const ml_decode_trial *trial);
const char *ml_decode_trial_vector_path(const ml_decode_trial *trial);

ML_END_DECLS

#endif
