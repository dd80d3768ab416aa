/* How much scratch memory blockwise attention takes. */
#include "kernels/kernels_private.h"

int64_t ml_attention_scratch_bytes(const ml_kernels_options *options, int threads)
{
    (void)options;
    (void)threads;
    return 0;
}
