/* run_list: the configurations of a file that has several runs. */
#ifndef MPILORA_CLI_SUPPORT_RUN_LIST_H
#define MPILORA_CLI_SUPPORT_RUN_LIST_H

#include "cli/support/options.h"
#include "mpilora/config.h"

/* (*out)[runs->count]: each the file at `path` with what the command line sets for all and what the
 * run itself sets. The caller ends it with run_list_destroy, also after an error. Collective over
 * the world; ML_USAGE naming run and key. */
ml_status run_list_read(ml_run_config **out, const char *path, const ml_run_list *runs,
                        const option_list *sets) ML_NODISCARD;
void run_list_destroy(ml_run_config *config, int64_t count);

#endif
