/* A thread that looks every quarter of a second whether what this rank waits for still comes: MPI
 * waits without an end, and the rank is then inside of MPI. */
#include <time.h>

#include "base/thread.h"
#include "grid/grid_private.h"

static const double between_looks = 0.25; /* seconds */

static void *look_again(void *self)
{
    looker *l = self;
    pthread_mutex_lock(&l->mutex);
    while (!l->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(1e9 * between_looks);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&l->stopped, &l->mutex, &until);
        if (!l->stop) l->look(l->context);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static void destroy(looker *l)
{
    pthread_cond_destroy(&l->stopped);
    pthread_mutex_destroy(&l->mutex);
}

bool looker_start(looker *l, void (*look)(const void *context), const void *context)
{
    pthread_condattr_t clock;
    *l = (looker){.look = look, .context = context};
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->stopped, &clock);
    pthread_condattr_destroy(&clock);
    if (thread_start(&l->thread, 0, look_again, l) == 0) return true;
    destroy(l);
    return false;
}

void looker_stop(looker *l)
{
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_signal(&l->stopped);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    destroy(l);
}
