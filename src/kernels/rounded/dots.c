/* Few rows of x: a row of W at a time, its codes taken from the block into registers and multiplied
 * with every row of x, so that W is read once and nothing of it is written. Here the formats in
 * blocks of 32; dots_k.c has those of 256. */
#include "kernels/native/few_rows.h"
#include "kernels/rounded/codes.h"

enum { AHEAD = 1024 }; /* bytes */

ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    const ml_rounded *x = of;
    const int bytes = ml_block_bytes(dtype);
    ml_floats sum[ML_FEW_ROWS][ML_SMALL_TOKENS], offsets[ML_FEW_ROWS][ML_SMALL_TOKENS];
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) sum[r][t] = offsets[r][t] = ml_no_floats();
    for (int64_t g = 0; g < x->groups; g++, w += bytes)
        for (int r = 0; r < rows; r++) {
            const uint8_t *block = w + r * step;
            ml_factors factors;
            ml_codes codes;
            __builtin_prefetch(block + AHEAD);
            ml_take_factors(dtype, block, &factors);
            ml_take_codes(dtype, block, 0, ml_code_bias(dtype), &codes);
            for (int64_t t = 0; t < T; t++) {
                const int64_t at = t * x->groups + g;
                sum[r][t] = ml_add_group(dtype, sum[r][t], &codes, x->code + 32 * at, x->start + at,
                                         *factors.scale * x->scale[at]);
                if (ml_has_offset(dtype))
                    offsets[r][t] = ml_add_offset(offsets[r][t], *factors.offset, x->sum + at);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) dots[r][t] = ml_add_lanes(sum[r][t] + offsets[r][t]);
}

void ML_NATIVE(rounded_dots)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                             int64_t count, float beta, float *y, int64_t ldy)
{
#define MULTIPLY(constant) \
    ml_few_rows(some_dots, ML_SMALL_TOKENS, constant, T, x, w, first, count, beta, y, ldy)
    ML_FOR_SMALL_BLOCK_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
    if (ml_block_groups(w->dtype) > 1)
        ML_NATIVE(rounded_dots_k)(T, x, w, first, count, beta, y, ldy);
}
