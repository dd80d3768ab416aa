/* Sixteen blocks of 32 at once, with AVX-512: what a block's scale follows from is found for all of
 * them in one vector, a lane a block, so that no block waits for its own divisions; then their
 * codes. Bytes and losses are those of quantise_plain.c, whose words are used here. What happens
 * seldom (numbers that are not finite or that no block can hold, zeros and ties where the first of
 * equal numbers counts, powers of two beside which log2f rounds up) is left to it. This file is
 * compiled without contraction, too. */
#include "kernels/native/quantise.h"

#if defined(__AVX512F__)
#include <immintrin.h>

enum { N = 32, BLOCKS = 16, LANES = 16 };

typedef __m512 (*choice)(__m512, __m512);

ML_INLINE __m512 greater(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
ML_INLINE __m512 less(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
ML_INLINE __m512 at(const float *x, int block, int half)
{
    return _mm512_loadu_ps(x + N * block + LANES * half);
}

/* Lane b: the one of all lanes of v[b], by pairs of vectors, of which one is left each time. */
ML_INLINE __m512 of_each(__m512 v[BLOCKS], choice of)
{
    for (int i = 0; i < 12; i = i == 3 ? 8 : i + 1)
        v[i] = of(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x44),
                  _mm512_shuffle_f32x4(v[i], v[i + 4], 0xee));
    for (int i = 0; i < 4; i++)
        v[i] = of(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x88),
                  _mm512_shuffle_f32x4(v[i], v[i + 8], 0xdd));
    for (int i = 0; i < 2; i++)
        v[i] = of(_mm512_unpacklo_ps(v[i], v[i + 2]), _mm512_unpackhi_ps(v[i], v[i + 2]));
    return of(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
}

/* The largest without its sign of each block; those that are not finite are above all others or
 * not equal to themselves. */
ML_INLINE __m512 magnitudes(const float *x)
{
    __m512 v[BLOCKS];
    for (int b = 0; b < BLOCKS; b++)
        v[b] = _mm512_max_ps(_mm512_abs_ps(at(x, b, 0)), _mm512_abs_ps(at(x, b, 1)));
    return of_each(v, greater);
}

ML_INLINE void ends(const float *x, __m512 *low, __m512 *high)
{
    __m512 v[BLOCKS], w[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        v[b] = _mm512_min_ps(at(x, b, 0), at(x, b, 1));
        w[b] = _mm512_max_ps(at(x, b, 0), at(x, b, 1));
    }
    *low = of_each(v, less);
    *high = of_each(w, greater);
}

/* A maximum may pass over a NaN. */
ML_INLINE bool all_finite(const float *x)
{
    const __m512i sign = _mm512_set1_epi32(0x7fffffff), most = _mm512_set1_epi32(0x7f7fc99e);
    __m512i all = _mm512_setzero_si512();
    for (int i = 0; i < N * BLOCKS; i += LANES)
        all = _mm512_max_epi32(all, _mm512_and_si512(_mm512_loadu_si512(x + i), sign));
    return _mm512_cmpgt_epi32_mask(all, most) == 0; /* 3.4e38 */
}

/* fp16 of each; what they say; false where one is Inf. */
ML_INLINE bool halves(__m512 d, uint16_t half[BLOCKS], __m512 *said)
{
    __m256i h = _mm512_cvtps_ph(d, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((void *)half, h);
    *said = _mm512_cvtph_ps(h);
    return _mm512_cmp_ps_mask(_mm512_abs_ps(*said), _mm512_set1_ps(65504), _CMP_NLE_UQ) == 0;
}

/* 1/d of what is not 0, where that is finite everywhere. */
ML_INLINE bool inverses(__m512 d, __m512 *i)
{
    *i = _mm512_div_ps(_mm512_set1_ps(1), d);
    return _mm512_cmp_ps_mask(_mm512_abs_ps(*i), _mm512_set1_ps(3.4e38F), _CMP_NLE_UQ) == 0;
}

typedef struct sums {
    __m512d lost, whole;
} sums;

ML_INLINE void lose_half(__m256 x, __m256 back, sums *s)
{
    __m512d w = _mm512_cvtps_pd(x), e = _mm512_sub_pd(_mm512_cvtps_pd(back), w);
    s->lost = _mm512_add_pd(s->lost, _mm512_mul_pd(e, e));
    s->whole = _mm512_add_pd(s->whole, _mm512_mul_pd(w, w));
}

ML_INLINE void lose(__m512 x, __m512 back, sums *s)
{
    lose_half(_mm512_castps512_ps256(x), _mm512_castps512_ps256(back), s);
    lose_half(_mm512_extractf32x8_ps(x, 1), _mm512_extractf32x8_ps(back, 1), s);
}

ML_INLINE void put_nibbles(__m512i low, __m512i high, uint8_t *q)
{
    __m512i both = _mm512_or_si512(low, _mm512_slli_epi32(high, 4));
    _mm_storeu_si128((void *)q, _mm512_cvtepi32_epi8(both));
}

ML_INLINE bool q8_0(const float *x, uint8_t *out, sums *s)
{
    uint16_t half[BLOCKS];
    float scale[BLOCKS], factor[BLOCKS];
    __m512 d = _mm512_div_ps(magnitudes(x), _mm512_set1_ps(127)), said, i;
    if (!halves(d, half, &said) || !inverses(d, &i)) return false;
    _mm512_storeu_ps(scale, i);
    _mm512_storeu_ps(factor, said);
    const __m512 sign = _mm512_set1_ps(-0.0F), to_next = _mm512_set1_ps(0.5F);
    for (int b = 0; b < BLOCKS; b++, out += 34) {
        memcpy(out, &half[b], sizeof half[b]);
        for (int h = 0; h < 2; h++) {
            __m512 w = at(x, b, h), v = _mm512_mul_ps(w, _mm512_set1_ps(scale[b]));
            v = _mm512_add_ps(v, _mm512_or_ps(to_next, _mm512_and_ps(v, sign)));
            __m512i code = _mm512_cvttps_epi32(v);
            _mm_storeu_si128((void *)(out + 2 + LANES * h), _mm512_cvtepi32_epi8(code));
            lose(w, _mm512_mul_ps(_mm512_set1_ps(factor[b]), _mm512_cvtepi32_ps(code)), s);
        }
    }
    return true;
}

/* Codes ⌊(x − from)·scale + half⌋ of each block, as nibbles behind the fifth bits, and what they
 * lose as (code − zero)·factor + from as it is said. */
typedef struct by_steps {
    int codes, zero;
    float half, from[BLOCKS], scale[BLOCKS], factor[BLOCKS], least[BLOCKS];
} by_steps;

ML_INLINE void put_codes(const float *x, const by_steps *y, int64_t bytes, uint8_t *out, sums *s)
{
    const __m512 half = _mm512_set1_ps(y->half);
    const __m512i last = _mm512_set1_epi32(y->codes - 1), zero = _mm512_set1_epi32(y->zero);
    for (int b = 0; b < BLOCKS; b++, out += bytes) {
        __m512i code[2];
        for (int h = 0; h < 2; h++) {
            __m512 w = at(x, b, h), v = _mm512_sub_ps(w, _mm512_set1_ps(y->from[b]));
            v = _mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(y->scale[b])), half);
            code[h] = _mm512_min_epi32(_mm512_cvttps_epi32(v), last);
            __m512 step = _mm512_cvtepi32_ps(_mm512_sub_epi32(code[h], zero)),
                   back = _mm512_mul_ps(_mm512_set1_ps(y->factor[b]), step);
            lose(w, _mm512_add_ps(back, _mm512_set1_ps(y->least[b])), s);
        }
        uint8_t *q = out;
        if (y->codes == 32) {
            const __m512i fifth = _mm512_set1_epi32(16), fifteen = _mm512_set1_epi32(15);
            uint32_t high = (uint32_t)_mm512_test_epi32_mask(code[0], fifth) |
                            (uint32_t)_mm512_test_epi32_mask(code[1], fifth) << 16;
            memcpy(q, &high, sizeof high);
            q += sizeof high;
            code[0] = _mm512_and_si512(code[0], fifteen);
            code[1] = _mm512_and_si512(code[1], fifteen);
        }
        put_nibbles(code[0], code[1], q);
    }
}

ML_INLINE bool by_largest(const float *x, int codes, int64_t bytes, uint8_t *out, sums *s)
{
    by_steps y = {.codes = codes, .zero = codes / 2, .half = (float)(codes / 2) + 0.5F};
    uint16_t half[BLOCKS];
    __m512 low, high, said, i;
    ends(x, &low, &high);
    __m512 down = _mm512_sub_ps(_mm512_setzero_ps(), low);
    if (_mm512_cmp_ps_mask(high, down, _CMP_EQ_OQ)) return false; /* the first of both signs */
    __m512 largest = _mm512_mask_mov_ps(low, _mm512_cmp_ps_mask(high, down, _CMP_GT_OQ), high);
    __m512 d = _mm512_div_ps(largest, _mm512_set1_ps((float)(codes / -2)));
    if (!halves(d, half, &said) || !inverses(d, &i)) return false;
    _mm512_storeu_ps(y.scale, i);
    _mm512_storeu_ps(y.factor, said);
    for (int b = 0; b < BLOCKS; b++) memcpy(out + bytes * b, &half[b], sizeof half[b]);
    put_codes(x, &y, bytes, out + sizeof *half, s);
    return true;
}

ML_INLINE bool by_ends(const float *x, int codes, int64_t bytes, uint8_t *out, sums *s)
{
    by_steps y = {.codes = codes, .half = 0.5F};
    uint16_t half[BLOCKS], least[BLOCKS];
    __m512 low, high, said, said_low, i;
    ends(x, &low, &high);
    if (_mm512_cmp_ps_mask(low, _mm512_setzero_ps(), _CMP_EQ_OQ)) return false; /* of 0 and −0 */
    __m512 d = _mm512_div_ps(_mm512_sub_ps(high, low), _mm512_set1_ps((float)(codes - 1)));
    if (!halves(d, half, &said) || !halves(low, least, &said_low) || !inverses(d, &i)) return false;
    _mm512_storeu_ps(y.from, low);
    _mm512_storeu_ps(y.scale, i);
    _mm512_storeu_ps(y.factor, said);
    _mm512_storeu_ps(y.least, said_low);
    for (int b = 0; b < BLOCKS; b++) {
        memcpy(out + bytes * b, &half[b], sizeof half[b]);
        memcpy(out + bytes * b + sizeof *half, &least[b], sizeof least[b]);
    }
    put_codes(x, &y, bytes, out + 2 * sizeof *half, s);
    return true;
}

/* Codes of numbers ≥ 0 in halves of a unit, to the nearest and the smaller of two: from 2 on the
 * values have one bit behind the first, below that there are 1 and 0. */
ML_INLINE __m512i fp4(__m512 a)
{
    const __m512 two = _mm512_set1_ps(2);
    __m512i bits = _mm512_castps_si512(_mm512_max_ps(a, two)),
            code = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x1fffff)), 22);
    const __m512i one = _mm512_set1_epi32(1);
    code = _mm512_sub_epi32(code, _mm512_set1_epi32((0x40000000 >> 22) - 2));
    code = _mm512_min_epi32(code, _mm512_set1_epi32(7));
    code = _mm512_mask_sub_epi32(code, _mm512_cmp_ps_mask(a, _mm512_set1_ps(1.5F), _CMP_LE_OQ),
                                 code, one);
    return _mm512_mask_sub_epi32(code, _mm512_cmp_ps_mask(a, _mm512_set1_ps(0.5F), _CMP_LE_OQ),
                                 code, one);
}

ML_INLINE bool mxfp4(const float *x, uint8_t *out, sums *s)
{
    enum { LEAST = 24, MOST = 250 }; /* exponents with no rounding near the ends of fp32 */
    const __m512i most = _mm512_castps_si512(magnitudes(x)),
                  e = _mm512_sub_epi32(_mm512_srli_epi32(most, 23), _mm512_set1_epi32(2));
    const __m512i behind = _mm512_and_si512(most, _mm512_set1_epi32(0x7fffff));
    if (_mm512_cmpgt_epi32_mask(behind, _mm512_set1_epi32(0x7fefff)) |
        _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(LEAST), e) |
        _mm512_cmpgt_epi32_mask(e, _mm512_set1_epi32(MOST)))
        return false;
    int32_t exponent[BLOCKS];
    _mm512_storeu_si512(exponent, e);
    const __m512 value = _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, 1, 2, 3, 4, 6, 8, 12);
    const __m512 minus = _mm512_set1_ps(-0.0F);
    for (int b = 0; b < BLOCKS; b++, out += 17) {
        __m512i code[2];
        __m512 d = _mm512_set1_ps(ml_float_of_bits((uint32_t)(exponent[b] - 1) << 23)),
               per_d = _mm512_set1_ps(ml_float_of_bits((uint32_t)(255 - exponent[b]) << 23));
        out[0] = (uint8_t)exponent[b];
        for (int h = 0; h < 2; h++) {
            __m512 w = at(x, b, h);
            code[h] = fp4(_mm512_mul_ps(_mm512_abs_ps(w), per_d));
            __m512 back = _mm512_mul_ps(d, _mm512_permutexvar_ps(code[h], value));
            lose(w, _mm512_or_ps(back, _mm512_and_ps(w, minus)), s);
            __mmask16 below = _mm512_movepi32_mask(_mm512_castps_si512(w)) &
                              _mm512_test_epi32_mask(code[h], code[h]);
            code[h] = _mm512_mask_add_epi32(code[h], below, code[h], _mm512_set1_epi32(8));
        }
        put_nibbles(code[0], code[1], out + 1);
    }
    return true;
}

ML_INLINE bool sixteen(int number, const float *x, uint8_t *out, sums *s)
{
    return number == ML_GGUF_Q8_0   ? q8_0(x, out, s)
           : number == ML_GGUF_Q4_0 ? by_largest(x, 16, 18, out, s)
           : number == ML_GGUF_Q4_1 ? by_ends(x, 16, 20, out, s)
           : number == ML_GGUF_Q5_0 ? by_largest(x, 32, 22, out, s)
           : number == ML_GGUF_Q5_1 ? by_ends(x, 32, 24, out, s)
                                    : mxfp4(x, out, s);
}

ML_INLINE int64_t all(int number, int64_t bytes, const float *x, int64_t count, uint8_t *out,
                      ml_loss *loss)
{
    sums s = {_mm512_loadu_pd(loss->lost), _mm512_loadu_pd(loss->whole)};
    int64_t i = 0;
    while (count - i >= BLOCKS && all_finite(x + N * i)) {
        if (!sixteen(number, x + N * i, out + bytes * i, &s)) break;
        i += BLOCKS;
    }
    _mm512_storeu_pd(loss->lost, s.lost);
    _mm512_storeu_pd(loss->whole, s.whole);
    return i;
}

int64_t ML_NATIVE(quantise_sixteen)(const ml_block_format *f, const float *x, int64_t count,
                                    uint8_t *out, ml_loss *loss)
{
    return ml_plain_formats(all, f, x, count, out, loss);
}
#else
int64_t ML_NATIVE(quantise_sixteen)(const ml_block_format *f, const float *x, int64_t count,
                                    uint8_t *out, ml_loss *loss)
{
    (void)f, (void)x, (void)count, (void)out, (void)loss;
    return 0;
}
#endif
