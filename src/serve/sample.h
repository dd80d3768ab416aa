/* Choosing tokens from logits. */
#ifndef MPILORA_SERVE_SAMPLE_H
#define MPILORA_SERVE_SAMPLE_H

#include "mpilora/generate.h"

/* A token and its score (log-probability, or logit), of row `row`. */
typedef struct candidate {
    double score;
    int64_t row;
    int32_t token;
} candidate;

/* The smallest id among the largest logits. */
int32_t greedy_token(const float *logits, int64_t V);
double log_sum_exp(const float *logits, int64_t V);
/* The n best of `count` rows of V scores base[row] + logits[row], best first; among equals the
 * smaller row, then the smaller id. base: a sequence's score, less the row's log_sum_exp before
 * any logit was ruled out. */
void best_candidates(const float *logits, int64_t count, int64_t V, const double *base, int64_t n,
                     candidate *out);
/* The logits of tokens that would end n tokens which stand in the sequence already become −∞. */
void forbid_repeats(float *logits, const int32_t *sequence, int64_t length, int64_t n);
/* One draw: temperature, then top-k, then top-p, as Hugging Face orders them; number `step` of the
 * seed's stream `stream`. `order` has room for V. */
int32_t sample_token(const float *logits, int64_t V, const ml_generation *options, int64_t stream,
                     int64_t step, candidate *order);

#endif
