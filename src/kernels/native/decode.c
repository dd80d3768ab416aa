/* A run of a row of blocks as fp32, on its way into the panels of the product, or as bf16, on its
 * way into those of oneDNN's. */
#include "kernels/native/blocks.h"

/* Weights [first, first + count) of a row, `together` of them at a time, which lie `apart` in
 * `out`. What lies `ahead` bytes behind them comes from memory meanwhile. */
ML_INLINE void decode_groups(const ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                             int64_t ahead, const int together, int64_t apart, float *out)
{
    const int64_t groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_factors factors;
    for (int64_t g = first / ML_GROUP; g < (first + count) / ML_GROUP; g++) {
        ml_vector weights[ML_GROUP_VECTORS];
        const uint8_t *block = row + g / groups * bytes;
        __builtin_prefetch(block + g % groups * bytes / groups + ahead);
        if (g % groups == 0 || g == first / ML_GROUP) ml_take_factors(dtype, block, &factors);
        ml_decode_group(dtype, block, (int)(g % groups), &factors, weights);
        for (int i = 0; i < ML_GROUP; i += ML_LANES)
            *(ml_vector *)(void *)(out + i / together * apart + i % together) =
                weights[i / ML_LANES];
        out += ML_GROUP / together * apart;
    }
}

ML_INLINE void spread_rows(const ml_dtype dtype, const uint8_t *row, int64_t row_bytes,
                           int64_t rows, int64_t first, int64_t count, int64_t panel, float *out)
{
    enum { ROWS_AHEAD = 8 };
    for (int64_t l = 0; l < rows; l++, row += row_bytes, out += ML_PANEL)
        decode_groups(dtype, row, first, count, ROWS_AHEAD * row_bytes, ML_PANEL, panel, out);
}

void ML_NATIVE(decode_spread)(ml_dtype dtype, const uint8_t *row, int64_t row_bytes, int64_t rows,
                              int64_t first, int64_t count, int64_t panel, float *out)
{
#define SPREAD(constant) spread_rows(constant, row, row_bytes, rows, first, count, panel, out)
    ML_FOR_BLOCK_FORMAT(dtype, SPREAD)
#undef SPREAD
}

void ML_NATIVE(decode_run)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                           int64_t ahead, float *out)
{
#define DECODE(constant) decode_groups(constant, row, first, count, ahead, ML_GROUP, ML_GROUP, out)
    ML_FOR_BLOCK_FORMAT(dtype, DECODE)
#undef DECODE
}

/* A group's weights to bf16. */
typedef void put_narrow(const ml_vector weights[ML_GROUP_VECTORS], uint16_t out[ML_GROUP]);

ML_INLINE void put_plainly(const ml_vector weights[ML_GROUP_VECTORS], uint16_t out[ML_GROUP])
{
    const float *each = (const float *)(const void *)weights;
#pragma omp simd
    for (int i = 0; i < ML_GROUP; i++) out[i] = ml_bf16_from_float(each[i]);
}

ML_INLINE void narrow_groups(put_narrow *put, ml_dtype dtype, const uint8_t *row, int64_t first,
                             int64_t count, uint16_t *out)
{
    const int64_t groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_factors factors;
    for (int64_t g = first / ML_GROUP; g < (first + count) / ML_GROUP; g++, out += ML_GROUP) {
        ml_vector weights[ML_GROUP_VECTORS];
        const uint8_t *block = row + g / groups * bytes;
        if (g % groups == 0 || g == first / ML_GROUP) ml_take_factors(dtype, block, &factors);
        ml_decode_group(dtype, block, (int)(g % groups), &factors, weights);
        put(weights, out);
    }
}

void ML_NATIVE(decode_narrow)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                              uint16_t *out)
{
#define NARROW(constant) narrow_groups(put_plainly, constant, row, first, count, out)
    ML_FOR_BLOCK_FORMAT(dtype, NARROW)
#undef NARROW
}

#if defined(__AVX512F__)

#define WITH_BF16 __attribute__((target("avx512bf16")))

/* The same numbers but where they are subnormal in fp32, which become 0. */
ML_INLINE WITH_BF16 void put_at_once(const ml_vector weights[ML_GROUP_VECTORS],
                                     uint16_t out[ML_GROUP])
{
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)weights[1], (__m512)weights[0]));
}

WITH_BF16 void ML_NATIVE(decode_narrow_at_once)(ml_dtype dtype, const uint8_t *row, int64_t first,
                                                int64_t count, uint16_t *out)
{
#define NARROW(constant) narrow_groups(put_at_once, constant, row, first, count, out)
    ML_FOR_BLOCK_FORMAT(dtype, NARROW)
#undef NARROW
}

#endif
