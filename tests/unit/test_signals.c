/* Signals that ask a run to save: seen whoever they are sent to, and never handled on a thread
 * that computes, where a handler's frame could lie in a product's memory. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "mpilora/train.h"
#include "train/run.h"

static const int asking[] = {SIGTERM, SIGINT, SIGUSR1};

static bool all_are_blocked_here(void)
{
    sigset_t blocked;
    bool all = pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0;
    for (int i = 0; i < 3; i++) all = all && sigismember(&blocked, asking[i]) == 1;
    return all;
}

static void no_computing_thread_is_interrupted(void **state)
{
    (void)state;
    int threads = 0, blocked = 0;
    ml_train_catch_signals();
#pragma omp parallel num_threads(3) reduction(+ : threads, blocked)
    {
        threads++;
        blocked += all_are_blocked_here();
    }
    assert_int_equal(threads, 3);
    assert_int_equal(blocked, threads);
}

static void a_signal_is_seen_and_stays_so(void **state)
{
    (void)state;
    assert_false(signals_seen());
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kill(getpid(), asking[i]), 0);
        assert_true(signals_seen());
        assert_true(signals_seen());
    }
}

static void *note_by_handler(void *unused)
{
    sigset_t open;
    sigemptyset(&open);
    sigaddset(&open, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &open,
                    NULL); /* as a thread that was there before; what is pending comes now */
    return unused;
}

static void another_thread_that_takes_it_says_so(void **state)
{
    (void)state;
    pthread_t thread;
    sigset_t pending;
    assert_int_equal(pthread_create(&thread, NULL, note_by_handler, NULL), 0);
    assert_true(signals_seen()); /* also while it is being noted (ThreadSanitizer watches) */
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(sigpending(&pending), 0);
    assert_int_equal(sigismember(&pending, SIGUSR1), 0);
    assert_true(signals_seen());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_computing_thread_is_interrupted),
                                       cmocka_unit_test(a_signal_is_seen_and_stays_so),
                                       cmocka_unit_test(another_thread_that_takes_it_says_so)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
