/* Threads beside those that compute, and the cores that they may use. */
#ifndef MPILORA_BASE_THREAD_H
#define MPILORA_BASE_THREAD_H

#include <pthread.h>
#include <sched.h>

#include "mpilora/base.h"

/* The cores of all places to which OpenMP binds threads (OMP_PROC_BIND, OMP_PLACES): it has bound
 * the first thread to the first place before main began, so that its own affinity no longer says
 * what the process was given. False where OpenMP binds none, or beyond the set's room. */
bool thread_places(cpu_set_t *cores);

/* Starts run(context) in a thread of its own, with so many bytes of stack (0: as many as usual).
 * Signals are not for it, but for the thread that computes; it may use every core of the process
 * though the caller is bound to one. 0, or the number of the error where no thread can be had. */
int thread_start(pthread_t *thread, int64_t stack, void *(*run)(void *), void *context);

#endif
