/* The end of a job's time, known beforehand: the run saves and ends with ML_STOPPED while there is
 * still room to. World rank 0 decides; the step's own sum tells the others. A start that has not
 * done a step yet goes on: ending at once would bring the next start no further. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "train/run.h"

/* Beside what was measured: writing may be slower than it was, and MPI takes its time to end. */
static const double least_reserve = 30.0, share_of_time = 0.05, safety = 1.5;

/* Seconds until the batch system ends the job; infinite where it says nothing, or says a time that
 * is over (another job's). */
static double time_of_job(void)
{
    const char *text = getenv("SLURM_JOB_END_TIME");
    char *end;
    if (!text || !*text) return HUGE_VAL;
    long long at = strtoll(text, &end, 10);
    double left = (double)at - (double)time(NULL);
    return *end || left <= 0.0 ? HUGE_VAL : left;
}

void deadline_start(run *r)
{
    double limit = r->config->time_limit,
           left = fmin(limit > 0.0 ? limit : HUGE_VAL, time_of_job());
    double now = ml_seconds();
    r->deadline = (deadline){.started = now, .end = now + left};
    if (isfinite(left)) ml_log("this start has %.0f s, and saves before they are over", left);
}

bool deadline_is_near(const run *r)
{
    const deadline *d = &r->deadline;
    if (!isfinite(d->end) || r->step == r->first_step) return false;
    double reserve =
        fmin(least_reserve, share_of_time * (d->end - d->started)) + safety * (d->step + d->save);
    return ml_seconds() + reserve > d->end;
}

bool wants_to_stop(const run *r)
{
    return signals_seen() || (ml_grid_rank(r->session.grid) == 0 && deadline_is_near(r));
}
