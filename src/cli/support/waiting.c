/* How long OpenMP's threads look for new work before they sleep.
 *
 * libgomp's threads look 300,000 times, some 5 ms, unless the environment says otherwise before
 * the process begins. That is right where every thread has a core of its own. Where another process
 * has one of them, the thread that waits keeps the core that the late one needs, each of the
 * thousand meetings of a step lasts a time slice, and a step of 0.2 s takes 10. After five thousand
 * looks, some 0.1 ms, a waiting thread gives its core away and the scheduler moves the late one
 * there; threads whose cores are their own meet within that time (a thousand looks, which libgomp
 * takes where it knows of too few cores, cost them 4 % of a short step). */
#include "cli/support/waiting.h"

#include <omp.h>
#include <stdbool.h>
#include <stdlib.h>

#include "cli/support/again.h"

static const char looks[] = "5000";

/* By the user, or by ourselves before. */
static bool is_said(void) { return getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"); }

void waiting_settle(char **argv)
{
    if (is_said() || omp_get_max_threads() < 2) return;
    if (setenv("GOMP_SPINCOUNT", looks, 0) == 0) again_start(argv);
}
