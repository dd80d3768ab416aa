/* The most that the processor can do: multiply-adds on registers alone, as many independent ones
 * as hide their latency. */
#include "kernels/native/native.h"

enum { SUMS = 12, TURNS = 1 << 16, REPEATS = 12 };

static float spin(float start)
{
    ml_vector sum[SUMS], factor = {0};
    factor += start;
    for (int i = 0; i < SUMS; i++) sum[i] = factor;
    for (int turn = 0; turn < TURNS; turn++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * factor + factor;
    }
    ml_vector all = sum[0];
    for (int i = 1; i < SUMS; i++) all += sum[i];
    return all[0];
}

/* The best of some turns in which all threads work: GF/s of all together. */
double ML_NATIVE(peak_gflops)(int threads)
{
    volatile float start = 0.5f, result = 0;
    double best = 0, flops = 2.0 * SUMS * ML_LANES * TURNS * threads;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double begin = ml_seconds();
#pragma omp parallel num_threads(threads)
        {
            float sum = spin(start);
#pragma omp critical
            result = result + sum;
        }
        double rate = flops / (ml_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}
