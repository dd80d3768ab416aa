/* A run of a row of blocks as fp32, on its way into the panels of the product, or as bf16, on its
 * way into those of oneDNN's. */
#include "kernels/native/blocks.h"

ML_INLINE void decode_groups(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                             float *out)
{
    const int64_t groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_factors factors;
    for (int64_t g = first / ML_GROUP; g < (first + count) / ML_GROUP; g++) {
        ml_vector weights[ML_GROUP_VECTORS];
        const uint8_t *block = row + g / groups * bytes;
        if (g % groups == 0 || g == first / ML_GROUP) ml_take_factors(dtype, block, &factors);
        ml_decode_group(dtype, block, (int)(g % groups), &factors, weights);
        for (int v = 0; v < ML_GROUP_VECTORS; v++, out += ML_LANES)
            *(ml_vector *)(void *)out = weights[v];
    }
}

void ML_NATIVE(decode_run)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                           float *out)
{
#define DECODE(constant) decode_groups(constant, row, first, count, out)
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
