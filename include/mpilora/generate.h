/* generate: from prompts' texts to continuations' texts. The ranks are replicas, each a
 * tensor-parallel group, that share the prompts. */
#ifndef MPILORA_GENERATE_H
#define MPILORA_GENERATE_H

#include "mpilora/bank.h"
#include "mpilora/base.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"

ML_BEGIN_DECLS

typedef struct ml_prompt {
    const char *text;
    int64_t adapter; /* a number in the list of adapters; −1: the base alone */
    int64_t line;    /* of `file`, or its number on the command line */
} ml_prompt;

typedef struct ml_generate_options {
    const char *base;
    ml_dtype precision;
    ml_generation generation; /* `end` is taken from the tokenizer */
    int64_t together;         /* prompts at a time in each replica, at most */
    int64_t tp; /* ranks of a tensor-parallel group; 0: as many as the model's heads can be divided
                   among */
    int64_t nadapters;
    const char *const *adapters; /* each an adapter.h5 or a PEFT directory */
    int64_t count;
    const ml_prompt *prompts;
    const char *file; /* what the prompts are from, for messages; NULL: the command line */
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
} ml_generate_report;

/* Appends the bytes of continuation i to out[i], the same on every rank.
 * Shapes: out[options->count].
 * Ownership: options are borrowed; the texts are the caller's.
 * Collective over the world.
 * Errors: ML_USAGE; ML_INPUT (no tokenizer, bad files; a prompt of `file` that is empty or too
 * long, else ML_USAGE); ML_RESOURCE; ML_NUMERIC. */
ml_status ml_generate_run(const ml_generate_options *options, ml_text *out,
                          ml_generate_report *report) ML_NODISCARD;

ML_END_DECLS

#endif
