/* The options of a search for continuations, which several commands have. */
#ifndef MPILORA_CLI_SUPPORT_GENERATION_OPTIONS_H
#define MPILORA_CLI_SUPPORT_GENERATION_OPTIONS_H

#include "cli/support/options.h"
#include "mpilora/model.h"

enum { GENERATION_OPTIONS = 9 };

typedef struct generation_options {
    ml_generation generation;
    int64_t seed, together;
} generation_options;

generation_options generation_defaults(void);
/* Appends --max-new, --beams, … and --batch to a table at `to`, which has room for
 * GENERATION_OPTIONS more. */
void generation_add_options(generation_options *o, option *to);
/* ML_USAGE naming the option. Afterwards o->generation is complete but for the end of text. */
ml_status generation_check(generation_options *o) ML_NODISCARD;

#endif
