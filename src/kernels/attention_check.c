/* What attention is not defined for. */
#include <inttypes.h>

#include "mpilora/kernels.h"

ml_status ml_attention_check(const ml_attention_shape *shape, const ml_sequences *sequences)
{
    for (int64_t i = 0; shape->both_ways && i < sequences->count; i++)
        if (ml_sequences_shared(sequences, i) > 0)
            return ml_fail(ML_USAGE,
                           "attention in both directions: sequence %" PRId64 " shares its first "
                           "%" PRId64 " rows with the one before it, which a prefix tree allows to "
                           "causal attention alone; give each sequence rows of its own",
                           i, sequences->shared[i]);
    return ML_OK;
}
