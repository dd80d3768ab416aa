/* Log-probabilities of tokens that stand there: of continuations, and of prompts. */
#ifndef MPILORA_SERVE_LOG_PROBS_H
#define MPILORA_SERVE_LOG_PROBS_H

#include "serve/requests.h"

/* One token: log p after what stands before it, and the tokens that
 * were most probable there. */
typedef struct scored_token {
    int32_t token;
    bool known; /* something stands before it; else the rest says nothing */
    float log_p;
    const float *top; /* [2 · top]: token, log p, the largest first */
} scored_token;

typedef struct log_probs {
    int64_t top;    /* how many of the most probable tokens */
    bool echo;      /* of the prompts' tokens, too */
    int64_t *start; /* [requests + 1] the first token of each request */
    int32_t *at;    /* [start[requests]] its place in its sequence */
    float *value;   /* [start[requests], 1 + 2·top] */
} log_probs;

/* Of all requests, which have their continuations; every rank gets all of them. The replicas of
 * the grid do a part each. End with log_probs_destroy. ML_RESOURCE. Collective over the grid. */
ml_status log_probs_find(log_probs *p, const requests *r, const ml_grid *grid, ml_model *model,
                         const ml_router *router) ML_NODISCARD;
void log_probs_destroy(log_probs *p);
/* How many tokens of request i have one, and the j-th of them. */
int64_t log_probs_count(const log_probs *p, int64_t i);
scored_token log_probs_at(const log_probs *p, const requests *r, int64_t i, int64_t j);

#endif
