/* Signals that ask a run to save and end. Handlers only set a flag, which each step folds into its sum over all ranks. */
#include <signal.h>

#include "mpilora/train.h"
#include "train/run.h"

static volatile sig_atomic_t seen;

static void note(int signal)
{
    (void)signal;
    seen = 1;
}

void ml_train_catch_signals(void)
{
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

bool signals_seen(void) { return seen != 0; }
