/* Signals that ask a run to save and end. They are blocked, and each step asks whether one is
 * pending and folds the answer into its sum over all ranks: no handler runs on a thread that
 * computes. oneDNN's fp32 products move the stack pointer into their own memory, where a handler's
 * frame would overwrite the heap (uxlfoundation/oneDNN#4845). A thread that was there before and
 * has them not blocked notes them by a handler. */
#include <pthread.h>
#include <signal.h>

#include "mpilora/train.h"
#include "train/run.h"

static const int asking[] = {SIGTERM, SIGINT, SIGUSR1};
enum { ASKING = sizeof asking / sizeof *asking };

static volatile sig_atomic_t seen;

static void note(int signal)
{
    (void)signal;
    seen = 1;
}

void ml_train_catch_signals(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigset_t blocked;
    sigemptyset(&action.sa_mask);
    sigemptyset(&blocked);
    for (int i = 0; i < ASKING; i++) {
        sigaction(asking[i], &action, NULL);
        sigaddset(&blocked, asking[i]);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
}

bool signals_seen(void)
{
    sigset_t pending;
    if (seen || sigpending(&pending) != 0) return seen;
    for (int i = 0; i < ASKING; i++)
        if (sigismember(&pending, asking[i]) == 1) return true;
    return false;
}
