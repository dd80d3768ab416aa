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

/* What a block's codes are multiplied with and what is added then: weight i of group g is
 * scale·code + offset with scale[g], or in Q6_K scale[2g] and scale[2g + 1] for its halves. Formats
 * of one group have only the first. */
typedef struct ml_factors {
    _Alignas(64) float scale[16], offset[8];
} ml_factors;

/* 32 codes, signed unless the format's offset makes up for it. */
typedef struct ml_codes {
#if defined(__AVX2__)
    __m256i all;
#else
    ml_bytes half[2];
#endif
} ml_codes;

ML_INLINE ml_bytes ml_load_bytes(const uint8_t *at)
{
    return *(const ml_bytes_anywhere *)(const void *)at;
}

/* ---- factors ------------------------------------------------------------------------------- */

#if defined(__AVX2__)

/* The eight six-bit scales of Q4_K and Q5_K, then their minima, as bytes: the first four of each
 * lie in eight bytes, whose upper two bits go to the others. */
ML_INLINE __m128i ml_k_bytes(const uint8_t *b)
{
    const uint64_t six = 0x3f3f3f3f3f3f3f3fU, two = 0x0303030303030303U;
    const uint32_t four = 0x0f0f0f0fU;
    uint64_t first;
    uint32_t low;
    memcpy(&first, b, sizeof first);
    memcpy(&low, b + sizeof first, sizeof low);
    const uint64_t others =
        (low & four) | (uint64_t)(low >> 4 & four) << 32 | (first >> 6 & two) << 4;
    return _mm_shuffle_epi32(_mm_set_epi64x((long long)others, (long long)(first & six)),
                             _MM_SHUFFLE(3, 1, 2, 0));
}

#endif

ML_INLINE void ml_take_k_factors(const uint8_t *b, ml_factors *out)
{
    const float d = ml_scale_at(b), least = -ml_scale_at(b + 2);
#if defined(__AVX2__)
    const __m128i both = ml_k_bytes(b + 4);
    _mm256_store_ps(out->scale, _mm256_mul_ps(_mm256_set1_ps(d),
                                              _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(both))));
    _mm256_store_ps(out->offset,
                    _mm256_mul_ps(_mm256_set1_ps(least), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(
                                                             _mm_srli_si128(both, 8)))));
#else
    for (int j = 0; j < 8; j++) {
        int scale, minimum;
        ml_k_scale_and_minimum(b + 4, j, &scale, &minimum);
        out->scale[j] = d * (float)scale;
        out->offset[j] = least * (float)minimum;
    }
#endif
}

ML_INLINE void ml_take_q6_factors(const uint8_t *b, ml_factors *out)
{
    const float d = ml_scale_at(b + 208);
#if defined(__AVX2__)
    const __m128i all = (__m128i)ml_load_bytes(b + 192);
    for (int j = 0; j < 2; j++)
        _mm256_store_ps(out->scale + 8 * j,
                        _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
                                                             j ? _mm_srli_si128(all, 8) : all))));
#else
    for (int j = 0; j < 16; j++) out->scale[j] = d * (float)(int8_t)b[192 + j];
#endif
}

ML_INLINE void ml_take_factors(ml_dtype dtype, const uint8_t *b, ml_factors *out)
{
    if (dtype == ML_Q4_K || dtype == ML_Q5_K) {
        ml_take_k_factors(b, out);
    } else if (dtype == ML_Q6_K) {
        ml_take_q6_factors(b, out);
    } else {
        *out->scale = dtype == ML_MXFP4 ? ml_half_of_e8m0(b[0]) : ml_scale_at(b);
        if (dtype == ML_Q4_1 || dtype == ML_Q5_1) *out->offset = ml_scale_at(b + 2);
    }
}

/* ---- codes --------------------------------------------------------------------------------- */

#if defined(__AVX2__)

ML_INLINE __m256i ml_load_codes(const uint8_t *at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)at);
}

ML_INLINE __m256i ml_nibbles(const uint8_t *q)
{
    const __m128i both = (__m128i)ml_load_bytes(q);
    return _mm256_and_si256(
        _mm256_inserti128_si256(_mm256_castsi128_si256(both), _mm_srli_epi16(both, 4), 1),
        _mm256_set1_epi8(15));
}

/* 16 more where the bit of a code is set. */
ML_INLINE __m256i ml_add_fifth_bits(__m256i codes, const uint8_t *high)
{
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
#if defined(__AVX512BW__)
    return _mm256_mask_add_epi8(codes, bits, codes, _mm256_set1_epi8(16));
#else
    const __m256i byte = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202,
                                           0x0101010101010101, 0),
                  bit = _mm256_set1_epi64x((long long)0x8040201008040201U);
    const __m256i spread =
        _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte), bit);
    return _mm256_or_si256(codes,
                           _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16)));
#endif
}

ML_INLINE __m256i ml_look_up(const int8_t table[16], const uint8_t *q)
{
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half), ml_nibbles(q));
}

/* The nibbles of group `group` in K formats: of 64 weights in 32 bytes the lower or the upper. */
ML_INLINE __m256i ml_k_nibbles(const uint8_t *q, bool upper)
{
    const __m256i both = ml_load_codes(q);
    return _mm256_and_si256(upper ? _mm256_srli_epi16(both, 4) : both, _mm256_set1_epi8(15));
}

ML_INLINE __m256i ml_q5_k_codes(const uint8_t *b, int group)
{
    const __m256i low = ml_k_nibbles(b + 48 + group / 2 * 32, group % 2),
                  high = ml_load_codes(b + 16), bit = _mm256_set1_epi8((char)(1 << group));
#if defined(__AVX512BW__)
    return _mm256_mask_add_epi8(low, _mm256_test_epi8_mask(high, bit), low, _mm256_set1_epi8(16));
#else
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    return _mm256_or_si256(low, _mm256_and_si256(set, _mm256_set1_epi8(16)));
#endif
}

ML_INLINE __m256i ml_q6_k_codes(const uint8_t *b, int group)
{
    const int part = group / 4, quarter = group % 4;
    const __m256i low = ml_k_nibbles(b + 64 * part + quarter % 2 * 32, quarter / 2),
                  high = ml_load_codes(b + 128 + 32 * part), mask = _mm256_set1_epi8(0x30);
    const __m256i two = quarter == 0   ? _mm256_slli_epi16(high, 4)
                        : quarter == 1 ? _mm256_slli_epi16(high, 2)
                        : quarter == 2 ? high
                                       : _mm256_srli_epi16(high, 2);
    return _mm256_or_si256(low, _mm256_and_si256(two, mask));
}

/* Group `group` of a block, `more` added to every code. */
ML_INLINE void ml_take_codes(ml_dtype dtype, const uint8_t *b, int group, int more, ml_codes *out)
{
    switch (dtype) {
    case ML_Q8_0:
        out->all = ml_load_codes(b + 2);
        break;
    case ML_Q4_0:
        more -= 8;
        out->all = ml_nibbles(b + 2);
        break;
    case ML_Q4_1:
        out->all = ml_nibbles(b + 4);
        break;
    case ML_Q5_0:
        more -= 16;
        out->all = ml_add_fifth_bits(ml_nibbles(b + 6), b + 2);
        break;
    case ML_Q5_1:
        out->all = ml_add_fifth_bits(ml_nibbles(b + 8), b + 4);
        break;
    case ML_Q4_K:
        out->all = ml_k_nibbles(b + 16 + group / 2 * 32, group % 2);
        break;
    case ML_Q5_K:
        out->all = ml_q5_k_codes(b, group);
        break;
    case ML_Q6_K:
        more -= 32;
        out->all = ml_q6_k_codes(b, group);
        break;
    case ML_IQ4_NL:
        out->all = ml_look_up(ml_iq4_values, b + 2);
        break;
    case ML_MXFP4:
        out->all = ml_look_up(ml_fp4_doubled, b + 1);
        break;
    case ML_FP32:
    case ML_BF16:
    case ML_DTYPES:
        return; /* not in blocks */
    }
    if (more) out->all = _mm256_add_epi8(out->all, _mm256_set1_epi8((char)more));
}

#else

ML_INLINE void ml_take_nibbles(const uint8_t *q, ml_codes *out)
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

ML_INLINE void ml_take_five_bits(const uint8_t *high, const uint8_t *q, ml_codes *out)
{
    ml_take_nibbles(q, out);
    out->half[0] |= ml_fifth_bits(high);
    out->half[1] |= ml_fifth_bits(high + 2);
}

ML_INLINE void ml_take_table(const int8_t table[16], const uint8_t *q, ml_codes *out)
{
    ml_take_nibbles(q, out);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 16; i++) out->half[h][i] = (uint8_t)table[out->half[h][i]];
}

/* Q4_K and Q5_K: 64 weights share 32 bytes, the group's nibble of each. */
ML_INLINE void ml_take_k(const uint8_t *q, int group, ml_codes *out)
{
    for (int h = 0; h < 2; h++) {
        const ml_bytes both = ml_load_bytes(q + group / 2 * 32 + 16 * h);
        out->half[h] = group % 2 ? both >> 4 : both & 15;
    }
}

ML_INLINE void ml_take_q6_k(const uint8_t *b, int group, ml_codes *out)
{
    const int part = group / 4, quarter = group % 4;
    for (int h = 0; h < 2; h++) {
        const ml_bytes low = ml_load_bytes(b + 64 * part + quarter % 2 * 32 + 16 * h),
                       high = ml_load_bytes(b + 128 + 32 * part + 16 * h);
        out->half[h] = (quarter / 2 ? low >> 4 : low & 15) | (high >> (uint8_t)(2 * quarter) & 3)
                                                                 << 4;
    }
}

/* Group `group` of a block, `more` added to every code. */
ML_INLINE void ml_take_codes(ml_dtype dtype, const uint8_t *b, int group, int more, ml_codes *out)
{
    switch (dtype) {
    case ML_Q8_0:
        out->half[0] = ml_load_bytes(b + 2);
        out->half[1] = ml_load_bytes(b + 18);
        break;
    case ML_Q4_0:
        more -= 8;
        ml_take_nibbles(b + 2, out);
        break;
    case ML_Q4_1:
        ml_take_nibbles(b + 4, out);
        break;
    case ML_Q5_0:
        more -= 16;
        ml_take_five_bits(b + 2, b + 6, out);
        break;
    case ML_Q5_1:
        ml_take_five_bits(b + 4, b + 8, out);
        break;
    case ML_Q4_K:
        ml_take_k(b + 16, group, out);
        break;
    case ML_Q5_K:
        ml_take_k(b + 48, group, out);
        for (int h = 0; h < 2; h++)
            out->half[h] |= (ml_load_bytes(b + 16 + 16 * h) >> (uint8_t)group & 1) << 4;
        break;
    case ML_Q6_K:
        more -= 32;
        ml_take_q6_k(b, group, out);
        break;
    case ML_IQ4_NL:
        ml_take_table(ml_iq4_values, b + 2, out);
        break;
    case ML_MXFP4:
        ml_take_table(ml_fp4_doubled, b + 1, out);
        break;
    case ML_FP32:
    case ML_BF16:
    case ML_DTYPES:
        return; /* not in blocks */
    }
    for (int h = 0; h < 2; h++) out->half[h] += (uint8_t)more;
}

#endif

/* ---- weights ------------------------------------------------------------------------------- */

/* Lanes [part·ML_LANES, …) of 32 signed bytes as floats. */
ML_INLINE ml_vector ml_float_lanes(const ml_codes *codes, int part)
{
#if defined(__AVX512F__)
    return (ml_vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
        part ? _mm256_extracti128_si256(codes->all, 1) : _mm256_castsi256_si128(codes->all)));
#elif defined(__AVX2__)
    const __m128i half =
        part / 2 ? _mm256_extracti128_si256(codes->all, 1) : _mm256_castsi256_si128(codes->all);
    return (ml_vector)_mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(part % 2 ? _mm_srli_si128(half, 8) : half));
#else
    ml_vector v;
    for (int l = 0; l < ML_LANES; l++) {
        const int at = part * ML_LANES + l;
        v[l] = (float)(int8_t)codes->half[at / 16][at % 16];
    }
    return v;
#endif
}

ML_INLINE bool ml_has_offset(ml_dtype dtype)
{
    return dtype == ML_Q4_1 || dtype == ML_Q5_1 || dtype == ML_Q4_K || dtype == ML_Q5_K;
}

/* Group `group` of a block whose factors are these. */
ML_INLINE void ml_decode_group(ml_dtype dtype, const uint8_t *block, int group,
                               const ml_factors *factors, ml_vector out[ML_GROUP_VECTORS])
{
    enum { A_HALF = 16 / ML_LANES };
    ml_codes codes;
    ml_take_codes(dtype, block, group, 0, &codes);
    for (int v = 0; v < ML_GROUP_VECTORS; v++) {
        const float scale = factors->scale[dtype == ML_Q6_K ? 2 * group + v / A_HALF : group];
        out[v] = scale * ml_float_lanes(&codes, v);
        if (ml_has_offset(dtype)) out[v] += factors->offset[group];
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

/* `call(dtype)` with the dtype as a constant: of the formats in blocks of 32, of 256, of all. */
#define ML_FOR_SMALL_BLOCK_FORMAT(dtype, call) \
    switch (dtype) {                           \
    case ML_Q8_0:                              \
        call(ML_Q8_0);                         \
        break;                                 \
    case ML_Q4_0:                              \
        call(ML_Q4_0);                         \
        break;                                 \
    case ML_Q4_1:                              \
        call(ML_Q4_1);                         \
        break;                                 \
    case ML_Q5_0:                              \
        call(ML_Q5_0);                         \
        break;                                 \
    case ML_Q5_1:                              \
        call(ML_Q5_1);                         \
        break;                                 \
    case ML_IQ4_NL:                            \
        call(ML_IQ4_NL);                       \
        break;                                 \
    case ML_MXFP4:                             \
        call(ML_MXFP4);                        \
        break;                                 \
    default:                                   \
        break;                                 \
    }

#define ML_FOR_K_FORMAT(dtype, call) \
    switch (dtype) {                 \
    case ML_Q4_K:                    \
        call(ML_Q4_K);               \
        break;                       \
    case ML_Q5_K:                    \
        call(ML_Q5_K);               \
        break;                       \
    case ML_Q6_K:                    \
        call(ML_Q6_K);               \
        break;                       \
    default:                         \
        break;                       \
    }

#define ML_FOR_BLOCK_FORMAT(dtype, call)   \
    ML_FOR_SMALL_BLOCK_FORMAT(dtype, call) \
    ML_FOR_K_FORMAT(dtype, call)

/* block_dots.c, few_panels.c: rows [first, first + count) of W times each of T rows of x, of which
 * the first takes ML_SMALL_TOKENS at most. */
void ML_NATIVE(block_dots)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy);
#if defined(__AVX2__)
void ML_NATIVE(few_panels)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                           int64_t first, int64_t count, float beta, float *y, int64_t ldy);
#endif

#endif
