/* The list of commands, for main.c and for what is made out of it: help, the man page, completion.
 */
#ifndef MPILORA_CLI_SUPPORT_COMMANDS_H
#define MPILORA_CLI_SUPPORT_COMMANDS_H

#include "cli/cli.h"

extern const ml_command *const ml_commands[]; /* NULL-ended, in the order of `mpilora --help` */

const ml_command *commands_find(const char *name); /* NULL: there is none */
/* ML_USAGE naming the nearest command. */
ml_status commands_unknown(const char *word) ML_NODISCARD;
void commands_print(FILE *to); /* `mpilora --help` */
extern const char commands_exit_codes[];

/* The same of the subjects of a command that has some. */
const ml_command *commands_find_subject(const ml_command *command, const char *name);
ml_status commands_unknown_subject(const ml_command *command, const char *word) ML_NODISCARD;
/* The command, or the subject that argv[1] names. */
ml_status commands_run(const ml_command *command, int argc, char **argv) ML_NODISCARD;

#endif
