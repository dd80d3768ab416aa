/* cli: one file a subcommand. A command takes argv with argv[0] = its own name and returns a
 * status; its error text is printed by main.c. */
#ifndef MPILORA_CLI_CLI_H
#define MPILORA_CLI_CLI_H

#include "cli/support/options.h"

/* What stands here is also the help, the section of the man page and the completion. Texts are
 * paragraphs with an empty line between them, wrapped where they are printed; a line that begins
 * with a blank stays as it is. */
typedef struct ml_command ml_command;
struct ml_command {
    const char *name;
    const char *summary; /* one line for `mpilora --help` */
    const char *usage;   /* forms with "  |  " between them; messages of options_read end with it */
    const char *about;   /* what it does, before the options */
    const option *options; /* NULL where subjects have them */
    const char *notes;     /* behind the options; may be NULL */
    ml_status (*run)(int argc, char **argv);
    bool parallel;         /* runs under mpirun: main.c starts and stops MPI around it */
    void (*prepare)(void); /* called before MPI starts; may be NULL */
    /* Of `bench` and `analyze`, whose run is NULL: NULL-ended; the next word chooses. */
    const ml_command *const *subjects;
};

#endif
