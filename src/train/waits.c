/* Who waits for whom. A rank's communication is as long as that of the rank that waited least, and
 * the rest is waiting: the rank that all the others wait for has none of it. */
#include "train/run.h"

enum { PIPED, GATHERED, BESIDE }; /* what the busiest rank sent goes through the same maximum */

ml_status waits_create(run *r)
{
    ml_status st = ML_OK;
    rank_waits *w = &r->waits;
    w->ranks = ml_grid_size(r->session.grid);
    ML_NEW(w->step, w->ranks + BESIDE, ML_MEM_OTHER, "the ranks' waiting times");
    ML_NEW(w->sum, w->ranks, ML_MEM_OTHER, "the ranks' waiting times");
done:
    return st;
}

void waits_destroy(run *r)
{
    ml_memory_free(r->waits.step);
    ml_memory_free(r->waits.sum);
    r->waits = (rank_waits){0};
}

void waits_find(run *r, step_result *step)
{
    const rank_waits *w = &r->waits;
    double comm = step->phase[ML_PHASE_COMM], least = comm, *beside = w->step + w->ranks;
    for (int i = 0; i < w->ranks; i++) w->step[i] = 0.0;
    w->step[ml_grid_rank(r->session.grid)] = comm;
    beside[PIPED] = (double)step->piped_bytes;
    beside[GATHERED] = (double)step->gathered_bytes;
    ml_grid_max_double(r->session.grid, ML_GROUP_WORLD, w->step, w->ranks + BESIDE);
    step->piped_bytes = (int64_t)beside[PIPED];
    step->gathered_bytes = (int64_t)beside[GATHERED];
    for (int i = 0; i < w->ranks; i++) least = w->step[i] < least ? w->step[i] : least;
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
