/* Small arithmetic that everything shares. */
#include <time.h>

#include "mpilora/base.h"

size_t ml_dtype_size(ml_dtype dtype) { return dtype == ML_BF16 ? 2 : 4; }
const char *ml_dtype_name(ml_dtype dtype) { return dtype == ML_BF16 ? "bf16" : "fp32"; }

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
