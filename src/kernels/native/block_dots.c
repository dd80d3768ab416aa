/* y = x·Wᵀ for the few rows of x of a decoded token, W in blocks: weights are decoded into
 * registers and used at once for every row of x, so W is read once and never written out. Two rows
 * at a time share what is loaded of x. */
#include "kernels/native/blocks.h"

enum { ROWS = 2, AHEAD = 1024 }; /* bytes */

/* dots[r][t] of `rows` ≤ ROWS rows, `step` bytes apart; the compiler knows dtype, rows and T. */
ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, int64_t cols, const float *x,
                         int64_t ldx, const uint8_t *w, int64_t step,
                         float dots[ROWS][ML_SMALL_TOKENS])
{
    enum { SUMS = 2 }; /* so that no multiply-add waits for the one before it */
    const int groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_vector sum[ROWS][ML_SMALL_TOKENS][SUMS] = {0};
    for (int64_t c = 0; c < cols; w += bytes) {
        ml_factors factors[ROWS];
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
                            *(const ml_vector *)(const void *)(x + t * ldx + c + v * ML_LANES);
            }
    }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) {
            ml_vector all = sum[r][t][0] + sum[r][t][1];
            dots[r][t] = 0;
            for (int l = 0; l < ML_LANES; l++) dots[r][t] += all[l];
        }
}

ML_INLINE void dots_of_tokens(ml_dtype dtype, int rows, int64_t T, int64_t cols, const float *x,
                              int64_t ldx, const uint8_t *w, int64_t step,
                              float dots[ROWS][ML_SMALL_TOKENS])
{
    if (T == 1)
        some_dots(dtype, rows, 1, cols, x, ldx, w, step, dots);
    else if (T == 2)
        some_dots(dtype, rows, 2, cols, x, ldx, w, step, dots);
    else if (T == 3)
        some_dots(dtype, rows, 3, cols, x, ldx, w, step, dots);
    else
        some_dots(dtype, rows, ML_SMALL_TOKENS, cols, x, ldx, w, step, dots);
}

/* Rows i and i + half of the range go side by side: memory is read as two streams. */
ML_INLINE void row_range(ml_dtype dtype, int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                         int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
    const int64_t row = w->cols / ML_GROUP / ml_block_groups(dtype) * ml_block_bytes(dtype),
                  half = count / ROWS;
    const uint8_t *from = (const uint8_t *)w->data + first * row;
    float dots[ROWS][ML_SMALL_TOKENS];
    for (int64_t i = 0; i < half + count % ROWS; i++) {
        const int rows = i < half ? ROWS : 1; /* an odd last row stands behind both halves */
        const int64_t at = i < half ? i : count - 1;
        if (rows == ROWS)
            dots_of_tokens(dtype, ROWS, T, w->cols, x, ldx, from + at * row, half * row, dots);
        else
            dots_of_tokens(dtype, 1, T, w->cols, x, ldx, from + at * row, 0, dots);
        for (int r = 0; r < rows; r++)
            for (int64_t t = 0; t < T; t++) {
                float *to = y + t * ldy + first + at + r * half;
                *to = beta != 0 ? *to + dots[r][t] : dots[r][t];
            }
    }
}

void ML_NATIVE(block_dots)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
#define MULTIPLY(constant) row_range(constant, T, x, ldx, w, first, count, beta, y, ldy)
    ML_FOR_BLOCK_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
}
