/* cli: one file a subcommand. A command takes argv with argv[0] = its own name and returns a
 * status; its error text is printed by main.c. */
#ifndef MPILORA_CLI_CLI_H
#define MPILORA_CLI_CLI_H

#include "mpilora/base.h"

typedef struct ml_command {
    const char *name;
    const char *summary; /* one line for `mpilora --help` */
    const char *help;    /* the whole text of `mpilora NAME --help` */
    ml_status (*run)(int argc, char **argv);
    bool parallel;         /* runs under mpirun: main.c starts and stops MPI around it */
    void (*prepare)(void); /* called before MPI starts; may be NULL */
} ml_command;

#endif
