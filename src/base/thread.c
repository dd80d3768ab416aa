#include "base/thread.h"

#include <omp.h>
#include <signal.h>

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

bool thread_places(cpu_set_t *cores)
{
    int places = omp_get_num_places();
    CPU_ZERO(cores);
    for (int i = 0; i < places; i++)
        if (!add_place(i, cores)) return false;
    return places > 0;
}

int thread_start(pthread_t *thread, int64_t stack, void *(*run)(void *), void *context)
{
    sigset_t all, before;
    cpu_set_t cores;
    pthread_attr_t attributes;
    int failed = pthread_attr_init(&attributes);
    if (failed) return failed;
    if (stack > 0) (void)pthread_attr_setstacksize(&attributes, (size_t)stack);
    if (thread_places(&cores)) (void)pthread_attr_setaffinity_np(&attributes, sizeof cores, &cores);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(thread, &attributes, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}
