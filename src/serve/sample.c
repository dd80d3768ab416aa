/* Tokens are chosen from logits: the largest (greedy), the best candidates of several beams, or
 * one drawn by temperature, top-k and top-p in Hugging Face's order. */
#include "serve/sample.h"

#include <math.h>
#include <stdlib.h>

int32_t greedy_token(const float *logits, int64_t V)
{
    int32_t best = 0;
    for (int64_t v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = (int32_t)v;
    return best;
}

double log_sum_exp(const float *logits, int64_t V)
{
    double most = (double)logits[greedy_token(logits, V)], sum = 0.0;
    for (int64_t v = 0; v < V; v++) sum += exp((double)logits[v] - most);
    return most + log(sum);
}

static bool is_better(const candidate *a, const candidate *b)
{
    if (a->score != b->score) return a->score > b->score;
    return a->row != b->row ? a->row < b->row : a->token < b->token;
}

void best_candidates(const float *logits, int64_t count, int64_t V, const double *base, int64_t n,
                     candidate *out)
{
    int64_t have = 0;
    for (int64_t row = 0; row < count; row++) {
        const float *z = logits + row * V;
        for (int64_t v = 0; v < V; v++) {
            candidate c = {base[row] + (double)z[v], row, (int32_t)v};
            if (have == n && !is_better(&c, &out[n - 1])) continue;
            int64_t at = have < n ? have++ : n - 1;
            for (; at > 0 && is_better(&c, &out[at - 1]); at--) out[at] = out[at - 1];
            out[at] = c;
        }
    }
}

void forbid_repeats(float *logits, const int32_t *sequence, int64_t length, int64_t n)
{
    if (n < 1 || length < n) return;
    const int32_t *newest = sequence + length - (n - 1);
    for (int64_t i = 0; i + n <= length; i++)
        if (!memcmp(sequence + i, newest, (size_t)(n - 1) * sizeof *sequence) &&
            sequence[i + n - 1] >= 0)
            logits[sequence[i + n - 1]] = -INFINITY;
}

static int descending(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return is_better(x, y) ? -1 : 1;
}

int32_t sample_token(const float *logits, int64_t V, const ml_generation *o, int64_t stream,
                     int64_t step, candidate *order)
{
    for (int64_t v = 0; v < V; v++)
        order[v] = (candidate){(double)logits[v] / o->temperature, 0, (int32_t)v};
    qsort(order, (size_t)V, sizeof *order, descending);
    int64_t keep = o->top_k > 0 ? ml_min(o->top_k, V) : V;
    double sum = 0.0, saved = 0.0, most = order[0].score;
    for (int64_t i = 0; i < keep; i++) sum += order[i].score = exp(order[i].score - most);
    for (int64_t i = 0; i < keep; i++) {
        saved += order[i].score;
        if (saved >= o->top_p * sum) keep = i + 1;
    }
    double left = ml_random_uniform(ml_random_key_make(o->seed, "generate"), (uint64_t)stream,
                                    (uint64_t)step) *
                  saved;
    for (int64_t i = 0; i < keep; i++) {
        left -= order[i].score;
        if (left < 0.0) return order[i].token;
    }
    return order[keep - 1].token;
}
