/* A process that begins once more as itself. */
#ifndef MPILORA_CLI_SUPPORT_AGAIN_H
#define MPILORA_CLI_SUPPORT_AGAIN_H

/* Starts this program again in the place of this process, with the same words and what of limits
 * and environment has been set since. Returns where that cannot be. */
void again_start(char **argv);

#endif
