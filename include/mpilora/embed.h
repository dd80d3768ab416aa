/* embed: a vector for each text, made of the last hidden states of its tokens. */
#ifndef MPILORA_EMBED_H
#define MPILORA_EMBED_H

#include "mpilora/config.h"

ML_BEGIN_DECLS

/* The words of ml_pooling from ML_POOLING_MEAN on, NULL-ended. */
extern const char *const ml_pooling_words[];

typedef struct ml_embed_options {
    const char *base, *adapter; /* adapter: adapter.h5 or a PEFT directory; NULL: the base alone */
    const char *out; /* NAME.h5: a data set `embeddings` [count, d] with attributes that say what
                        made it; NAME.npy: NumPy's format. fp32 both */
    ml_dtype precision;
    ml_pooling pooling; /* GIVEN: with the normalisation and the prompt of the base's directory */
    bool normalise;     /* each vector divided by its length */
    int64_t max_len;    /* tokens of a text, special ones included; longer ones are cut. 0: what the
                           base's directory says, at most the context */
    int64_t tp;         /* ranks that share a replica's weights */
    int64_t count;
    const char *const *texts; /* [count] */
    const int64_t *line;      /* [count] of `file`, for messages */
    const char *file;
} ml_embed_options;

typedef struct ml_embed_report {
    int64_t width, tokens, cut; /* of a vector; of all texts; texts that were longer than max_len */
    int64_t max_len;
    ml_pooling pooling; /* as it was done, never ML_POOLING_GIVEN */
    bool normalised;
    double seconds; /* of the passes, on the slowest rank */
} ml_embed_report;

/* Writes the vectors of all texts, in their order, to options->out, whole or not at all. Replicas
 * share the texts.
 * Shapes: [count, d].
 * Ownership: options are borrowed; *report is the caller's.
 * Collective over the world.
 * Errors: ML_USAGE; ML_INPUT where the base has no tokenizer, its directory asks for a pooling that
 * is not known, a text has no tokens (its line is named), a file is bad; ML_RESOURCE; ML_NUMERIC
 * where a vector is not finite. */
ml_status ml_embed_run(const ml_embed_options *options, ml_embed_report *report) ML_NODISCARD;

ML_END_DECLS

#endif
