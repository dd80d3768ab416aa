/* Who waits for whom. A rank's communication is as long as that of the rank that waited least, and
 * the rest is waiting: the rank that all the others wait for has none of it. */
#include <math.h>

#include "train/run.h"

enum { COMM, PIPED, GATHERED, A_RANK }; /* what each rank says of itself */

ml_status waits_create(run *r)
{
    ml_status st = ML_OK;
    rank_waits *w = &r->waits;
    w->ranks = ml_grid_size(r->session.grid);
    ML_NEW(w->said, STEP_SUMS + (int64_t)w->ranks * A_RANK, ML_MEM_OTHER, "the sums of a step");
    ML_NEW(w->step, w->ranks, ML_MEM_OTHER, "the ranks' waiting times");
    ML_NEW(w->sum, w->ranks, ML_MEM_OTHER, "the ranks' waiting times");
done:
    return st;
}

void waits_destroy(run *r)
{
    ml_memory_free(r->waits.said);
    ml_memory_free(r->waits.step);
    ml_memory_free(r->waits.sum);
    r->waits = (rank_waits){0};
}

double *waits_say(const run *r, const step_result *step, int64_t *count)
{
    const rank_waits *w = &r->waits;
    double *own = w->said + STEP_SUMS + ml_grid_rank(r->session.grid) * A_RANK;
    *count = STEP_SUMS + (int64_t)w->ranks * A_RANK;
    memset(w->said, 0, (size_t)*count * sizeof *w->said);
    own[COMM] = step->phase[ML_PHASE_COMM];
    own[PIPED] = (double)step->piped_bytes;
    own[GATHERED] = (double)step->gathered_bytes;
    return w->said;
}

void waits_find(run *r, step_result *step)
{
    const rank_waits *w = &r->waits;
    const double *rank = w->said + STEP_SUMS;
    double least = rank[COMM];
    for (int i = 0; i < w->ranks; i++, rank += A_RANK) {
        w->step[i] = rank[COMM];
        least = fmin(least, rank[COMM]);
        step->piped_bytes = ml_max(step->piped_bytes, (int64_t)rank[PIPED]);
        step->gathered_bytes = ml_max(step->gathered_bytes, (int64_t)rank[GATHERED]);
    }
    for (int i = 0; i < w->ranks; i++) w->step[i] -= least;
}

void waits_add(run *r)
{
    for (int i = 0; i < r->waits.ranks; i++) r->waits.sum[i] += r->waits.step[i];
}

int waits_slowest(const run *r, double *others)
{
    const rank_waits *w = &r->waits;
    int slowest = 0;
    *others = 0.0;
    for (int i = 1; i < w->ranks; i++)
        if (w->sum[i] < w->sum[slowest]) slowest = i;
    for (int i = 0; i < w->ranks; i++)
        if (i != slowest) *others += w->sum[i] / (w->ranks - 1);
    return slowest;
}
