/* The longest common subsequence of two texts. */
#ifndef MPILORA_SCORE_COMMON_SUBSEQUENCE_H
#define MPILORA_SCORE_COMMON_SUBSEQUENCE_H

#include "score/corpus.h"

/* Its length; row: room for as many numbers as the longest text of the corpus has tokens, and one
 * more. */
int64_t common_subsequence(const corpus *c, int64_t left, int64_t right, int64_t *row);
/* Such a room; NULL after ml_fail. Ended with ml_memory_free. */
int64_t *common_subsequence_row(const corpus *c, int64_t texts) ML_NODISCARD;

#endif
