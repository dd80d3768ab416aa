/* The heart of a held lock: a thread that writes the record again and again, so that others can
 * see its owner live. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "store/checkpoint/run_lock.h"

enum { STACK = 512 << 10 };

struct ml_lock_beat {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop;
    int fd; /* borrowed */
    char path[ML_DURABLE_PATH];
    ml_lock_owner me;
};

/* False when it is time to stop. */
static bool rest(ml_lock_beat *b)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)ml_lock_clock.beat_s;
    until.tv_nsec += (long)(1e9 * (ml_lock_clock.beat_s - (double)(time_t)ml_lock_clock.beat_s));
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&b->mutex);
    while (!b->stop && pthread_cond_timedwait(&b->wake, &b->mutex, &until) != ETIMEDOUT) {
    }
    bool on = !b->stop;
    pthread_mutex_unlock(&b->mutex);
    return on;
}

/* A beat that cannot be written is left out: the next save finds what is wrong with the disk, or
 * who took the lock. */
static void *beat(void *argument)
{
    ml_lock_beat *b = argument;
    while (rest(b)) {
        ml_lock_owner found;
        bool named;
        if (lock_read(b->path, &found, &named) == ML_OK &&
            (!named || !lock_is_same(&found, &b->me)))
            break;
        b->me.beat++;
        (void)!lock_write(b->fd, b->path, &b->me);
    }
    return NULL;
}

/* Signals are for the thread that trains. */
static int start_thread(ml_lock_beat *b)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&b->mutex, NULL);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&b->thread, &attributes, beat, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return code;
}

int64_t lock_beat_bytes(void) { return (int64_t)sizeof(ml_lock_beat); }

ml_status lock_beat_start(ml_lock_beat **out, int fd, const char *path, const ml_lock_owner *me)
{
    ml_status st = ML_OK;
    ml_lock_beat *b = NULL;
    ML_NEW(b, 1, ML_MEM_OTHER, "a lock's beat");
    b->fd = fd;
    b->me = *me;
    snprintf(b->path, sizeof b->path, "%s", path);
    int code = start_thread(b);
    if (code) {
        st = ml_fail(ML_RESOURCE, "%s: no thread can be started to keep the lock: %s", path,
                     strerror(code));
        goto done;
    }
    *out = b;
    b = NULL;
done:
    ml_memory_free(b);
    return st;
}

const ml_lock_owner *lock_beat_owner(const ml_lock_beat *b) { return &b->me; }

void lock_beat_stop(ml_lock_beat *b)
{
    pthread_mutex_lock(&b->mutex);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->mutex);
    pthread_join(b->thread, NULL);
}

void lock_beat_destroy(ml_lock_beat *b)
{
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->mutex);
    ml_memory_free(b);
}
