/* generate: continuations of prompts, of token ids by one model (ml_generate_tokens), and of texts
 * by a whole job (ml_generate_run), whose ranks are replicas, each a tensor-parallel group, that
 * share the prompts. */
#ifndef MPILORA_GENERATE_H
#define MPILORA_GENERATE_H

#include "mpilora/bank.h"
#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* ---- tokens -------------------------------------------------------------------------------- */

enum { ML_GENERATION_ENDS = 16 };

typedef struct ml_generation {
    int64_t max_new;                 /* tokens at most */
    int32_t end[ML_GENERATION_ENDS]; /* each of these ends a continuation (and is not part of it) */
    int64_t ends;                    /* how many; 0: none */
    int64_t beams;           /* 1: greedy or sampling; more: beam search without early stopping */
    double length_penalty;   /* of beams: a hypothesis counts as Σ log p / length^penalty, its end
                                included; Hugging Face's default is 1 */
    int64_t no_repeat_ngram; /* n: no n tokens stand twice in prompt and continuation (Hugging
                                Face's no_repeat_ngram_size); 0: off */
    double temperature;      /* 0: greedy */
    int64_t top_k;           /* 0: all */
    double top_p;            /* 1: all */
    uint64_t seed;
    ml_status (*may_go_on)(void *self); /* asked before each pass: a failure ends all; NULL: nobody
                                           is */
    void *self;
} ml_generation;

/* A prompt and its continuation, without `end`. */
typedef struct ml_request {
    const int32_t *prompt; /* [length], virtual tokens among them; borrowed */
    int64_t length;
    int64_t adapter; /* a number that means something to the router */
    int64_t number;  /* its stream of random numbers, where it samples */
    int32_t *out;    /* room for max_new; borrowed */
    int64_t count;   /* set: tokens in `out` */
} ml_request;

/* All continuations, at most `together` of them at a time; where one ends the next begins. Prompts
 * that begin alike share that beginning where they begin at the same time. On the stages of a
 * pipeline those under way are as many groups as stages, each of which is in another stage. A
 * continuation depends on its own request alone, but for rounding. The same on every rank of the
 * replica. The model must be reserved for ml_generation_tokens. `router` NULL: the model as it is.
 * Shapes: requests[count].
 * Ownership: all borrowed; the requests' `out` is written.
 * Collective over a replica.
 * Errors: ML_USAGE where a prompt and max_new exceed the context; ML_NUMERIC where logits are not
 * finite; ML_RESOURCE. */
ml_status ml_generate_tokens(ml_model *model, const ml_generation *options, int64_t count,
                             ml_request *requests, int64_t together,
                             const ml_router *router) ML_NODISCARD;

/* The most tokens that a pass of ml_generate_tokens has.
 * Shapes: tokens.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
int64_t ml_generation_tokens(const ml_generation *options, int64_t count,
                             const ml_request *requests, int64_t together);

/* ---- texts --------------------------------------------------------------------------------- */

typedef struct ml_prompt {
    const char *text;   /* NULL: the ids */
    const int32_t *ids; /* [nids] with nothing added to them */
    int64_t nids;
    int64_t adapter; /* a number in the list of adapters; −1: the base alone */
    int64_t line;    /* of `file`, or its number on the command line */
} ml_prompt;

typedef struct ml_generate_options {
    const char *base;
    ml_dtype precision;
    ml_generation generation; /* `end` is taken from the base: its tokenizer's end of text, and what
                                 generation_config.json, else config.json, of its source names */
    int64_t together;         /* prompts at a time in each replica, at most */
    int64_t pp;               /* stages of a pipeline; 0: one */
    int64_t tp; /* ranks of a tensor-parallel group; 0: as many as the model's heads can be divided
                   among */
    int64_t nadapters;
    const char *const *adapters; /* each an adapter.h5 or a PEFT directory */
    int64_t count;
    const ml_prompt *prompts;
    bool specials_are_text;  /* a prompt that spells a special token means its letters */
    bool whole;              /* a prompt is what a chat template made: no token goes before it */
    const int32_t *turn_end; /* one more token that ends a continuation; NULL: none */
    bool rounds_activations; /* products with weights in blocks take activations of 8 bits */
    bool log_probs;          /* every token's are wanted: ml_generate_run says where */
    int64_t top;             /* how many of the most probable tokens beside each */
    bool echo;               /* the prompts' tokens, too */
    const char *file;        /* what the prompts are from, for messages; NULL: the command line */
    const char
        *out; /* where the results are to go: looked at before anything is computed; may be NULL */
} ml_generate_options;

/* Seconds of the slowest rank. */
typedef struct ml_generate_report {
    double base_seconds, adapter_seconds; /* reading the base's weights; reading all adapters and
                                             putting them in place */
    double seconds;                       /* of generation */
    int64_t tokens;                       /* generated */
    ml_bank_switches switches;
    int64_t spelled;   /* special tokens that prompts spell and that stay text */
    int64_t refused;   /* prompts that are not answered: empty, or too long */
    char refusal[512]; /* why the first of them is not */
} ml_generate_report;

/* Appends the bytes of continuation i to out[i], the same on every rank. With options->log_probs a
 * JSON object goes to log_probs[i] (else NULL): {"tokens": ids of the continuation, with `echo` of
 * the prompt before it, "texts": theirs, "logprobs": log p of each after all that stand before it,
 * in nats, by the model as it is, whatever temperature or search chose it (null of the first token
 * of all), "top": [[id, log p], …] of the most probable ones there, best first, "prompt": how many
 * of them are the prompt's}. A prompt that cannot be answered is counted in the report, and its
 * out[i] stays without data; where none can be it is an error.
 * Shapes: out[options->count], log_probs[options->count].
 * Ownership: options are borrowed; the texts are the caller's.
 * Collective over the world.
 * Errors: ML_USAGE; ML_INPUT (no tokenizer, bad files; a prompt of `file` that is empty or too
 * long, else ML_USAGE); ML_RESOURCE; ML_NUMERIC. */
ml_status ml_generate_run(const ml_generate_options *options, ml_text *out, ml_text *log_probs,
                          ml_generate_report *report) ML_NODISCARD;

/* ---- conversations -------------------------------------------------------------------------- */

/* Prompts that depend on the answers before them. next, on world rank 0: the text of the next
 * prompt (empty before), `answer` that of the one before (NULL at first); *more false: there is
 * none. */
typedef struct ml_talk {
    void *self;
    ml_status (*next)(void *self, const ml_text *answer, ml_text *prompt, bool *more);
} ml_talk;

/* Answers one prompt after the other with one model, which is read once; options as for
 * ml_generate_run, without prompts, and with one adapter at most, which answers.
 * Shapes: none.
 * Ownership: all borrowed.
 * Collective over the world.
 * Errors: as ml_generate_run, and those of next; ML_INPUT where a conversation is too long. */
ml_status ml_generate_talk(const ml_generate_options *options, const ml_talk *talk) ML_NODISCARD;

/* ---- while a model trains ------------------------------------------------------------------- */

typedef struct ml_samples ml_samples;

/* The same prompts for a model that trains, greedily; end with ml_samples_destroy (NULL is fine).
 * `file`: what the prompts are from.
 * Shapes: prompts[count].
 * Ownership: *out is the caller's; prompts and file are borrowed until it ends.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_samples_create(ml_samples **out, const ml_prompt *prompts, int64_t count,
                            int64_t max_new, const char *file) ML_NODISCARD;
void ml_samples_destroy(ml_samples *samples);

/* The two functions of ml_train_sampler (train.h), for a `self` of ml_samples: tokens of the
 * prompts, and of a pass; continuations as lines {"step", "prompt", "output"}.
 * Shapes: tokens.
 * Ownership: all borrowed; `lines` is the caller's.
 * Collective over the grid; preparing is local.
 * Errors: ML_INPUT naming file and line of a prompt that is empty or too long, or a base without a
 * tokenizer; ML_USAGE for an encoder; ML_NUMERIC; ML_RESOURCE. */
ml_status ml_samples_prepare(void *samples, const ml_base *base, int64_t prefix, int64_t infix,
                             int64_t *tokens) ML_NODISCARD;
ml_status ml_samples_make(void *samples, const ml_grid *grid, ml_model *model, int64_t step,
                          ml_text *lines) ML_NODISCARD;

ML_END_DECLS

#endif
