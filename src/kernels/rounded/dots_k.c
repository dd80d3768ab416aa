/* Few rows of x with the formats of 256 weights. Their scales are integers, one for 16 or 32
 * weights, so a block's whole sum is one of integers, and only its factor is not: with codes c,
 * scales s, minima m and codes q of x, of factor e,
 *   Σ wᵢ·xᵢ = d·e·Σ_h s_h·Σ_{i ∈ h} cᵢ·qᵢ − d_min·e·Σ_h m_h·Σ_{i ∈ h} qᵢ,   h: 16 weights.
 * Q6_K has no minima but codes that are 32 too large, which is m_h = 32·s_h and d_min = d.
 *
 * A vector sum has eight lanes, whatever the instructions: AVX2 and AVX-512 have the same bits. */
#include "kernels/native/few_rows.h"
#include "kernels/rounded/codes.h"

enum { AHEAD = 1024, PAIRS = 4, PAIR = 2 * ML_GROUP };

#if defined(__AVX2__)

/* Of a block of weights: of each 16 the scale and the minimum. */
typedef struct whole_factors {
    __m128i scale;   /* int8 */
    __m256i minimum; /* int16 */
    float d, least;
} whole_factors;

ML_INLINE void take_whole_factors(ml_dtype dtype, const uint8_t *b, whole_factors *out)
{
    if (dtype == ML_Q6_K) {
        out->scale = (__m128i)ml_load_bytes(b + 192);
        out->minimum = _mm256_slli_epi16(_mm256_cvtepi8_epi16(out->scale), 5);
        out->d = ml_scale_at(b + 208);
        out->least = -out->d;
        return;
    }
    const __m128i both = ml_k_bytes(b + 4);
    out->scale = _mm_unpacklo_epi8(both, both);
    out->minimum = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(both, both));
    out->d = ml_scale_at(b);
    out->least = -ml_scale_at(b + 2);
}

#if defined(__AVX512VNNI__)

/* 64 codes at a time. */
#define take_some_codes ml_take_pair
typedef __m512i some_codes;
typedef __m512i some_sums;
typedef __m512i some_scales; /* int16 */

ML_INLINE some_scales take_some_scales(const whole_factors *f, int pair)
{
    const __m512i of = _mm512_add_epi16(
        _mm512_set1_epi16((short)(4 * pair)),
        _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                         0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0));
    return _mm512_permutexvar_epi16(of, _mm512_castsi256_si512(_mm256_cvtepi8_epi16(f->scale)));
}

ML_INLINE some_sums add_some(some_sums sum, some_codes w, const int8_t *x, some_scales scales)
{
    return _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(w, _mm512_loadu_si512(x)), scales);
}

ML_INLINE __m256i eight_lanes(some_sums sum)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}

#else

typedef struct some_codes {
    __m256i half[2];
} some_codes;
typedef some_codes some_scales; /* int16 */
typedef __m256i some_sums;

ML_INLINE some_codes take_some_codes(ml_dtype dtype, const uint8_t *b, int pair)
{
    some_codes out;
    for (int i = 0; i < 2; i++) {
        ml_codes codes;
        ml_take_codes(dtype, b, 2 * pair + i, dtype == ML_Q6_K ? 32 : 0, &codes);
        out.half[i] = codes.all;
    }
    return out;
}

ML_INLINE some_scales take_some_scales(const whole_factors *f, int pair)
{
    some_scales out;
    for (int i = 0; i < 2; i++) {
        const long long first = 0x0101010101010101 * (4 * pair + 2 * i);
        out.half[i] = _mm256_cvtepi8_epi16(
            _mm_shuffle_epi8(f->scale, _mm_set_epi64x(first + 0x0101010101010101, first)));
    }
    return out;
}

ML_INLINE some_sums add_some(some_sums sum, some_codes w, const int8_t *x, some_scales scales)
{
    for (int i = 0; i < 2; i++) {
        const __m256i two = _mm256_maddubs_epi16(
            w.half[i], _mm256_loadu_si256((const __m256i *)(const void *)(x + ML_GROUP * i)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, scales.half[i]));
    }
    return sum;
}

ML_INLINE __m256i eight_lanes(some_sums sum) { return sum; }

#endif

/* sum + a block's product; half: the sums of 16 codes of x. */
ML_INLINE ml_floats add_block(ml_floats sum, const whole_factors *f, __m256i products,
                              const int16_t *half, float e)
{
    const __m256i minima =
        _mm256_madd_epi16(f->minimum, _mm256_loadu_si256((const __m256i *)(const void *)half));
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), _mm256_set1_ps(f->d * e), sum);
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(minima), _mm256_set1_ps(f->least * e), sum);
}

ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    const ml_rounded *x = of;
    const int bytes = ml_block_bytes(dtype);
    ml_floats sum[ML_FEW_ROWS][ML_SMALL_TOKENS];
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) sum[r][t] = ml_no_floats();
    for (int64_t g = 0; g < x->groups; g += 2 * PAIRS, w += bytes)
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++) {
            const uint8_t *block = w + r * step;
            some_sums products[ML_SMALL_TOKENS];
            whole_factors factors;
            for (int at = 0; at < bytes; at += 64) __builtin_prefetch(block + at + AHEAD);
            take_whole_factors(dtype, block, &factors);
            for (int64_t t = 0; t < T; t++) products[t] = (some_sums){0};
#pragma GCC unroll 4
            for (int pair = 0; pair < PAIRS; pair++) {
                const some_codes codes = take_some_codes(dtype, block, pair);
                const some_scales scales = take_some_scales(&factors, pair);
                for (int64_t t = 0; t < T; t++)
                    products[t] =
                        add_some(products[t], codes,
                                 x->code + t * x->cols + g * ML_GROUP + PAIR * pair, scales);
            }
            for (int64_t t = 0; t < T; t++)
                sum[r][t] =
                    add_block(sum[r][t], &factors, eight_lanes(products[t]),
                              x->half + 2 * (t * x->groups + g), x->scale[t * x->groups + g]);
        }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) dots[r][t] = ml_add_lanes(sum[r][t]);
}

#else

/* The sums of a block without vectors of bytes. */
ML_INLINE float block_dot(ml_dtype dtype, const uint8_t *b, const int8_t *x, const int16_t *half)
{
    int32_t products = 0, minima = 0;
    for (int group = 0; group < 2 * PAIRS; group++) {
        ml_codes codes;
        int scale[2], minimum[2];
        ml_take_codes(dtype, b, group, dtype == ML_Q6_K ? 32 : 0, &codes);
        if (dtype == ML_Q6_K) {
            for (int h = 0; h < 2; h++) {
                scale[h] = (int8_t)b[192 + 2 * group + h];
                minimum[h] = 32 * scale[h];
            }
        } else {
            ml_k_scale_and_minimum(b + 4, group, scale, minimum);
            scale[1] = scale[0];
            minimum[1] = minimum[0];
        }
        for (int h = 0; h < 2; h++) {
            int32_t dot = 0;
            for (int i = 0; i < 16; i++) dot += codes.half[h][i] * x[ML_GROUP * group + 16 * h + i];
            products += scale[h] * dot;
            minima += minimum[h] * half[2 * group + h];
        }
    }
    if (dtype == ML_Q6_K) return ml_scale_at(b + 208) * (float)(products - minima);
    return ml_scale_at(b) * (float)products - ml_scale_at(b + 2) * (float)minima;
}

ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    const ml_rounded *x = of;
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) {
            const uint8_t *block = w + r * step;
            dots[r][t] = 0;
            for (int64_t g = 0; g < x->groups; g += 2 * PAIRS, block += ml_block_bytes(dtype)) {
                const int64_t at = t * x->groups + g;
                dots[r][t] += x->scale[at] *
                              block_dot(dtype, block, x->code + ML_GROUP * at, x->half + 2 * at);
            }
        }
}

#endif

void ML_NATIVE(rounded_dots_k)(int64_t T, const ml_rounded *x, const ml_weight *w, int64_t first,
                               int64_t count, float beta, float *y, int64_t ldy)
{
#define MULTIPLY(constant) \
    ml_few_rows(some_dots, ML_SMALL_TOKENS, constant, T, x, w, first, count, beta, y, ldy)
    ML_FOR_K_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
}
