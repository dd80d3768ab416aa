/* Correlations of predicted and true numbers, as scipy.stats computes them. */
#include <math.h>
#include <stdlib.h>

#include "mpilora/score.h"

/* Summed from the first value on: numbers that are large beside their spread lose nothing. */
static double mean(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i] - x[0];
    return x[0] + sum / (double)n;
}

static bool is_constant(const double *x, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (x[i] != x[0]) return false;
    return true;
}

ml_status ml_score_pearson(const double *x, const double *y, int64_t n, double *out)
{
    *out = NAN;
    if (n < 2) return ml_fail(ML_INPUT, "a correlation needs two rows at least");
    if (is_constant(x, n) || is_constant(y, n)) return ML_OK;
    double mx = mean(x, n), my = mean(y, n), xy = 0.0, xx = 0.0, yy = 0.0;
    for (int64_t i = 0; i < n; i++) {
        xy += (x[i] - mx) * (y[i] - my);
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
    }
    /* Each root apart, so that small spreads do not underflow in their product. */
    double r = xy / sqrt(xx) / sqrt(yy);
    *out = fmax(-1.0, fmin(1.0, r));
    return ML_OK;
}

typedef struct placed {
    double value;
    int64_t place;
} placed;

static int by_value(const void *a, const void *b)
{
    double x = ((const placed *)a)->value, y = ((const placed *)b)->value;
    return (x > y) - (x < y);
}

/* Ranks from 1; equal values all get the mean of their ranks. */
static ml_status rank_values(const double *x, int64_t n, double *rank)
{
    ml_status st = ML_OK;
    placed *sorted = NULL;
    ML_NEW(sorted, n, ML_MEM_OTHER, "ranks");
    for (int64_t i = 0; i < n; i++) sorted[i] = (placed){x[i], i};
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    for (int64_t first = 0, end; first < n; first = end) {
        end = first + 1;
        while (end < n && sorted[end].value == sorted[first].value) end++;
        for (int64_t i = first; i < end; i++)
            rank[sorted[i].place] = (double)(first + 1 + end) / 2.0;
    }
done:
    ml_memory_free(sorted);
    return st;
}

ml_status ml_score_spearman(const double *x, const double *y, int64_t n, double *out)
{
    ml_status st = ML_OK;
    double *ranks = NULL;
    *out = NAN;
    if (n < 2) return ml_fail(ML_INPUT, "a correlation needs two rows at least");
    ML_NEW(ranks, 2 * n, ML_MEM_OTHER, "ranks");
    ML_TRY(rank_values(x, n, ranks));
    ML_TRY(rank_values(y, n, ranks + n));
    ML_TRY(ml_score_pearson(ranks, ranks + n, n, out));
done:
    ml_memory_free(ranks);
    return st;
}
