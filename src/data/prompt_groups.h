/* Which sequences begin with the same prompt. */
#ifndef MPILORA_DATA_PROMPT_GROUPS_H
#define MPILORA_DATA_PROMPT_GROUPS_H

#include "mpilora/data.h"

/* member[n] in file order → group by group: sequences with the same prompt, the tokens before the
 * first target, stay in file order, groups in the order of their first members; start[groups + 1]
 * (room for n + 1). ML_INPUT on a read error. */
ml_status group_by_prompt(const ml_dataset *data, int64_t max_len, int64_t n, int64_t *member,
                          int64_t *start, int64_t *groups) ML_NODISCARD;

#endif
