/* HDF5 1.10 does not return from every lack of memory: it calls exit, or goes on with a null
 * pointer. What then ends the process is turned into the one line and the exit code that any other
 * lack of memory has. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/support/last_words.h"
#include "io/image.h"

static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS};
enum { SIGNALS = sizeof signals / sizeof *signals };
static struct sigaction before[SIGNALS];

/* Only what a signal handler may do. */
static void end_here(void)
{
    static const char line[] = "error: out of memory: HDF5 could not go on while it made a file; "
                               "nothing of it was written, and older "
                               "checkpoints are as they were\n";
    ssize_t n = write(STDERR_FILENO, line, sizeof line - 1);
    (void)n;
    _exit(ML_RESOURCE);
}

static void at_exit(void)
{
    if (ml_image_in_work()) end_here();
}

/* A fault elsewhere goes to whoever was there before: the instruction is executed again. */
static void on_signal(int number)
{
    if (ml_image_in_work() || ml_image_has_failed()) end_here();
    for (int i = 0; i < SIGNALS; i++)
        if (signals[i] == number) sigaction(number, &before[i], NULL);
    if (number == SIGABRT) raise(number);
}

void last_words_prepare(void)
{
    static bool done;
    struct sigaction action = {.sa_handler = on_signal};
    if (done) return;
    done = true;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < SIGNALS; i++) sigaction(signals[i], &action, &before[i]);
    atexit(at_exit);
}
