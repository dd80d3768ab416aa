/* A thread that is started beside those that compute may use all cores of the process, though
 * OpenMP has bound the caller to one of them, and gets no signals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/thread.h"

static const char cores_before[] = "MPILORA_TEST_CORES";

typedef struct found {
    cpu_set_t cores;
    sigset_t blocked;
} found;

static void *look(void *context)
{
    found *f = context;
    assert_int_equal(sched_getaffinity(0, sizeof f->cores, &f->cores), 0);
    pthread_sigmask(SIG_BLOCK, NULL, &f->blocked);
    return NULL;
}

static int own_cores(void)
{
    cpu_set_t cores;
    assert_int_equal(sched_getaffinity(0, sizeof cores, &cores), 0);
    return CPU_COUNT(&cores);
}

static void is_not_bound_with_its_caller(void **state)
{
    (void)state;
    const int all = atoi(getenv(cores_before));
    cpu_set_t places;
    pthread_t thread;
    found f;
    assert_int_equal(own_cores(), 1);
    assert_true(thread_places(&places));
    assert_int_equal(CPU_COUNT(&places), all);
    assert_int_equal(thread_start(&thread, 0, look, &f), 0);
    pthread_join(thread, NULL);
    assert_int_equal(CPU_COUNT(&f.cores), all);
}

static void gets_no_signals(void **state)
{
    (void)state;
    pthread_t thread;
    sigset_t own;
    found f;
    assert_int_equal(thread_start(&thread, 1 << 20, look, &f), 0);
    pthread_join(thread, NULL);
    assert_int_equal(sigismember(&f.blocked, SIGTERM), 1);
    pthread_sigmask(SIG_BLOCK, NULL, &own);
    assert_int_equal(sigismember(&own, SIGTERM), 0);
}

/* OpenMP binds before main, where the environment says so: the test begins again with one that
 * does. */
int main(int argc, char **argv)
{
    (void)argc;
    if (!getenv(cores_before)) {
        char text[16];
        snprintf(text, sizeof text, "%d", own_cores());
        setenv(cores_before, text, 1);
        setenv("OMP_PROC_BIND", "close", 1);
        unsetenv("OMP_PLACES");
        unsetenv("GOMP_CPU_AFFINITY");
        execv("/proc/self/exe", argv);
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(is_not_bound_with_its_caller),
                                       cmocka_unit_test(gets_no_signals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
