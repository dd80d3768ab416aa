#include "cli/support/again.h"

#include <omp.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/auxv.h>
#include <unistd.h>

/* The cores of place `number` beside those that are there; false where one is beyond the set. */
static bool add_place(int number, cpu_set_t *cores)
{
    int id[CPU_SETSIZE], count = omp_get_place_num_procs(number);
    if (count > CPU_SETSIZE) return false;
    omp_get_place_proc_ids(number, id);
    for (int i = 0; i < count; i++) {
        if (id[i] < 0 || id[i] >= CPU_SETSIZE) return false;
        CPU_SET((size_t)id[i], cores);
    }
    return true;
}

/* Where the user binds threads (OMP_PROC_BIND, OMP_PLACES), OpenMP has bound this one to the first
 * of its places before main began. The process that begins again would know of no other core, and
 * all its threads would share that one. */
static void give_cores_back(void)
{
    cpu_set_t cores;
    int places = omp_get_num_places();
    CPU_ZERO(&cores);
    for (int i = 0; i < places; i++)
        if (!add_place(i, &cores)) return;
    if (places > 0) (void)sched_setaffinity(0, sizeof cores, &cores);
}

/* A program that the loader was told to start is not what /proc/self/exe names. */
void again_start(char **argv)
{
    if (getauxval(AT_BASE) == 0) return;
    give_cores_back();
    (void)execv("/proc/self/exe", argv);
}
