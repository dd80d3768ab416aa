/* The scratch memory of blockwise attention: one table for the call, and blocks for each thread. */
#include "kernels/kernels_private.h"

static int64_t thread_floats(const ml_kernels_options *options)
{
    int64_t padded = ml_round_up(options->head_dim, ML_ATTENTION_PAD), slabs = ML_ATTENTION_SLABS,
            squares = ML_ATTENTION_SQUARES;
    if (options->relative) {
        slabs += ML_ATTENTION_RELATIVE_SLABS;
        squares += ML_ATTENTION_RELATIVE_SQUARES;
    }
    return ML_ATTENTION_BLOCK *
           (slabs * padded + squares * ML_ATTENTION_BLOCK + ML_ATTENTION_COLUMNS);
}

static int64_t most_tokens(const ml_kernels_options *options)
{
    return ml_max(options->tokens, options->attended);
}

int64_t ml_attention_scratch_bytes(const ml_kernels_options *options, int threads)
{
    if (options->heads == 0) return 0;
    return ml_round_up((most_tokens(options) + 1) * (int64_t)sizeof(int64_t), 64) +
           ml_round_up(options->heads * most_tokens(options) * (int64_t)sizeof(float), 64) +
           threads * thread_floats(options) * (int64_t)sizeof(float);
}

void ml_attention_scratch_place(ml_attention_scratch *scratch, const ml_kernels_options *options,
                                void *memory)
{
    if (options->heads == 0) return;
    char *next = memory;
    scratch->block_start = (int64_t *)(void *)next;
    next += ml_round_up((most_tokens(options) + 1) * (int64_t)sizeof(int64_t), 64);
    scratch->row_dot = (float *)(void *)next;
    next += ml_round_up(options->heads * most_tokens(options) * (int64_t)sizeof(float), 64);
    scratch->threads = (float *)(void *)next;
    scratch->thread_floats = thread_floats(options);
    scratch->relative = options->relative;
    scratch->tokens = most_tokens(options);
    scratch->heads = options->heads;
    scratch->head_dim = options->head_dim;
}

bool ml_attention_fits(const ml_attention_scratch *scratch, const ml_attention_shape *shape,
                       const ml_sequences *sequences)
{
    return ml_sequences_queries(sequences) <= scratch->tokens &&
           sequences->count <= scratch->tokens && shape->heads <= scratch->heads &&
           shape->head_dim <= scratch->head_dim && (scratch->relative || !shape->relative);
}
