/* Losses between sorted values of a whole batch (alignment by optimal transport, AOT,
 * arXiv:2406.05882). With c, r the sums of log p of the two answers, u, v what they gained over the
 * reference, x_(i) the i-th smallest of x over the batch's pairs, and
 * f(t) = −(1−ε) log σ(βt) − ε log σ(−βt):
 *
 *   aot            Σ f((c − r)_(i) − (ref c − ref r)_(i))
 *   aot_unpaired   Σ f(u_(i) − v_(i))
 *
 * Which value meets which is known once all of them are: a pass without gradients finds them, here
 * follow loss and derivatives, and the step's own passes take these as they are. */
#include <math.h>
#include <stdlib.h>

#include "session/pair_loss.h"
#include "session/session.h"

typedef struct ranked {
    double value;
    int64_t pair;
} ranked;

static int by_value(const void *left, const void *right)
{
    const ranked *a = left, *b = right;
    int order = (a->value > b->value) - (a->value < b->value);
    return order ? order : (a->pair > b->pair) - (a->pair < b->pair);
}

void ml_session_free_ahead(session *s)
{
    ml_memory_free(s->ahead.log_p);
    ml_memory_free(s->ahead.loss);
    ml_memory_free(s->ahead.slope);
    ml_memory_free(s->ahead.sorted);
    s->ahead = (pairs_ahead){0};
}

ml_status ml_session_begin_ahead(session *s, int64_t first, int64_t count)
{
    ml_status st = ML_OK;
    pairs_ahead *a = &s->ahead;
    if (count > a->room) {
        ml_session_free_ahead(s);
        ML_NEW(a->log_p, 2 * count, ML_MEM_OTHER, "the log-probabilities of a batch");
        ML_NEW(a->slope, 2 * count, ML_MEM_OTHER, "the log-probabilities of a batch");
        ML_NEW(a->loss, count, ML_MEM_OTHER, "the losses of a batch");
        ML_NEW(a->sorted, 2 * count, ML_MEM_OTHER, "the sorted values of a batch");
        a->room = count;
    }
    a->first = first;
    a->count = count;
    a->moved = 0.0;
    memset(a->log_p, 0, (size_t)(2 * count) * sizeof *a->log_p);
done:
    return st;
}

/* The sorted values meet, smallest and smallest: `left` grows, `right` falls by the derivative.
 * Where `paired`, both answers of the left value's pair carry it, since the right one is fixed. */
static void meet(const session *s, const ranked *left, const ranked *right, double weight,
                 bool paired)
{
    const pairs_ahead *a = &s->ahead;
    double beta = s->config->objective.beta, e = s->config->objective.label_smoothing;
    for (int64_t i = 0; i < a->count; i++) {
        const pair_value f = ml_pair_smoothed(beta, left[i].value - right[i].value, e);
        int64_t chosen = left[i].pair, rejected = paired ? chosen : right[i].pair;
        a->loss[chosen] += weight * f.loss;
        a->slope[2 * chosen] += weight * f.du;
        a->slope[2 * rejected + 1] += weight * f.dv;
    }
}

static void sort(ranked *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
}

static void add_aot(const session *s, const data_source *source, double weight, bool paired)
{
    const pairs_ahead *a = &s->ahead;
    ranked *left = a->sorted, *right = a->sorted + a->count;
    for (int64_t k = 0; k < a->count; k++) {
        int64_t at = 2 * (a->first + k);
        double c = a->log_p[2 * k], r = a->log_p[2 * k + 1],
               ref_c = ml_session_reference_of(source, at),
               ref_r = ml_session_reference_of(source, at + 1);
        left[k] = (ranked){paired ? c - r : c - ref_c, k};
        right[k] = (ranked){paired ? ref_c - ref_r : r - ref_r, k};
    }
    sort(left, a->count);
    sort(right, a->count);
    meet(s, left, right, weight, paired);
}

void ml_session_end_ahead(session *s, const data_source *source)
{
    pairs_ahead *a = &s->ahead;
    if (s->config->objective.name == ML_OBJECTIVE_KTO) {
        ml_unpaired_end_ahead(s);
        return;
    }
    double paired = ml_run_config_loss_weight(s->config, ML_PAIR_AOT),
           unpaired = ml_run_config_loss_weight(s->config, ML_PAIR_AOT_UNPAIRED);
    ml_grid_sum_double(s->grid, ML_GROUP_DP, a->log_p, 2 * a->count);
    ml_grid_sum_double(s->grid, ML_GROUP_PIPE, a->log_p, 2 * a->count);
    memset(a->loss, 0, (size_t)a->count * sizeof *a->loss);
    memset(a->slope, 0, (size_t)(2 * a->count) * sizeof *a->slope);
    if (paired > 0.0) add_aot(s, source, paired, true);
    if (unpaired > 0.0) add_aot(s, source, unpaired, false);
}
