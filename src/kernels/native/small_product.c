/* x·Wᵀ for a token or a few (generation): bound by reading W once, so a bf16 weight is widened in
 * registers, and the next rows are asked for while these are multiplied. Four rows at a time share
 * what is loaded of x, and give eight independent sums. */
#include <omp.h>

#include "kernels/native/blocks.h"

enum { ROWS = 4, LINE = 64, AHEAD = 1024 }; /* bytes */

ML_INLINE ml_vector load(const char *row, bool bf16, int64_t c)
{
    if (bf16) return ml_bf16_lanes((const uint16_t *)(const void *)row + c);
    return *(const ml_vector *)(const void *)((const float *)(const void *)row + c);
}

ML_INLINE float load_one(const char *row, bool bf16, int64_t c)
{
    if (!bf16) return ((const float *)(const void *)row)[c];
    return ml_bf16_to_float(((const uint16_t *)(const void *)row)[c]);
}

ML_INLINE float sum_lanes(ml_vector v)
{
    float sum = 0;
    for (int l = 0; l < ML_LANES; l++) sum += v[l];
    return sum;
}

ML_INLINE void store_dot(float dot, float beta, float *y) { *y = beta != 0 ? *y + dot : dot; }

/* dots[i] = x·row i of `rows` ≤ ROWS rows that lie `step` bytes apart; the compiler knows `rows`
 * and `narrow`. */
ML_INLINE void some_dots(int64_t cols, const float *x, const char *w, int64_t step, bool bf16,
                         int rows, float dots[ROWS])
{
    enum { SUMS = 2 }; /* of a row, so that no multiply-add waits for the one before it */
    const int width = bf16 ? 2 : 4, line = LINE / width;
    ml_vector sum[ROWS][SUMS] = {0};
    int64_t c = 0;
    for (; c + line <= cols; c += line) {
        for (int r = 0; r < rows; r++) __builtin_prefetch(w + r * step + c * width + AHEAD);
        for (int v = 0; v < line / ML_LANES; v++) {
            ml_vector factor = *(const ml_vector *)(x + c + v * ML_LANES);
            for (int r = 0; r < rows; r++)
                sum[r][v % SUMS] += factor * load(w + r * step, bf16, c + v * ML_LANES);
        }
    }
    for (int r = 0; r < rows; r++) {
        dots[r] = sum_lanes(sum[r][0] + sum[r][1]);
        for (int64_t rest = c; rest < cols; rest++)
            dots[r] += x[rest] * load_one(w + r * step, bf16, rest);
    }
}

/* `count` rows from `first` on for one token. Their four quarters go side by side: memory is read
 * fastest as several streams far apart. */
ML_INLINE void row_range(const ml_weight *w, bool bf16, int64_t first, int64_t count,
                         const float *x, float beta, float *y)
{
    int64_t bytes = w->cols * (bf16 ? 2 : 4), quarter = count / ROWS;
    const char *rows = (const char *)w->data + first * bytes;
    float dots[ROWS];
    for (int64_t i = 0; i < quarter; i++) {
        some_dots(w->cols, x, rows + i * bytes, quarter * bytes, bf16, ROWS, dots);
        for (int r = 0; r < ROWS; r++) store_dot(dots[r], beta, y + first + i + r * quarter);
    }
    for (int64_t i = ROWS * quarter; i < count; i++) {
        some_dots(w->cols, x, rows + i * bytes, 0, bf16, 1, dots);
        store_dot(dots[0], beta, y + first + i);
    }
}

static void rows_bf16(const ml_weight *w, int64_t first, int64_t count, const float *x, float beta,
                      float *y)
{
    row_range(w, true, first, count, x, beta, y);
}

static void rows_fp32(const ml_weight *w, int64_t first, int64_t count, const float *x, float beta,
                      float *y)
{
    row_range(w, false, first, count, x, beta, y);
}

/* Rows that stay in the cache while all tokens pass over them; for one token, all. */
static int64_t rows_at_once(const ml_weight *w, int64_t T, int64_t count)
{
    enum { CACHED = 128 << 10 };
    int64_t bytes = w->cols * (int64_t)ml_dtype_size(w->dtype);
    return T == 1 ? ml_max(1, count) : ml_round_up(ml_max(1, CACHED / bytes), ROWS);
}

static void multiply_rows(int64_t T, const float *x, int64_t ldx, const ml_weight *w, int64_t first,
                          int64_t count, float beta, float *y, int64_t ldy)
{
    for (int64_t t = 0; t < T; t++) {
        if (w->dtype == ML_BF16)
            rows_bf16(w, first, count, x + t * ldx, beta, y + t * ldy);
        else
            rows_fp32(w, first, count, x + t * ldx, beta, y + t * ldy);
    }
}

/* Without vectors of bytes panels win nothing, and dot products do it all. */
static void multiply_blocks(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                            int64_t first, int64_t count, float beta, float *y, int64_t ldy)
{
#if defined(__AVX2__)
    if (T > ML_SMALL_TOKENS) {
        ML_NATIVE(few_panels)(T, x, ldx, w, first, count, beta, y, ldy);
        return;
    }
#endif
    for (int64_t t = 0; t < T; t += ML_SMALL_TOKENS) ML_NATIVE(block_dots)
    (ml_min(ML_SMALL_TOKENS, T - t), x + t * ldx, ldx, w, first, count, beta, y + t * ldy, ldy);
}

void ML_NATIVE(small_forward)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                              float beta, float *y, int64_t ldy)
{
#pragma omp parallel if (w->rows * w->cols >= ML_PARALLEL_FROM)
    {
        int64_t threads = omp_get_num_threads(), mine = omp_get_thread_num();
        int64_t first = ml_part_start(w->rows, threads, mine),
                count = ml_part_count(w->rows, threads, mine);
        if (ml_dtype_is_block(w->dtype)) {
            multiply_blocks(T, x, ldx, w, first, count, beta, y, ldy);
            count = 0;
        }
        int64_t step = rows_at_once(w, T, count);
        for (int64_t at = 0; at < count; at += step)
            multiply_rows(T, x, ldx, w, first + at, ml_min(step, count - at), beta, y, ldy);
    }
}
