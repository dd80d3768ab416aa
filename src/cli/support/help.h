/* What the tables of commands and options are turned into: help, the man page, bash completion. */
#ifndef MPILORA_CLI_SUPPORT_HELP_H
#define MPILORA_CLI_SUPPORT_HELP_H

#include "cli/cli.h"

/* `mpilora NAME --help`, or of one subject; `parent` is NULL where `command` is not a subject. */
void help_print(const ml_command *parent, const ml_command *command, FILE *to);
void help_print_manual(FILE *to);     /* mpilora.1 */
void help_print_completion(FILE *to); /* a script for bash */

/* The first form of a usage, `*length` bytes; returns where the next one begins, or NULL. */
const char *help_next_form(const char *usage, size_t *length);

#endif
