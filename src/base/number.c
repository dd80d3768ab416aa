/* Small arithmetic that everything shares. */
#include <time.h>

#include "mpilora/base.h"

size_t ml_dtype_size(ml_dtype dtype) { return dtype == ML_BF16 ? 2 : 4; }

const char *ml_dtype_name(ml_dtype dtype)
{
    static const char *const names[ML_DTYPES] = {"fp32", "bf16", "q8_0", "q4_0", "q4_1",   "q5_0",
                                                 "q5_1", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4"};
    return names[dtype];
}

bool ml_multiply(int64_t a, int64_t b, int64_t *out)
{
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}

double ml_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
