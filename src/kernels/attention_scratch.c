/* The scratch memory of blockwise attention: one table for the call, and blocks for each thread. */
#include "kernels/kernels_private.h"

static int64_t thread_floats(int64_t head_dim)
{
    int64_t padded = ml_round_up(head_dim, ML_ATTENTION_PAD);
    return ML_ATTENTION_BLOCK *
           (ML_ATTENTION_SLABS * padded + 2 * ML_ATTENTION_BLOCK + ML_ATTENTION_COLUMNS);
}

int64_t ml_attention_scratch_bytes(const ml_kernels_options *options, int threads)
{
    if (options->heads == 0) return 0;
    return ml_round_up((options->tokens + 1) * (int64_t)sizeof(int64_t), 64) +
           ml_round_up(options->heads * options->tokens * (int64_t)sizeof(float), 64) +
           threads * thread_floats(options->head_dim) * (int64_t)sizeof(float);
}

void ml_attention_scratch_place(ml_attention_scratch *scratch, const ml_kernels_options *options,
                                void *memory)
{
    if (options->heads == 0) return;
    char *next = memory;
    scratch->block_start = (int64_t *)(void *)next;
    next += ml_round_up((options->tokens + 1) * (int64_t)sizeof(int64_t), 64);
    scratch->row_dot = (float *)(void *)next;
    next += ml_round_up(options->heads * options->tokens * (int64_t)sizeof(float), 64);
    scratch->threads = (float *)(void *)next;
    scratch->thread_floats = thread_floats(options->head_dim);
    scratch->tokens = options->tokens;
    scratch->heads = options->heads;
    scratch->head_dim = options->head_dim;
}

bool ml_attention_fits(const ml_attention_scratch *scratch, const ml_attention_shape *shape,
                       int64_t T)
{
    return T <= scratch->tokens && shape->heads <= scratch->heads &&
           shape->head_dim <= scratch->head_dim;
}
