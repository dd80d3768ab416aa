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
                           float *out){
#define DECODE(constant) decode_groups(constant, row, first, count, out)
    ML_FOR_BLOCK_FORMAT(dtype, DECODE)
#undef DECODE
}

ML_INLINE void narrow_groups(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                             uint16_t *out)
{
    const int64_t groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    ml_factors factors;
    for (int64_t g = first / ML_GROUP; g < (first + count) / ML_GROUP; g++, out += ML_GROUP) {
        ml_vector weights[ML_GROUP_VECTORS];
        const uint8_t *block = row + g / groups * bytes;
        if (g % groups == 0 || g == first / ML_GROUP) ml_take_factors(dtype, block, &factors);
        ml_decode_group(dtype, block, (int)(g % groups), &factors, weights);
        const float *each = (const float *)(const void *)weights;
#pragma omp simd
        for (int i = 0; i < ML_GROUP; i++) out[i] = ml_bf16_from_float(each[i]);
    }
}

void ML_NATIVE(decode_narrow)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                              uint16_t *out)
{
#define NARROW(constant) narrow_groups(constant, row, first, count, out)
    ML_FOR_BLOCK_FORMAT(dtype, NARROW)
#undef NARROW
}
