/* waiting: how long OpenMP's threads look for new work before they sleep. */
#ifndef MPILORA_CLI_SUPPORT_WAITING_H
#define MPILORA_CLI_SUPPORT_WAITING_H

/* Before anything else of the process, with the words of main: where it has several threads, and
 * the environment does not say how they wait, the program starts itself once more with that said.
 * Returns where there is nothing to say, and where it cannot. */
void waiting_settle(char **argv);

#endif
