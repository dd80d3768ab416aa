/* Few rows of x, as they are: no rounding that a sum in fp32 would not make as well. The numbers of
 * a block of 32 become integers of 24 bits, x ≈ scale·v with a power of two as scale, and v three
 * digits of 8 bits, v = 2^16·v₀ + 2^8·v₁ + v₂. Codes of at most 6 bits are multiplied with each
 * digit by the instructions for bytes, and the sums of a lane's four products stay integers:
 *   Σ c·v = ((Σ c·v₀)·2^8 + Σ c·v₁)·2^8 + Σ c·v₂,   |.| ≤ 4·63·2^23 < 2^31.
 * So a weight costs less than its way to a float and a multiply-add. x is off by at most half a
 * unit of its block's 23rd bit; a lane's sum is rounded to fp32 once. */
#include <omp.h>

#include "kernels/native/few_rows.h"
#include "kernels/rounded/codes.h"

#if defined(__AVX2__)

enum { AHEAD = 1024, DIGITS = 3, FOURS = ML_GROUP / 4 };

/* What a lane's sum starts from is −bias·Σ of its four numbers, as codes are made unsigned. */
ML_INLINE bool starts_below(ml_dtype dtype) { return ml_code_bias(dtype) != 0; }

/* ---- rounding ------------------------------------------------------------------------------ */

/* 1 / scale: a power of two under which the largest of a block has three digits. */
ML_INLINE float factor_for(float most)
{
    const float largest = 127 * 65536 + 127 * 256 + 127; /* of what three digits hold */
    const int exponent = (int)(ml_bits_of_float(most) >> 23) - 127;
    const int power = 22 - exponent > 126 ? 126 : 22 - exponent;
    const float factor = ml_float_of_bits((uint32_t)(power + 127) << 23);
    return most * factor > largest ? factor / 2 : factor;
}

ML_INLINE void round_group(int bias, const float *x, int8_t *const digit[DIGITS], int32_t *start,
                           float *scale, float *sum)
{
    uint32_t bits = 0;
    int32_t v[ML_GROUP], all = 0;
    for (int i = 0; i < ML_GROUP; i++) {
        const uint32_t of = ml_bits_of_float(x[i]) & 0x7fffffffU;
        bits = of > bits ? of : bits;
    }
    const bool finite = bits < 0x7f800000U;
    const float factor = finite ? factor_for(ml_float_of_bits(bits)) : 0;
    for (int i = 0; i < ML_GROUP; i += ML_LANES)
#if defined(__AVX512F__)
        _mm512_storeu_si512(v + i, _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i),
                                                                    _mm512_set1_ps(factor))));
#else
        _mm256_storeu_si256(
            (__m256i *)(void *)(v + i),
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor))));
#endif
    for (int i = 0; i < ML_GROUP; i++) v[i] = finite ? v[i] : 0;
    for (int i = 0; i < ML_GROUP; i++) {
        const int32_t low = (int8_t)v[i], rest = (v[i] - low) >> 8, middle = (int8_t)rest;
        digit[2][i] = (int8_t)low;
        digit[1][i] = (int8_t)middle;
        digit[0][i] = (int8_t)((rest - middle) >> 8);
    }
    for (int i = 0; i < FOURS; i++) {
        const int32_t four = v[4 * i] + v[4 * i + 1] + v[4 * i + 2] + v[4 * i + 3];
        start[i] = -bias * four;
        all += four;
    }
    *scale = finite ? 1 / factor : ml_float_of_bits(0x7fc00000U);
    *sum = *scale * (float)all;
}

static void round_fine(ml_dtype dtype, int64_t T, const float *x, int64_t ldx, const ml_fine *out)
{
    const int bias = ml_code_bias(dtype);
    for (int64_t t = 0; t < T; t++)
        for (int64_t g = 0; g < out->groups; g++) {
            const int64_t at = t * out->groups + g;
            int8_t *const digit[DIGITS] = {out->digit[0] + ML_GROUP * at,
                                           out->digit[1] + ML_GROUP * at,
                                           out->digit[2] + ML_GROUP * at};
            round_group(bias, x + t * ldx + ML_GROUP * g, digit, out->start + FOURS * at,
                        out->scale + at, out->sum + at);
        }
}

/* ---- products ------------------------------------------------------------------------------ */

ML_INLINE __m256i load_whole(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* Σ c·v of a group with x's group `at`, four of each lane. */
ML_INLINE __m256i fine_dot(ml_dtype dtype, __m256i w, const ml_fine *x, int64_t at)
{
    __m256i sum = _mm256_setzero_si256();
    for (int d = 0; d < DIGITS; d++)
        sum = ml_dot_bytes(false, d ? _mm256_slli_epi32(sum, 8) : sum, w,
                           load_whole(x->digit[d] + ML_GROUP * at));
    if (starts_below(dtype)) sum = _mm256_add_epi32(sum, load_whole(x->start + FOURS * at));
    return sum;
}

/* The factors of a block times those of x: of eight groups, or of 16 weights each, or one. */
typedef struct fine_factors {
    __m256 of[2];
} fine_factors;

ML_INLINE fine_factors take_fine_factors(ml_dtype dtype, const ml_factors *w, const float *x)
{
    fine_factors out = {{_mm256_setzero_ps(), _mm256_setzero_ps()}};
    if (ml_block_groups(dtype) == 1) {
        out.of[0] = _mm256_set1_ps(*w->scale * *x);
        return out;
    }
    const __m256 scale = _mm256_loadu_ps(x);
    if (!ml_has_halves(dtype)) {
        out.of[0] = _mm256_mul_ps(_mm256_load_ps(w->scale), scale);
        return out;
    }
    const __m256 low = _mm256_unpacklo_ps(scale, scale), high = _mm256_unpackhi_ps(scale, scale);
    out.of[0] = _mm256_mul_ps(_mm256_load_ps(w->scale), _mm256_permute2f128_ps(low, high, 0x20));
    out.of[1] =
        _mm256_mul_ps(_mm256_load_ps(w->scale + 8), _mm256_permute2f128_ps(low, high, 0x31));
    return out;
}

/* Of a group's lanes. */
ML_INLINE __m256 factor_of(ml_dtype dtype, const fine_factors *f, int group)
{
    if (ml_block_groups(dtype) == 1) return f->of[0];
    if (!ml_has_halves(dtype)) return _mm256_permutevar8x32_ps(f->of[0], _mm256_set1_epi32(group));
    const int first = 2 * (group % 4);
    return _mm256_permutevar8x32_ps(
        f->of[group / 4],
        _mm256_setr_epi32(first, first, first, first, first + 1, first + 1, first + 1, first + 1));
}

/* sum + the offsets of a block's groups · the sums of x's. */
ML_INLINE __m256 add_offsets(ml_dtype dtype, __m256 sum, const ml_factors *w, const float *x)
{
    if (ml_block_groups(dtype) == 1) return ml_add_offset(sum, *w->offset, x);
    return _mm256_fmadd_ps(_mm256_load_ps(w->offset), _mm256_loadu_ps(x), sum);
}

ML_INLINE void some_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    enum { SUMS = 2 }; /* so that no multiply-add waits for the one before it */
    const ml_fine *x = of;
    const int groups = ml_block_groups(dtype), bytes = ml_block_bytes(dtype);
    __m256 sum[ML_FEW_ROWS][ML_FINE_TOKENS][SUMS];
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) sum[r][t][0] = sum[r][t][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < x->groups; g += groups, w += bytes)
        for (int r = 0; r < rows; r++) {
            const uint8_t *block = w + r * step;
            fine_factors factor[ML_FINE_TOKENS];
            ml_factors factors;
            for (int at = 0; at < bytes; at += 64) __builtin_prefetch(block + at + AHEAD);
            ml_take_factors(dtype, block, &factors);
            for (int64_t t = 0; t < T; t++) {
                const int64_t at = t * x->groups + g;
                factor[t] = take_fine_factors(dtype, &factors, x->scale + at);
                if (ml_has_offset(dtype))
                    sum[r][t][1] = add_offsets(dtype, sum[r][t][1], &factors, x->sum + at);
            }
#pragma GCC unroll 8
            for (int group = 0; group < groups; group++) {
                ml_codes codes;
                ml_take_codes(dtype, block, group, ml_code_bias(dtype), &codes);
                for (int64_t t = 0; t < T; t++) {
                    const __m256i dot = fine_dot(dtype, codes.all, x, t * x->groups + g + group);
                    __m256 *to = &sum[r][t][group % SUMS];
                    *to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot),
                                          factor_of(dtype, &factor[t], group), *to);
                }
            }
        }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++)
            dots[r][t] = ml_add_lanes(_mm256_add_ps(sum[r][t][0], sum[r][t][1]));
}

#if defined(__AVX512VNNI__)

/* Formats of eight groups, two of which fill a register: half as many instructions wait for their
 * turn. The lower half of a sum is some_dots' first sum, the upper one its second. */

/* Of the lanes of groups 2·pair and 2·pair + 1, from the factors of a block's groups, or of 16
 * weights each. */
ML_INLINE __m512 factor_of_pair(ml_dtype dtype, __m512 factors, int pair)
{
    static const int32_t eights[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                         fours[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    const bool halves = ml_has_halves(dtype);
    return _mm512_permutexvar_ps(_mm512_add_epi32(_mm512_loadu_si512(halves ? fours : eights),
                                                  _mm512_set1_epi32((halves ? 4 : 2) * pair)),
                                 factors);
}

/* The factors of a block times those of x's groups. By halves, as they were stored: a load of both
 * would wait until they are in the cache. */
ML_INLINE __m512 factors_of_block(ml_dtype dtype, const ml_factors *w, const float *x)
{
    const fine_factors f = take_fine_factors(dtype, w, x);
    const __m512 low = _mm512_zextps256_ps512(f.of[0]);
    return ml_has_halves(dtype) ? _mm512_insertf32x8(low, f.of[1], 1) : low;
}

ML_INLINE __m512 add_offsets_above(__m512 sum, const ml_factors *w, const float *x)
{
    return _mm512_mask3_fmadd_ps(_mm512_broadcast_f32x8(_mm256_load_ps(w->offset)),
                                 _mm512_broadcast_f32x8(_mm256_loadu_ps(x)), sum, 0xff00);
}

/* Σ c·v of two groups with x's from `at` on. */
ML_INLINE __m512i fine_dot_of_pair(ml_dtype dtype, __m512i w, const ml_fine *x, int64_t at)
{
    __m512i sum = _mm512_setzero_si512();
    for (int d = 0; d < DIGITS; d++)
        sum = _mm512_dpbusd_epi32(d ? _mm512_slli_epi32(sum, 8) : sum, w,
                                  _mm512_loadu_si512(x->digit[d] + ML_GROUP * at));
    if (starts_below(dtype)) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(x->start + FOURS * at));
    return sum;
}

ML_INLINE void wide_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    enum { GROUPS = 8 };
    const ml_fine *x = of;
    const int bytes = ml_block_bytes(dtype);
    __m512 sum[ML_FEW_ROWS][ML_FINE_TOKENS];
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++) sum[r][t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < x->groups; g += GROUPS, w += bytes)
#pragma GCC unroll 2
        for (int r = 0; r < rows; r++) {
            const uint8_t *block = w + r * step;
            __m512 factor[ML_FINE_TOKENS];
            ml_factors factors;
            for (int at = 0; at < bytes; at += 64) __builtin_prefetch(block + at + AHEAD);
            ml_take_factors(dtype, block, &factors);
            for (int64_t t = 0; t < T; t++) {
                const int64_t at = t * x->groups + g;
                factor[t] = factors_of_block(dtype, &factors, x->scale + at);
                if (ml_has_offset(dtype))
                    sum[r][t] = add_offsets_above(sum[r][t], &factors, x->sum + at);
            }
#pragma GCC unroll 4
            for (int pair = 0; pair < GROUPS / 2; pair++) {
                const __m512i codes = ml_take_pair(dtype, block, pair);
                for (int64_t t = 0; t < T; t++) {
                    const __m512i dot =
                        fine_dot_of_pair(dtype, codes, x, t * x->groups + g + 2 * pair);
                    sum[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot),
                                                factor_of_pair(dtype, factor[t], pair), sum[r][t]);
                }
            }
        }
    for (int r = 0; r < rows; r++)
        for (int64_t t = 0; t < T; t++)
            dots[r][t] = ml_add_lanes(_mm256_add_ps(_mm512_castps512_ps256(sum[r][t]),
                                                    _mm512_extractf32x8_ps(sum[r][t], 1)));
}

ML_INLINE void fine_dots(ml_dtype dtype, int rows, int64_t T, const void *of, const uint8_t *w,
                         int64_t step, float dots[ML_FEW_ROWS][ML_SMALL_TOKENS])
{
    if (ml_block_groups(dtype) == 8)
        wide_dots(dtype, rows, T, of, w, step, dots);
    else
        some_dots(dtype, rows, T, of, w, step, dots);
}

#else
#define fine_dots some_dots
#endif

/* All formats but those with codes of eight bits. */
static void multiply_rows(int64_t T, const ml_fine *x, const ml_weight *w, int64_t first,
                          int64_t count, float beta, float *y, int64_t ldy)
{
#define MULTIPLY(constant)     \
    if (!ml_is_wide(constant)) \
    ml_few_rows(fine_dots, ML_FINE_TOKENS, constant, T, x, w, first, count, beta, y, ldy)
    ML_FOR_BLOCK_FORMAT(w->dtype, MULTIPLY)
#undef MULTIPLY
}

static void multiply_fine(int64_t T, const ml_fine *x, const ml_weight *w, float beta, float *y,
                          int64_t ldy)
{
#pragma omp parallel if (w->rows * w->cols >= ML_PARALLEL_FROM)
    {
        int64_t threads = omp_get_num_threads(), mine = omp_get_thread_num();
        multiply_rows(T, x, w, ml_part_start(w->rows, threads, mine),
                      ml_part_count(w->rows, threads, mine), beta, y, ldy);
    }
}

const ml_fine_products ML_NATIVE(fine_products) = {round_fine, multiply_fine};

#else

const ml_fine_products ML_NATIVE(fine_products) = {NULL, NULL};

#endif
