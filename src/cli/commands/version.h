/* version: what `mpilora --version` prints. */
#ifndef MPILORA_CLI_COMMANDS_VERSION_H
#define MPILORA_CLI_COMMANDS_VERSION_H

#include "mpilora/base.h"

/* On standard output; as one JSON object where `json`. Needs no MPI. */
ml_status version_print(bool json) ML_NODISCARD;

#endif
