/* Reading memory and doing nothing with it: what a product with one token's vector could reach at most. */
#include "kernels/native/native.h"

enum { STREAMS = 8, FORWARD = 1024 }; /* vectors in flight; bytes ahead that are asked for */

typedef int64_t integers __attribute__((vector_size(4 * ML_LANES), aligned(1), may_alias));

static int64_t add_up(const char *at, int64_t bytes)
{
    enum { STEP = STREAMS * (int)sizeof(integers) };
    integers sum[STREAMS] = {0};
    int64_t i = 0;
    for (; i + STEP <= bytes; i += STEP) {
        for (int p = 0; p < STEP; p += 64) __builtin_prefetch(at + i + FORWARD + p);
#pragma GCC unroll 8
        for (int s = 0; s < STREAMS; s++) sum[s] += *(const integers *)(const void *)(at + i + s * (int)sizeof(integers));
    }
    int64_t all = 0;
    for (int s = 1; s < STREAMS; s++) sum[0] += sum[s];
    for (int lane = 0; lane < (int)(sizeof sum[0] / sizeof all); lane++) all += sum[0][lane];
    for (; i < bytes; i++) all += at[i];
    return all;
}

int64_t ML_NATIVE(read_memory)(int threads, int64_t count, const ml_memory_span *spans)
{
    enum { LINE = 64 };
    int64_t all = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : all)
    for (int t = 0; t < threads; t++)
        for (int64_t i = 0; i < count; i++) {
            int64_t lines = spans[i].bytes / LINE, first = ml_part_start(lines, threads, t), mine = ml_part_count(lines, threads, t);
            all += add_up((const char *)spans[i].data + first * LINE, mine * LINE);
        }
    return all;
}
