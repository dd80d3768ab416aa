/* Waiting for another rank's flag: a look is cheap and soon enough where the rank has a core of its
 * own; where ranks share cores the one that waits has to let the other have it; and who waits for
 * long sleeps, but wakes up now and then to let `idle` see whether the job still stands. */
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "grid/segment.h"

static const double until_sleep = 1e-3;                  /* seconds of looking and yielding */
static const struct timespec nap = {.tv_nsec = 1000000}; /* between two calls of `idle` */

/* Counts wrap around; ranks are never 2³¹ pieces apart. */
static bool reached(_Atomic uint32_t *flag, uint32_t pieces)
{
    uint32_t found = atomic_load_explicit(flag, memory_order_acquire);
    return (int32_t)(found - pieces) >= 0;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sequential consistency pairs `sleepers` with the flag: either the sleeper sees the flag's new
 * value, or whoever sets it sees the sleeper. */
static void sleep_until(segment_flags *of, _Atomic uint32_t *flag, uint32_t pieces)
{
    atomic_fetch_add(&of->sleepers, 1);
    uint32_t found = atomic_load(flag);
    if ((int32_t)(found - pieces) < 0)
        (void)syscall(SYS_futex, flag, FUTEX_WAIT, found, &nap, NULL, 0);
    atomic_fetch_sub(&of->sleepers, 1);
}

void segment_wait(const segment *s, segment_flags *of, _Atomic uint32_t *flag, uint32_t pieces)
{
    for (int look = 0; look < s->looks; look++) {
        if (reached(flag, pieces)) return;
        relax();
    }
    double since = ml_seconds();
    while (!reached(flag, pieces)) {
        bool may_sleep = s->idle(s->self);
        if (may_sleep && ml_seconds() - since > until_sleep)
            sleep_until(of, flag, pieces);
        else
            (void)sched_yield();
    }
}

void segment_tell(segment_flags *own, _Atomic uint32_t *flag, uint32_t pieces)
{
    atomic_store(flag, pieces);
    if (atomic_load(&own->sleepers) > 0)
        (void)syscall(SYS_futex, flag, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}
