/* The bytes of a K block from the scales (and offsets ≤ 0) of its groups, however these were found.
 * Compiled into the scalar search (quantise_k.c) and into that of each instruction set
 * (native/quantise_search.c): the same operations, so the same bytes, as vectors where the set has
 * them. */
#ifndef MPILORA_KERNELS_QUANTISE_PUT_H
#define MPILORA_KERNELS_QUANTISE_PUT_H

#include <math.h>

#include "kernels/quantise.h"

/* A K block has 8 groups of 32, or 16 of 16. */
enum { K_WEIGHTS = 256, K_GROUP = 32, K_GROUPS = 8, Q6_GROUP = 16, Q6_GROUPS = 16 };

/* The integer from `least` to `most` that is nearest to v, the even one of two. Both are below
 * 2^22. */
static inline float ml_nearest_code(float v, float least, float most)
{
    const float shift = 12582912.0F; /* 1.5·2^23: what is added below its last bit is rounded off */
    v = v < least ? least : v > most ? most : v;
    return v + shift - shift;
}

/* The largest number without its sign. */
static inline float ml_peak_of(const float *x, int n)
{
    float most = 0, value = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        value = a > most ? x[i] : value;
        most = a > most ? a : most;
    }
    return value;
}

/* Six-bit scales and minima into 12 bytes: what ml_k_scale_and_minimum reads. */
static inline void ml_put_k_scales(const int scale[K_GROUPS], const int minimum[K_GROUPS],
                                   uint8_t *q)
{
    for (int j = 0; j < 4; j++) {
        q[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        q[j + 4] = (uint8_t)(minimum[j] | (minimum[j + 4] >> 4) << 6);
        q[j + 8] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

/* Codes of a group, (x + offset)/scale between least and most, from `least` on counted up by `add`;
 * of a scale of 0, that of 0. */
static inline void ml_put_codes(int n, const float *x, float offset, float scale, float least,
                                float most, int add, uint8_t *code)
{
    if (scale == 0) {
        memset(code, add, (size_t)n);
        return;
    }
#pragma omp simd
    for (int i = 0; i < n; i++)
        code[i] = (uint8_t)(add + (int)ml_nearest_code((x[i] + offset) / scale, least, most));
}

/* The head of a block (d, least, 12 bytes) and the codes of all weights. */
static inline void ml_put_k(const float *x, const float scales[K_GROUPS],
                            const float offsets[K_GROUPS], float highest, uint8_t *block,
                            uint8_t code[K_WEIGHTS])
{
    int scale[K_GROUPS], minimum[K_GROUPS];
    float most = 0, deepest = 0;
    for (int j = 0; j < K_GROUPS; j++) {
        most = scales[j] > most ? scales[j] : most;
        deepest = -offsets[j] > deepest ? -offsets[j] : deepest;
    }
    for (int j = 0; j < K_GROUPS; j++) {
        scale[j] = most > 0 ? (int)ml_nearest_code(63 / most * scales[j], 0, 63) : 0;
        minimum[j] = deepest > 0 ? (int)ml_nearest_code(63 / deepest * -offsets[j], 0, 63) : 0;
    }
    ml_put_half(most / 63, block);
    ml_put_half(deepest / 63, block + 2);
    ml_put_k_scales(scale, minimum, block + 4);
    for (int j = 0; j < K_GROUPS; j++)
        ml_put_codes(K_GROUP, x + K_GROUP * j, ml_half_at(block + 2) * (float)minimum[j],
                     ml_half_at(block) * (float)scale[j], 0, highest, 0, code + K_GROUP * j);
}

static inline void ml_put_nibbles(const uint8_t code[K_WEIGHTS], uint8_t *q)
{
    for (int j = 0; j < K_GROUPS; j += 2, q += K_GROUP)
#pragma omp simd
        for (int i = 0; i < K_GROUP; i++)
            q[i] = (uint8_t)((code[K_GROUP * j + i] & 15) | code[K_GROUP * (j + 1) + i] << 4);
}

static inline void ml_put_q4_k(const float *x, const float scale[K_GROUPS],
                               const float offset[K_GROUPS], uint8_t *block)
{
    uint8_t code[K_WEIGHTS];
    ml_put_k(x, scale, offset, 15, block, code);
    ml_put_nibbles(code, block + 16);
}

static inline void ml_put_q5_k(const float *x, const float scale[K_GROUPS],
                               const float offset[K_GROUPS], uint8_t *block)
{
    uint8_t code[K_WEIGHTS], high[K_GROUP] = {0};
    ml_put_k(x, scale, offset, 31, block, code);
    for (int j = 0; j < K_GROUPS; j++)
#pragma omp simd
        for (int i = 0; i < K_GROUP; i++)
            high[i] = (uint8_t)(high[i] | (code[K_GROUP * j + i] >> 4) << j);
    memcpy(block + 16, high, sizeof high);
    ml_put_nibbles(code, block + 48);
}

/* Half of a block: the lower four bits of 128 codes, and their upper two. */
static inline void ml_put_q6_half(const uint8_t code[K_WEIGHTS / 2], uint8_t *low, uint8_t *high)
{
    const uint8_t *a = code, *b = a + K_GROUP, *c = b + K_GROUP, *d = c + K_GROUP;
#pragma omp simd
    for (int i = 0; i < K_GROUP; i++) {
        low[i] = (uint8_t)((a[i] & 15) | c[i] << 4);
        low[K_GROUP + i] = (uint8_t)((b[i] & 15) | d[i] << 4);
        high[i] = (uint8_t)(a[i] >> 4 | b[i] >> 4 << 2 | c[i] >> 4 << 4 | d[i] >> 4 << 6);
    }
}

static inline void ml_put_q6_k(const float *x, const float scales[Q6_GROUPS], uint8_t *block)
{
    int8_t *scale = (int8_t *)(block + 192);
    uint8_t code[K_WEIGHTS];
    const float peak = ml_peak_of(scales, Q6_GROUPS), inverse = -128 / peak;
    memset(block, 0, 210);
    if (fabsf(peak) < 1e-15F) return;
    ml_put_half(1 / inverse, block + 208);
    for (int j = 0; j < Q6_GROUPS; j++) {
        scale[j] = (int8_t)ml_nearest_code(inverse * scales[j], -128, 127);
        ml_put_codes(Q6_GROUP, x + Q6_GROUP * j, 0, ml_half_at(block + 208) * (float)scale[j], -32,
                     31, 32, code + Q6_GROUP * j);
    }
    for (int h = 0; h < 2; h++)
        ml_put_q6_half(code + K_WEIGHTS / 2 * h, block + 64 * h, block + 128 + 32 * h);
}

#endif
