/* How a set is stored: all texts one behind the other; of each item first the output, then its
 * references. */
#ifndef MPILORA_SCORE_SET_H
#define MPILORA_SCORE_SET_H

#include "mpilora/score.h"

struct ml_score_set {
    ml_text bytes;
    int64_t *text; /* texts + 1: where each begins in bytes */
    int64_t *item; /* items + 1: the first text of each, its output */
    int64_t texts, text_capacity, items, item_capacity;
};

/* ML_INPUT unless there are items and each has a reference. */
ml_status score_set_check(const ml_score_set *set) ML_NODISCARD;

static inline const char *score_set_text(const ml_score_set *set, int64_t text, int64_t *length)
{
    *length = set->text[text + 1] - set->text[text];
    return set->bytes.data + set->text[text];
}

#endif
