/* Why a run saves and ends before its last step: a signal, or the end of the job's time. World rank
 * 0 knows the time, any rank may get the signal; the step's own sum tells all. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "mpilora/train.h"
#include "train/run.h"

/* ---- signals ------------------------------------------------------------------------------- */

/* They are blocked, and each step asks whether one is pending: no handler runs on a thread that
 * computes. oneDNN's fp32 products move the stack pointer into their own memory, where a handler's
 * frame would overwrite the heap (uxlfoundation/oneDNN#4845). A thread that was there before and
 * has them not blocked notes them by a handler. */
static const int asking[] = {SIGTERM, SIGINT, SIGUSR1};
enum { ASKING = sizeof asking / sizeof *asking };

/* Whoever asks may be another thread than the one that notes. */
static atomic_bool seen;

static void note(int signal)
{
    (void)signal;
    atomic_store(&seen, true);
}

void ml_train_catch_signals(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigset_t blocked;
    sigemptyset(&action.sa_mask);
    sigemptyset(&blocked);
    for (int i = 0; i < ASKING; i++) {
        sigaction(asking[i], &action, NULL);
        sigaddset(&blocked, asking[i]);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
}

bool signals_seen(void)
{
    sigset_t pending;
    if (atomic_load(&seen) || sigpending(&pending) != 0) return atomic_load(&seen);
    for (int i = 0; i < ASKING; i++)
        if (sigismember(&pending, asking[i]) == 1) return true;
    return false;
}

/* ---- the end of the job's time ------------------------------------------------------------- */

/* Known beforehand: the run ends while there is still room to save. A start that has not done a
 * step yet goes on: ending at once would bring the next start no further. */

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

bool deadline_is_near(const run *r, int steps)
{
    const deadline *d = &r->deadline;
    if (!isfinite(d->end) || r->step == r->first_step) return false;
    double reserve = fmin(least_reserve, share_of_time * (d->end - d->started)) +
                     safety * (steps * d->step + d->save);
    return ml_seconds() + reserve > d->end;
}

/* ---- either -------------------------------------------------------------------------------- */

bool wants_to_stop(const run *r)
{
    return signals_seen() || (ml_grid_rank(r->session.grid) == 0 && deadline_is_near(r, 1));
}

bool wants_to_give_up(const run *r)
{
    return signals_seen() || (ml_grid_rank(r->session.grid) == 0 && deadline_is_near(r, 0));
}
