/* How long a rank waits for others. MPI itself waits without an end where a node or the way to it
 * is gone and nothing says so, and the rank is then inside of MPI, so that a thread beside it
 * looks. */
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "grid/grid_private.h"

enum { HOST_BYTES = 256, MOST_APART = 4 };
/* Seconds; apart: ranks of a node, so that the launcher has ended the others before they speak. */
static const double between_looks = 0.25, apart = 5.0;

typedef struct patience {
    const ml_grid *grid;
    double limit; /* of this rank */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t stopped;
    bool stop;
} patience;

/* There is nobody to agree with. */
static void end_process(const patience *p, double waited)
{
    char host[HOST_BYTES] = "";
    (void)gethostname(host, sizeof host - 1);
    fprintf(stderr,
            "mpilora: run.wait_limit: rank %d on %s has waited %.0f s for other ranks, which have "
            "ended or cannot be reached; the same command goes on from the newest checkpoint\n",
            p->grid->rank, host, waited);
    fflush(stderr);
    ml_grid_abort((int)ML_RESOURCE);
}

static void look(const patience *p)
{
    double since = atomic_load_explicit(&p->grid->inside_since, memory_order_relaxed);
    double waited = since > 0.0 ? ml_seconds() - since : 0.0;
    if (waited > p->limit) end_process(p, waited);
}

static void *look_again(void *self)
{
    patience *p = self;
    pthread_mutex_lock(&p->mutex);
    while (!p->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(1e9 * between_looks);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&p->stopped, &p->mutex, &until);
        if (!p->stop) look(p);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* Signals are for the thread that computes. */
static int start_thread(patience *p)
{
    sigset_t all, before;
    pthread_condattr_t clock;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->stopped, &clock);
    pthread_condattr_destroy(&clock);
    int failed = pthread_create(&p->thread, NULL, look_again, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

ml_status ml_grid_limit_waits(ml_grid *grid, double seconds)
{
    ml_status st = ML_OK;
    patience *p;
    if (grid->size == 1) return ML_OK;
    double later = (double)ml_min(grid->group_rank[ML_GROUP_NODE], MOST_APART);
    ML_NEW(p, 1, ML_MEM_OTHER, "a limit of waiting");
    p->grid = grid;
    p->limit = seconds + apart * later;
    if (start_thread(p) == 0) {
        grid->patience = p;
        return ML_OK;
    }
    ml_memory_free(p);
    st = ml_fail(ML_RESOURCE, "run.wait_limit: no thread can be started to look at the time");
done:
    return st;
}

void patience_stop(ml_grid *grid)
{
    patience *p = grid->patience;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_signal(&p->stopped);
    pthread_mutex_unlock(&p->mutex);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->stopped);
    pthread_mutex_destroy(&p->mutex);
    ml_memory_free(p);
    grid->patience = NULL;
}
