/* The stack that this program and its libraries need. */
#ifndef MPILORA_CLI_SUPPORT_STACK_H
#define MPILORA_CLI_SUPPORT_STACK_H

#include "mpilora/base.h"

/* Where the limit of the stack is too low, raises it and starts the program again with the same
 * words, so that the threads of libraries have the new one, too. Does not return then. ML_RESOURCE
 * where it may not be raised. Local. */
ml_status stack_settle(char **argv) ML_NODISCARD;

#endif
