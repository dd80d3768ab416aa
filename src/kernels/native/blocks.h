/* Decoding of block formats with vectors, a group of 32 weights at a time: weight i of a group is
 * scale·code + offset, whatever its format. The codes of a group become 32 signed bytes, the rest
 * is the same for all. Every format has its own copy of the code: `dtype` is a constant wherever
 * these are called. (kernels/block_formats.c is the reference.) */
#ifndef MPILORA_KERNELS_NATIVE_BLOCKS_H
#define MPILORA_KERNELS_NATIVE_BLOCKS_H

#include "kernels/block_formats.h"
#include "kernels/native/native.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum { ML_GROUP = 32, ML_GROUP_VECTORS = ML_GROUP / ML_LANES };

/* fp16 at any address. */
ML_INLINE float ml_scale_at(const uint8_t *bytes)
{
#if defined(__F16C__)
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return _cvtsh_ss(half);
#else
    return ml_half_at(bytes);
#endif
}

typedef uint8_t ml_bytes __attribute__((vector_size(16)));
typedef uint8_t ml_bytes_anywhere __attribute__((vector_size(16), aligned(1), may_alias));

/* 32 weights: weight i of half h is scale[h]·(signed) half[h][i] + offset. */
typedef struct ml_coded {
    ml_bytes half[2];
    float scale[2], offset;
} ml_coded;

ML_INLINE ml_bytes ml_load_bytes(const uint8_t *at)
{
    return *(const ml_bytes_anywhere *)(const void *)at;
}

/* ---- codes of one format ------------------------------------------------------------------- */

ML_INLINE void ml_take_nibbles(const uint8_t *q, ml_coded *out)
{
    const ml_bytes both = ml_load_bytes(q);
    out->half[0] = both & 15;
    out->half[1] = both >> 4;
}

/* 16 where the bit of a code is set, else 0. */
ML_INLINE ml_bytes ml_fifth_bits(const uint8_t *two)
{
    typedef uint64_t two_words __attribute__((vector_size(16)));
    const ml_bytes bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint64_t every = 0x0101010101010101U;
    const two_words spread = {two[0] * every, two[1] * every};
    return (ml_bytes)(((ml_bytes)spread & bit) == bit) & 16;
}

ML_INLINE void ml_take_five_bits(const uint8_t *high, const uint8_t *q, ml_coded *out)
{
    ml_take_nibbles(q, out);
    out->half[0] |= ml_fifth_bits(high);
    out->half[1] |= ml_fifth_bits(high + 2);
}

ML_INLINE ml_bytes ml_look_up(const int8_t table[16], ml_bytes code)
{
#if defined(__AVX2__)
    return (ml_bytes)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)table),
                                      (__m128i)code);
#else
    ml_bytes value;
    for (int i = 0; i < 16; i++) value[i] = (uint8_t)table[code[i]];
    return value;
#endif
}

ML_INLINE void ml_take_table(const int8_t table[16], const uint8_t *q, ml_coded *out)
{
    ml_take_nibbles(q, out);
    for (int h = 0; h < 2; h++) out->half[h] = ml_look_up(table, out->half[h]);
}

ML_INLINE void ml_subtract(uint8_t from_codes, ml_coded *out)
{
    for (int h = 0; h < 2; h++) out->half[h] -= from_codes;
}

/* Q4_K and Q5_K: 64 weights share 32 bytes, the group's nibble of each. */
ML_INLINE void ml_take_k(const uint8_t *b, int group, const uint8_t *q, ml_coded *out)
{
    int scale, minimum;
    ml_k_scale_and_minimum(b + 4, group, &scale, &minimum);
    out->scale[0] = out->scale[1] = ml_scale_at(b) * (float)scale;
    out->offset = -(ml_scale_at(b + 2) * (float)minimum);
    for (int h = 0; h < 2; h++) {
        const ml_bytes both = ml_load_bytes(q + group / 2 * 32 + 16 * h);
        out->half[h] = group % 2 ? both >> 4 : both & 15;
    }
}

ML_INLINE void ml_take_q5_k(const uint8_t *b, int group, ml_coded *out)
{
    ml_take_k(b, group, b + 48, out);
    for (int h = 0; h < 2; h++)
        out->half[h] |= (ml_load_bytes(b + 16 + 16 * h) >> (uint8_t)group & 1) << 4;
}

ML_INLINE void ml_take_q6_k(const uint8_t *b, int group, ml_coded *out)
{
    const int8_t *scale = (const int8_t *)(b + 192) + 2 * group;
    const int part = group / 4, quarter = group % 4;
    for (int h = 0; h < 2; h++) {
        const ml_bytes low = ml_load_bytes(b + 64 * part + quarter % 2 * 32 + 16 * h),
                       high = ml_load_bytes(b + 128 + 32 * part + 16 * h);
        out->half[h] =
            ((quarter / 2 ? low >> 4 : low & 15) | (high >> (uint8_t)(2 * quarter) & 3) << 4) - 32;
        out->scale[h] = ml_scale_at(b + 208) * (float)scale[h];
    }
}

/* Group `group` of a block. */
ML_INLINE void ml_take_group(ml_dtype dtype, const uint8_t *b, int group, ml_coded *out)
{
    if (dtype != ML_Q4_K && dtype != ML_Q5_K && dtype != ML_Q6_K)
        out->scale[0] = out->scale[1] = dtype == ML_MXFP4 ? ml_half_of_e8m0(b[0]) : ml_scale_at(b);
    switch (dtype) {
    case ML_Q8_0:
        out->half[0] = ml_load_bytes(b + 2);
        out->half[1] = ml_load_bytes(b + 18);
        return;
    case ML_Q4_0:
        ml_take_nibbles(b + 2, out);
        ml_subtract(8, out);
        return;
    case ML_Q4_1:
        ml_take_nibbles(b + 4, out);
        out->offset = ml_scale_at(b + 2);
        return;
    case ML_Q5_0:
        ml_take_five_bits(b + 2, b + 6, out);
        ml_subtract(16, out);
        return;
    case ML_Q5_1:
        ml_take_five_bits(b + 4, b + 8, out);
        out->offset = ml_scale_at(b + 2);
        return;
    case ML_Q4_K:
        ml_take_k(b, group, b + 16, out);
        return;
    case ML_Q5_K:
        ml_take_q5_k(b, group, out);
        return;
    case ML_Q6_K:
        ml_take_q6_k(b, group, out);
        return;
    case ML_IQ4_NL:
        ml_take_table(ml_iq4_values, b + 2, out);
        return;
    case ML_MXFP4:
        ml_take_table(ml_fp4_doubled, b + 1, out);
        return;
    case ML_FP32:
    case ML_BF16:
    case ML_DTYPES:
        return; /* not in blocks */
    }
}

/* ---- weights ------------------------------------------------------------------------------- */

/* Lanes [part·ML_LANES, …) of 16 signed bytes as floats. */
ML_INLINE ml_vector ml_float_lanes(ml_bytes codes, int part)
{
#if defined(__AVX512F__)
    (void)part;
    return (ml_vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)codes));
#elif defined(__AVX2__)
    const __m128i mine = part ? _mm_srli_si128((__m128i)codes, 8) : (__m128i)codes;
    return (ml_vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(mine));
#else
    ml_vector v;
    for (int l = 0; l < ML_LANES; l++) v[l] = (float)(int8_t)codes[part * ML_LANES + l];
    return v;
#endif
}

ML_INLINE void ml_decode_group(ml_dtype dtype, const uint8_t *block, int group,
                               ml_vector out[ML_GROUP_VECTORS])
{
    enum { A_HALF = 16 / ML_LANES };
    const bool has_offset =
        dtype == ML_Q4_1 || dtype == ML_Q5_1 || dtype == ML_Q4_K || dtype == ML_Q5_K;
    ml_coded coded;
    ml_take_group(dtype, block, group, &coded);
    for (int v = 0; v < ML_GROUP_VECTORS; v++) {
        out[v] = coded.scale[v / A_HALF] * ml_float_lanes(coded.half[v / A_HALF], v % A_HALF);
        if (has_offset) out[v] += coded.offset;
    }
}

/* Bytes of a block and groups in it, as constants. */
ML_INLINE int ml_block_bytes(ml_dtype dtype)
{
    static const int bytes[ML_DTYPES] = {
        [ML_Q8_0] = 34,  [ML_Q4_0] = 18,  [ML_Q4_1] = 20,  [ML_Q5_0] = 22,   [ML_Q5_1] = 24,
        [ML_Q4_K] = 144, [ML_Q5_K] = 176, [ML_Q6_K] = 210, [ML_IQ4_NL] = 18, [ML_MXFP4] = 17};
    return bytes[dtype];
}
ML_INLINE int ml_block_groups(ml_dtype dtype)
{
    return dtype == ML_Q4_K || dtype == ML_Q5_K || dtype == ML_Q6_K ? 8 : 1;
}

/* `call(dtype)` with the dtype as a constant. */
#define ML_FOR_BLOCK_FORMAT(dtype, call) \
    switch (dtype) {                     \
    case ML_Q8_0:                        \
        call(ML_Q8_0);                   \
        break;                           \
    case ML_Q4_0:                        \
        call(ML_Q4_0);                   \
        break;                           \
    case ML_Q4_1:                        \
        call(ML_Q4_1);                   \
        break;                           \
    case ML_Q5_0:                        \
        call(ML_Q5_0);                   \
        break;                           \
    case ML_Q5_1:                        \
        call(ML_Q5_1);                   \
        break;                           \
    case ML_Q4_K:                        \
        call(ML_Q4_K);                   \
        break;                           \
    case ML_Q5_K:                        \
        call(ML_Q5_K);                   \
        break;                           \
    case ML_Q6_K:                        \
        call(ML_Q6_K);                   \
        break;                           \
    case ML_IQ4_NL:                      \
        call(ML_IQ4_NL);                 \
        break;                           \
    case ML_MXFP4:                       \
        call(ML_MXFP4);                  \
        break;                           \
    case ML_FP32:                        \
    case ML_BF16:                        \
    case ML_DTYPES:                      \
        break;                           \
    }

/* block_dots.c: rows [first, first + count) of W times each of T ≤ ML_SMALL_TOKENS rows of x. */
void ML_NATIVE(block_dots)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy);

#endif
