/* Reading memory and doing nothing with it: what a product with one token's vector could reach at
 * most. A thread reads several places in turn, which is faster than one. */
#include "kernels/native/native.h"

enum { STREAMS = 4, LINE = 64, AHEAD = 1024 }; /* bytes */

typedef int64_t integers __attribute__((vector_size(4 * ML_LANES), aligned(1), may_alias));

/* The sum of the first `bytes` behind each of the streams, which begin `step` bytes apart. */
static int64_t add_up(const char *at, int64_t step, int64_t bytes)
{
    enum { VECTORS = LINE / (int)sizeof(integers) };
    integers sum[STREAMS] = {0};
    for (int64_t i = 0; i < bytes; i += LINE)
        for (int s = 0; s < STREAMS; s++) {
            const char *line = at + s * step + i;
            __builtin_prefetch(line + AHEAD);
            for (int v = 0; v < VECTORS; v++)
                sum[s] += *(const integers *)(const void *)(line + v * (int)sizeof(integers));
        }
    int64_t all = 0;
    for (int s = 1; s < STREAMS; s++) sum[0] += sum[s];
    for (int lane = 0; lane < (int)(sizeof sum[0] / sizeof all); lane++) all += sum[0][lane];
    return all;
}

int64_t ML_NATIVE(read_memory)(int threads, int64_t count, const ml_memory_span *spans)
{
    int64_t all = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : all)
    for (int t = 0; t < threads; t++)
        for (int64_t i = 0; i < count; i++) {
            int64_t lines = spans[i].bytes / (STREAMS * LINE),
                    first = ml_part_start(lines, threads, t);
            int64_t mine = LINE * ml_part_count(lines, threads, t);
            all += add_up((const char *)spans[i].data + STREAMS * LINE * first, mine, mine);
        }
    return all;
}
