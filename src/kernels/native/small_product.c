/* x·Wᵀ for a token or a few (generation): bound by reading W once, so a bf16 weight is widened in registers. Four rows at a time give four
 * independent sums. */
#include "kernels/native/native.h"

enum { ROWS = 4 };

ML_INLINE float element(const void *row, bool narrow, int64_t c)
{
    return narrow ? ml_float_of_bits((uint32_t)((const uint16_t *)row)[c] << 16) : ((const float *)row)[c];
}

ML_INLINE void four_dots(int64_t cols, const float *x, const char *w, bool narrow, float dots[ROWS])
{
    int64_t step = cols * (narrow ? 2 : 4);
    const void *r0 = w, *r1 = w + step, *r2 = w + 2 * step, *r3 = w + 3 * step;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t c = 0; c < cols; c++) {
        s0 += x[c] * element(r0, narrow, c);
        s1 += x[c] * element(r1, narrow, c);
        s2 += x[c] * element(r2, narrow, c);
        s3 += x[c] * element(r3, narrow, c);
    }
    dots[0] = s0;
    dots[1] = s1;
    dots[2] = s2;
    dots[3] = s3;
}

ML_INLINE float one_dot(int64_t cols, const float *x, const char *w, bool narrow)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < cols; c++) sum += x[c] * element(w, narrow, c);
    return sum;
}

/* Up to ROWS rows from `row` on, for one token. */
static void some_rows(const ml_weight *w, int64_t row, int64_t rows, const float *x, float dots[ROWS])
{
    bool narrow = w->dtype == ML_BF16;
    int64_t step = w->cols * (int64_t)ml_dtype_size(w->dtype);
    const char *first = (const char *)w->data + row * step;
    if (rows == ROWS) {
        if (narrow)
            four_dots(w->cols, x, first, true, dots);
        else
            four_dots(w->cols, x, first, false, dots);
        return;
    }
    for (int64_t r = 0; r < rows; r++) dots[r] = one_dot(w->cols, x, first + r * step, narrow);
}

void ML_NATIVE(small_forward)(int64_t T, const float *x, int64_t ldx, const ml_weight *w, float beta, float *y, int64_t ldy)
{
#pragma omp parallel for schedule(static) if (w->rows * w->cols >= ML_PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row += ROWS)
        for (int64_t t = 0; t < T; t++) {
            int64_t rows = ml_min(ROWS, w->rows - row);
            float dots[ROWS], *to = y + t * ldy + row;
            some_rows(w, row, rows, x + t * ldx, dots);
            for (int64_t r = 0; r < rows; r++) to[r] = beta != 0 ? to[r] + dots[r] : dots[r];
        }
}
