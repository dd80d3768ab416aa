/* What the products of one instruction set are made of: the codes of 32 weights as bytes, and dot
 * products of bytes. The instructions that there are multiply unsigned by signed bytes, so codes of
 * weights are made unsigned by adding a bias, and what that adds to a product, bias·Σ codes of x,
 * is taken off where its sum starts (ml_rounded.start). AVX2 adds two products in 16 bits, which
 * codes above 127 would overflow: there the two formats that have such codes stay signed, and the
 * sign moves to x. */
#ifndef MPILORA_KERNELS_ROUNDED_CODES_H
#define MPILORA_KERNELS_ROUNDED_CODES_H

#include "kernels/native/blocks.h"
#include "kernels/rounded.h"

/* Codes that need all of a signed byte. */
ML_INLINE bool ml_is_wide(ml_dtype dtype) { return dtype == ML_Q8_0 || dtype == ML_IQ4_NL; }

ML_INLINE bool ml_stays_signed(ml_dtype dtype)
{
#if defined(__AVX512VNNI__)
    (void)dtype;
    return false;
#else
    return ml_is_wide(dtype);
#endif
}

ML_INLINE int ml_code_bias(ml_dtype dtype)
{
    if (ml_is_wide(dtype)) return ml_stays_signed(dtype) ? 0 : 128;
    return dtype == ML_Q6_K                        ? 32
           : dtype == ML_Q5_0 || dtype == ML_MXFP4 ? 16
           : dtype == ML_Q4_0                      ? 8
                                                   : 0;
}

#if defined(__AVX512VNNI__)

ML_INLINE __m512i ml_twice(const uint8_t *at) { return _mm512_broadcast_i64x4(ml_load_codes(at)); }

/* 32 bytes a, 32 bytes b; 16 numbers of 16 bits each. */
ML_INLINE __m512i ml_bytes_of(int a, int b)
{
    return _mm512_inserti64x4(_mm512_set1_epi8((char)a), _mm256_set1_epi8((char)b), 1);
}

ML_INLINE __m512i ml_shorts_of(int a, int b)
{
    return _mm512_inserti64x4(_mm512_set1_epi16((short)a), _mm256_set1_epi16((short)b), 1);
}

/* Groups 2·pair and 2·pair + 1 of a block of eight, with the bias. */
ML_INLINE __m512i ml_take_pair(ml_dtype dtype, const uint8_t *b, int pair)
{
    const __m512i low = _mm512_set1_epi8(15);
    if (dtype == ML_Q6_K) {
        const int part = pair / 2, upper = pair % 2;
        const __m512i both = _mm512_loadu_si512(b + 64 * part),
                      high = ml_twice(b + 128 + 32 * part),
                      two = upper ? _mm512_srlv_epi16(high, ml_shorts_of(0, 2))
                                  : _mm512_sllv_epi16(high, ml_shorts_of(4, 2)),
                      nibble = upper ? _mm512_srli_epi16(both, 4) : both;
        return _mm512_or_si512(_mm512_and_si512(nibble, low),
                               _mm512_and_si512(two, _mm512_set1_epi8(0x30)));
    }
    const uint8_t *q = b + (dtype == ML_Q4_K ? 16 : 48) + 32 * pair;
    const __m512i codes = _mm512_and_si512(_mm512_srlv_epi16(ml_twice(q), ml_shorts_of(0, 4)), low);
    if (dtype == ML_Q4_K) return codes;
    const __mmask64 fifth =
        _mm512_test_epi8_mask(ml_twice(b + 16), ml_bytes_of(1 << (2 * pair), 2 << (2 * pair)));
    return _mm512_mask_add_epi8(codes, fifth, codes, _mm512_set1_epi8(16));
}

#endif

/* Scales for 16 weights, not for 32. */
ML_INLINE bool ml_has_halves(ml_dtype dtype) { return dtype == ML_Q6_K; }

/* ---- sums of products of a row with a row --------------------------------------------------- */

#if defined(__AVX2__)
typedef __m256i ml_ints;
typedef __m256 ml_floats;
#else
typedef float ml_floats;
#endif

#if defined(__AVX2__)

/* sum + the products of 32 bytes, four of them a lane. */
ML_INLINE ml_ints ml_dot_bytes(bool is_signed, ml_ints sum, __m256i w, __m256i x)
{
#if defined(__AVX512VNNI__)
    (void)is_signed;
    return _mm256_dpbusd_epi32(sum, w, x);
#else
    const __m256i pairs = is_signed
                              ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                              : _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

/* sum + scale · a block's dot product with x, whose sum starts from *start. */
ML_INLINE ml_floats ml_add_group(ml_dtype dtype, ml_floats sum, const ml_codes *w, const int8_t *x,
                                 const int32_t *start, float scale)
{
    __m256i first = _mm256_setzero_si256();
    if (ml_code_bias(dtype))
        first = _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_cvtsi32_si128(*start), 0);
    const __m256i ints = ml_dot_bytes(ml_stays_signed(dtype), first, w->all,
                                      _mm256_loadu_si256((const __m256i *)(const void *)x));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints), _mm256_set1_ps(scale), sum);
}

/* sum + a block's offset · the sum of x's. */
ML_INLINE ml_floats ml_add_offset(ml_floats sum, float offset, const float *x)
{
    return _mm256_add_ps(sum, _mm256_zextps128_ps256(_mm_set_ss(offset * *x)));
}

ML_INLINE float ml_add_lanes(ml_floats sum)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

ML_INLINE ml_floats ml_no_floats(void) { return _mm256_setzero_ps(); }

#else

ML_INLINE ml_floats ml_add_group(ml_dtype dtype, ml_floats sum, const ml_codes *w, const int8_t *x,
                                 const int32_t *start, float scale)
{
    int32_t dot = ml_code_bias(dtype) ? *start : 0;
    for (int i = 0; i < ML_GROUP; i++) {
        const uint8_t code = w->half[i / 16][i % 16];
        dot += (ml_stays_signed(dtype) ? (int8_t)code : code) * x[i];
    }
    return sum + (float)dot * scale;
}

ML_INLINE ml_floats ml_add_offset(ml_floats sum, float offset, const float *x)
{
    return sum + offset * *x;
}
ML_INLINE float ml_add_lanes(ml_floats sum) { return sum; }
ML_INLINE ml_floats ml_no_floats(void) { return 0; }

#endif

/* dots.c, dots_k.c: rows [first, first + count) of W times T ≤ ML_SMALL_TOKENS rows of x. */
void ML_NATIVE(rounded_dots)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                             int64_t count, float beta, float *y, int64_t ldy);
void ML_NATIVE(rounded_dots_k)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                               int64_t count, float beta, float *y, int64_t ldy);
/* panels.c: the same of any T. */
void ML_NATIVE(rounded_panels)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                               int64_t count, float beta, float *y, int64_t ldy);

/* fine.c */
extern const ml_fine_products ML_NATIVE(fine_products);

#endif
