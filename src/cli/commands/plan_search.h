/* mpilora plan --search. */
#ifndef MPILORA_CLI_COMMANDS_PLAN_SEARCH_H
#define MPILORA_CLI_COMMANDS_PLAN_SEARCH_H

#include <jansson.h>

#include "mpilora/plan.h"

/* model as in ml_plan_create_on; per_node OPTION_ABSENT: one a memory domain; memory NULL: the
 * machine's. World rank 0 prints. */
ml_status plan_search(const ml_run_config *config, const ml_machine *machine,
                      const ml_model_spec *model, int64_t nodes, int64_t per_node,
                      const char *memory, bool json) ML_NODISCARD;

/* Prints and releases what --json shows; NULL is a lack of memory. */
ml_status plan_print_object(json_t *object) ML_NODISCARD;

#endif
