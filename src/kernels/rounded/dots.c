/* Few rows of x: a row of W at a time, its codes taken from the block into registers and multiplied
 * with every row of x, so that W is read once and nothing of it is written. */
#include "kernels/rounded/codes.h"

#if defined(__AVX2__)
enum { ROWS = 2, AHEAD = 1024 }; /* bytes */
#else
enum { ROWS = 1, AHEAD = 1024 };
#endif

/* dots[r][t] of `rows` ≤ ROWS rows, `step` bytes apart; the compiler knows dtype, rows and T. */
ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const ml_rounded *x, const uint8_t *w,
                         int64_t step, float dots[ROWS][ML_ROUNDED_DOTS])
{
    const int groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype),
              parts = ml_has_halves(dtype) ? 2 : 1;
    ml_floats sum[ROWS][ML_ROUNDED_DOTS], offsets[ROWS][ML_ROUNDED_DOTS];
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) sum[r][t] = offsets[r][t] = ml_no_floats();
    for (int64_t g = 0; g < x->groups; g += groups, w += bytes)
        for (int r = 0; r < rows; r++) {
            const uint8_t *block = w + r * step;
            ml_floats part[ML_ROUNDED_DOTS];
            ml_factors factors;
            ml_take_factors(dtype, block, &factors);
            for (int64_t t = 0; t < T; t++) part[t] = ml_no_floats();
            for (int at = 0; at < bytes; at += 64) __builtin_prefetch(block + at + AHEAD);
#if defined(__AVX2__) /* plain loops would grow too much */
#pragma GCC unroll 8
#endif
            for (int group = 0; group < groups; group++) {
                ml_codes codes;
                ml_take_codes(dtype, block, group, ml_code_bias(dtype), &codes);
                for (int64_t t = 0; t < T; t++) {
                    const int64_t at = t * x->groups + g + group;
                    part[t] = ml_add_group(dtype, part[t], &codes, x->code + 32 * at,
                                           x->start + parts * at, factors.scale + parts * group);
                }
            }
            for (int64_t t = 0; t < T; t++) { /* one factor for all of a block */
                const int64_t at = t * x->groups + g;
                sum[r][t] += ml_scaled(part[t], x->scale[at]);
                if (ml_has_offset(dtype))
                    offsets[r][t] =
                        ml_add_offsets(groups, offsets[r][t], factors.offset, x->sum + at);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) dots[r][t] = ml_add_lanes(sum[r][t] + offsets[r][t]);
}

ML_INLINE void dots_of_tokens(ml_dtype dtype, int rows, int64_t T, const ml_rounded *x,
                              const uint8_t *w, int64_t step, float dots[ROWS][ML_ROUNDED_DOTS])
{
#if defined(__AVX2__)
    if (T == 1)
        some_dots(dtype, rows, 1, x, w, step, dots);
    else if (T == 2)
        some_dots(dtype, rows, 2, x, w, step, dots);
    else if (T == 3)
        some_dots(dtype, rows, 3, x, w, step, dots);
    else
        some_dots(dtype, rows, ML_ROUNDED_DOTS, x, w, step, dots);
#else /* nothing is won by a copy of the code for each T */
    some_dots(dtype, rows, T, x, w, step, dots);
#endif
}

/* Rows i and i + half of the range go side by side: memory is read as two streams. */
ML_INLINE void row_range(ml_dtype dtype, int64_t T, const ml_rounded *x, const ml_weight *w,
                         int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
    const int64_t row = x->groups / ml_block_groups(dtype) * ml_block_bytes(dtype),
                  half = count / ROWS;
    const uint8_t *from = (const uint8_t *)w->data + first * row;
    float dots[ROWS][ML_ROUNDED_DOTS];
    for (int64_t i = 0; i < half + count % ROWS; i++) {
        const int rows = i < half ? ROWS : 1; /* an odd last row stands behind both halves */
        const int64_t at = i < half ? i : count - 1;
        if (rows == ROWS)
            dots_of_tokens(dtype, ROWS, T, x, from + at * row, half * row, dots);
        else
            dots_of_tokens(dtype, 1, T, x, from + at * row, 0, dots);
        for (int r = 0; r < rows; r++)
            for (int64_t t = 0; t < T; t++) {
                float *to = y + t * ldy + first + at + r * half;
                *to = beta != 0 ? *to + dots[r][t] : dots[r][t];
            }
    }
}

void ML_NATIVE(rounded_dots)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                             int64_t count, float beta, float *y, int64_t ldy)
{
#define MULTIPLY(constant) row_range(constant, T, x, w, first, count, beta, y, ldy)
    ML_FOR_BLOCK_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
}
