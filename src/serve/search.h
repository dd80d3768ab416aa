/* The search for one continuation, apart from the model: it takes logits and says which tokens
 * come next. Greedy, sampling, or a beam search as Hugging Face's with early_stopping False. */
#ifndef MPILORA_SERVE_SEARCH_H
#define MPILORA_SERVE_SEARCH_H

#include "serve/sample.h"

typedef struct search {
    const ml_generation *options;
    int64_t V, number, prompt; /* number: of the request, its stream of random numbers */
    int64_t length;            /* new tokens so far, of every row */
    int64_t
        rows; /* that go on: 1 until the prompt's logits have come, then 1 or beams, 0 at the end */
    int32_t *token;    /* [beams] the newest of each row */
    int64_t *parent;   /* [beams] which of the rows before it each row goes on from */
    double *score;     /* [beams] Σ log p */
    double *base;      /* [beams] score, less the logits' normaliser */
    int32_t *sequence; /* [prompt + max_new] the prompt, then the continuation that is looked at */
    int32_t *text, *new_text; /* [beams, max_new] continuations, and those of the next step */
    int64_t finished;         /* hypotheses that ended, best first, ≤ beams */
    double *finished_score;
    int64_t *finished_length;
    int32_t *finished_text; /* [beams, max_new] */
} search;

ml_status search_create(search *s, const ml_generation *options, int64_t V, const int32_t *prompt,
                        int64_t length, int64_t number) ML_NODISCARD;
void search_destroy(search *s);
/* One step: logits[rows, V] after the newest tokens (at first the prompt's) to rows, token and
 * parent; forbidden logits are changed. order: room for search_candidates. ML_NUMERIC where a
 * logit is not finite. */
ml_status search_advance(search *s, float *logits, candidate *order) ML_NODISCARD;
int64_t search_candidates(const ml_generation *options, int64_t V);
/* The best continuation; returns its tokens. */
int64_t search_result(const search *s, int32_t *out);

#endif
