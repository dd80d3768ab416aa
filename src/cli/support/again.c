#include "cli/support/again.h"

#include <sys/auxv.h>
#include <unistd.h>

#include "base/thread.h"

/* A program that the loader was told to start is not what /proc/self/exe names. Where threads are
 * bound, this one already is: what begins again would know of no core but its own, and all threads
 * would share that one. */
void again_start(char **argv)
{
    cpu_set_t cores;
    if (getauxval(AT_BASE) == 0) return;
    if (thread_places(&cores)) (void)sched_setaffinity(0, sizeof cores, &cores);
    (void)execv("/proc/self/exe", argv);
}
