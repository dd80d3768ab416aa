/* HDF5 1.10 does not return from every lack of memory: it calls exit, or goes on with a null
 * pointer. What then ends the process is turned into the one line and the exit code that any other
 * lack of memory has; the file that it was making is removed. What ends the process elsewhere is
 * none of this file's business. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/support/last_words.h"
#include "io/hdf5_work.h"

static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS};
enum { SIGNALS = sizeof signals / sizeof *signals, STACK_BYTES = 64 << 10 };
static struct sigaction before[SIGNALS];
static char own_stack[STACK_BYTES]; /* HDF5 may call itself until there is no stack left */

/* Only what a signal handler may do. */
static void end_here(void)
{
    static const char line[] = "error: out of memory: HDF5 could not go on; nothing of what it was "
                               "at work on was written, and older files are as they were\n";
    const char *unfinished = ml_hdf5_unfinished();
    if (unfinished) (void)unlink(unfinished);
    ssize_t n = write(STDERR_FILENO, line, sizeof line - 1);
    (void)n;
    _exit(ML_RESOURCE);
}

static void at_exit(void)
{
    if (ml_hdf5_at_work()) end_here();
}

/* A fault elsewhere goes to whoever was there before: the instruction is executed again. */
static void on_signal(int number)
{
    if (ml_hdf5_at_work()) end_here();
    for (int i = 0; i < SIGNALS; i++)
        if (signals[i] == number) sigaction(number, &before[i], NULL);
    if (number == SIGABRT) raise(number);
}

void last_words_prepare(void)
{
    static bool done;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    const stack_t stack = {.ss_sp = own_stack, .ss_size = sizeof own_stack};
    if (done) return;
    done = true;
    sigemptyset(&action.sa_mask);
    (void)sigaltstack(&stack, NULL); /* of the main thread, which begins HDF5 */
    for (int i = 0; i < SIGNALS; i++) sigaction(signals[i], &action, &before[i]);
    atexit(at_exit);
    ml_hdf5_prepare();
}
