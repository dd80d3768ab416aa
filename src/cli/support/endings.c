/* Files that are being made have names that end in .tmp- and the number of the process, and may be
 * as large as a model. */
#include "cli/support/endings.h"

#include <signal.h>
#include <stddef.h>

#include "io/unfinished.h"

static const int endings[] = {SIGINT, SIGTERM, SIGHUP};
enum { ENDINGS = sizeof endings / sizeof *endings };

/* The exit status tells a shell which signal it was. */
static void on_ending(int number)
{
    ml_unfinished_remove();
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

void endings_prepare(void)
{
    struct sigaction action = {.sa_handler = on_ending}, before;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < ENDINGS; i++) sigaddset(&action.sa_mask, endings[i]);
    for (int i = 0; i < ENDINGS; i++)
        if (!sigaction(endings[i], NULL, &before) && before.sa_handler == SIG_DFL)
            sigaction(endings[i], &action, NULL);
}
