/* What attention is not defined for. */
#include <inttypes.h>

#include "mpilora/kernels.h"

static ml_status check_relative(const ml_attention_shape *shape, const ml_sequences *sequences)
{
    if (!shape->both_ways || shape->kv_heads != shape->heads || shape->window > 0 ||
        shape->cap > 0 || shape->key_bias)
        return ml_fail(ML_USAGE, "attention with relative terms: expected both directions, as many "
                                 "key heads as query heads, no window, no cap and no bias");
    for (int64_t i = 0; i < sequences->count; i++)
        if (sequences->start[i + 1] - sequences->start[i] > shape->relative->most + 1)
            return ml_fail(ML_USAGE,
                           "attention with relative terms: sequence %" PRId64 " has %" PRId64
                           " tokens, expected at most %" PRId64 ", which have distances",
                           i, sequences->start[i + 1] - sequences->start[i],
                           shape->relative->most + 1);
    return ML_OK;
}

ml_status ml_attention_check(const ml_attention_shape *shape, const ml_sequences *sequences)
{
    for (int64_t i = 0; shape->both_ways && i < sequences->count; i++)
        if (ml_sequences_shared(sequences, i) > 0)
            return ml_fail(ML_USAGE,
                           "attention in both directions: sequence %" PRId64 " shares its first "
                           "%" PRId64 " rows with the one before it, which a prefix tree allows to "
                           "causal attention alone; give each sequence rows of its own",
                           i, sequences->shared[i]);
    return shape->relative ? check_relative(shape, sequences) : ML_OK;
}
