/* y = x·Wᵀ for the few rows of x of a decoded token, W in blocks: weights are decoded into
 * registers and used at once for every row of x, so W is read once and never written out. Two rows
 * at a time share what is loaded of x. */
#include "kernels/native/few_rows.h"

enum { AHEAD = 1024 }; /* bytes */

typedef struct activations {
    const float *x;
    int64_t cols, ldx;
} activations;

ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    enum { SUMS = 2 }; /* so that no multiply-add waits for the one before it */
    const activations a = *(const activations *)of;
    const int groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_vector sum[ML_FEW_ROWS][ML_SMALL_TOKENS][SUMS] = {0};
    for (int64_t c = 0; c < a.cols; w += bytes) {
        ml_factors factors[ML_FEW_ROWS];
        for (int r = 0; r < rows; r++) ml_take_factors(dtype, w + r * step, &factors[r]);
        for (int group = 0; group < groups; group++, c += ML_GROUP)
            for (int r = 0; r < rows; r++) {
                ml_vector weights[ML_GROUP_VECTORS];
                ml_decode_group(dtype, w + r * step, group, &factors[r], weights);
                if (group % 2 == 0) __builtin_prefetch(w + r * step + group * 16 + AHEAD);
                for (int64_t t = 0; t < T; t++)
                    for (int v = 0; v < ML_GROUP_VECTORS; v++)
                        sum[r][t][v % SUMS] +=
                            weights[v] *
                            *(const ml_vector *)(const void *)(a.x + t * a.ldx + c + v * ML_LANES);
            }
    }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) {
            ml_vector all = sum[r][t][0] + sum[r][t][1];
            dots[r][t] = 0;
            for (int l = 0; l < ML_LANES; l++) dots[r][t] += all[l];
        }
}

void ML_NATIVE(block_dots)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
    const activations a = {x, w->cols, ldx};
#define MULTIPLY(constant) \
    ml_few_rows(some_dots, ML_SMALL_TOKENS, constant, T, &a, w, first, count, beta, y, ldy)
    ML_FOR_BLOCK_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
}
