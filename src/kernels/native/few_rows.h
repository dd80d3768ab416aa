/* A few rows of x times rows of W in blocks: which rows of W go side by side, and a copy of the
 * code for each number of rows of x. What a dot product is, the caller says: block_dots.c and
 * rounded/dots.h. */
#ifndef MPILORA_KERNELS_NATIVE_FEW_ROWS_H
#define MPILORA_KERNELS_NATIVE_FEW_ROWS_H

#include "kernels/native/blocks.h"

enum { ML_FEW_ROWS = 2 }; /* of W, side by side: memory is read as two streams */

/* dots[r][t] of `rows` ≤ ML_FEW_ROWS rows of W, `step` bytes apart, and T ≤ ML_SMALL_TOKENS rows
 * of x. The compiler knows dtype, rows and T, and `most`: 2 or
 * ML_SMALL_TOKENS. */
typedef void ml_few_dots(ml_dtype dtype, int rows, int64_t T, const void *x, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS]);

ML_INLINE void ml_few_dots_of_tokens(ml_few_dots *some_dots, int64_t most, ml_dtype dtype, int rows,
                                     int64_t T, const void *x, const uint8_t *w, int64_t step,
                                     float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
#if defined(__AVX2__)
    if (T == 1)
        some_dots(dtype, rows, 1, x, w, step, dots);
    else if (T == 2 || most == 2)
        some_dots(dtype, rows, 2, x, w, step, dots);
    else if (T == 3)
        some_dots(dtype, rows, 3, x, w, step, dots);
    else
        some_dots(dtype, rows, ML_SMALL_TOKENS, x, w, step, dots);
#else /* nothing is won by a copy of the code for each T */
    (void)most;
    some_dots(dtype, rows, T, x, w, step, dots);
#endif
}

/* T ≤ most: y[T][ldy], columns [first, first + count) ← beta ≠ 0 ? y + x·Wᵀ : x·Wᵀ. Rows i and i +
 * half of the range go side by side. */
ML_INLINE void ml_few_rows(ml_few_dots *some_dots, int64_t most, ml_dtype dtype, int64_t T,
                           const void *x, const ml_weight *w, int64_t first, int64_t count,
                           float beta, float *y, int64_t ldy)
{
    const int64_t row = w->cols / ML_GROUP / ml_block_groups(dtype) * ml_block_bytes(dtype),
                  half = count / ML_FEW_ROWS;
    const uint8_t *from = (const uint8_t *)w->data + first * row;
    float dots[ML_FEW_ROWS][ML_SMALL_TOKENS];
    for (int64_t i = 0; i < half + count % ML_FEW_ROWS; i++) {
        const int rows = i < half ? ML_FEW_ROWS : 1; /* an odd last row stands behind both halves */
        const int64_t at = i < half ? i : count - 1;
        if (rows == ML_FEW_ROWS)
            ml_few_dots_of_tokens(some_dots, most, dtype, ML_FEW_ROWS, T, x, from + at * row,
                                  half * row, dots);
        else
            ml_few_dots_of_tokens(some_dots, most, dtype, 1, T, x, from + at * row, 0, dots);
        for (int r = 0; r < rows; r++)
            for (int64_t t = 0; t < T && t < most; t++) {
                float *to = y + t * ldy + first + at + r * half;
                *to = beta != 0 ? *to + dots[r][t] : dots[r][t];
            }
    }
}

#endif
