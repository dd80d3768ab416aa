/* What the native kernels share. This folder is compiled once for each instruction set
 * (cmake/NativeKernels.cmake); ML_NATIVE(name) is the name with the set's name behind it. Loops
 * are plain C that the compiler turns into vector code; only the small matrix products of
 * attention are written with vector types. */
#ifndef MPILORA_KERNELS_NATIVE_NATIVE_H
#define MPILORA_KERNELS_NATIVE_NATIVE_H

#include "kernels/kernels_private.h"

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ML_PASTE_(name, set) ml_##name##_##set
#define ML_PASTE(name, set) ML_PASTE_(name, set)
#define ML_NATIVE(name) ML_PASTE(name, ML_NATIVE_NAME)

/* A vector register of floats; may be loaded from any address. */
#if defined(__AVX512F__)
enum { ML_LANES = 16 };
#elif defined(__AVX__)
enum { ML_LANES = 8 };
#else
enum { ML_LANES = 4 };
#endif
enum { ML_PANEL = 2 * ML_LANES }; /* columns of a panel of packed weights */
typedef float ml_vector __attribute__((vector_size(4 * ML_LANES), aligned(4), may_alias));

/* Rows of a register tile of products, of two vectors each: the sums fill most of the registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { ML_TILE_ROWS = 12 }; /* 24 of 32 registers */
#define ML_TALL_TILES
#else
enum { ML_TILE_ROWS = 6 }; /* 12 of 16 registers */
#endif

#define ML_INLINE static inline __attribute__((always_inline))

/* a·b + c, rounded once where the instruction set can. What numbers go through on their way to a
 * gradient says where that is done (these files are compiled with -ffp-contract=off), so that its
 * bits depend neither on the compiler nor on whether a vector or the rest of a row has a number. */
ML_INLINE float ml_fma(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* c + a·b of a number and a vector. */
ML_INLINE ml_vector ml_fma_lanes(float a, ml_vector b, ml_vector c)
{
#if defined(__AVX512F__)
    return (ml_vector)_mm512_fmadd_ps(_mm512_set1_ps(a), (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (ml_vector)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA) && defined(__aarch64__)
    return (ml_vector)vfmaq_n_f32((float32x4_t)c, (float32x4_t)b, a);
#else
    return c + a * b;
#endif
}

/* x in each lane. */
ML_INLINE ml_vector ml_all_lanes(float x)
{
#if defined(__AVX512F__)
    return (ml_vector)_mm512_set1_ps(x);
#elif defined(__AVX__)
    return (ml_vector)_mm256_set1_ps(x);
#else
    return (ml_vector){x, x, x, x};
#endif
}

#if !defined(__AVX2__)
typedef uint16_t ml_bf16_vector __attribute__((vector_size(2 * ML_LANES), aligned(2), may_alias));
typedef uint32_t ml_bits_vector __attribute__((vector_size(4 * ML_LANES), may_alias));
#endif

/* A vector's worth of bf16 to the upper halves of floats; the compiler's own conversion takes four
 * instructions more. */
ML_INLINE ml_vector ml_bf16_lanes(const uint16_t *at)
{
#if defined(__AVX512F__)
    return (ml_vector)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at)), 16);
#elif defined(__AVX2__)
    return (ml_vector)_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at)), 16);
#else
    return (ml_vector)(__builtin_convertvector(*(const ml_bf16_vector *)(const void *)at,
                                               ml_bits_vector)
                       << 16);
#endif
}

/* *sum += a·b, in the register that has the sum: left to itself, GCC multiplies into the one of a
 * and moves what it sums from register to register, a fifth more instructions. */
ML_INLINE void ml_add_product(ml_vector a, ml_vector b, ml_vector *sum)
{
#if defined(MPILORA_SIMULATES_VECTORS) /* tests/simde/instructions.h */
    *sum = (ml_vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)*sum);
#elif defined(__FMA__)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
#elif defined(__ARM_FEATURE_FMA) && defined(__aarch64__)
    *sum = (ml_vector)vfmaq_f32((float32x4_t)*sum, (float32x4_t)a, (float32x4_t)b);
#else
    *sum += a * b;
#endif
}

/* Sums of a row run in so many lanes, whatever a register holds: lane l adds the terms l, l +
 * ML_SUM_LANES … of a row, which another rank may have elsewhere in its memory. */
enum { ML_SUM_LANES = 16 };
ML_INLINE float ml_sum_of_lanes(const float lane[ML_SUM_LANES])
{
    float half[ML_SUM_LANES / 2], quarter[ML_SUM_LANES / 4];
    for (int l = 0; l < ML_SUM_LANES / 2; l++) half[l] = lane[l] + lane[l + ML_SUM_LANES / 2];
    for (int l = 0; l < ML_SUM_LANES / 4; l++) quarter[l] = half[l] + half[l + ML_SUM_LANES / 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* Does `step` for i = 0 … n − 1, each with its lane l. */
#define ML_FOR_LANES(n, step)                                          \
    do {                                                               \
        const int64_t whole_ = (n) / ML_SUM_LANES * ML_SUM_LANES;      \
        for (int64_t at_ = 0; at_ < whole_; at_ += ML_SUM_LANES) {     \
            _Pragma("omp simd") for (int l = 0; l < ML_SUM_LANES; l++) \
            {                                                          \
                const int64_t i = at_ + l;                             \
                step;                                                  \
            }                                                          \
        }                                                              \
        for (int64_t i = whole_; i < (n); i++) {                       \
            const int l = (int)(i - whole_);                           \
            step;                                                      \
        }                                                              \
    } while (0)

/* Smaller work than this many elements is not worth waking threads. */
enum { ML_PARALLEL_FROM = 1 << 14 };

ML_INLINE float ml_float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

ML_INLINE uint32_t ml_bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* e^x for x ≤ 88 within 1.5e-7 relative; 0 below −87.33 (where the result would be denormal), NaN
 * for NaN.
 * x = n·ln 2 + r, |r| ≤ ln 2/2; e^r = 1 + r + r²·P(r) with P fitted for the least largest error
 * (3e-9). */
ML_INLINE float ml_native_exp_small(float x)
{
    const float shifter =
        12582912.0f; /* 1.5·2^23: adding it rounds to an integer in the low bits */
    float shifted = ml_fma(x, 1.44269504f, shifter);
    float n = shifted - shifter;
    float r = ml_fma(n, -0.693145752f,
                     x); /* ln 2 in two parts: the first has few digits, so the product is exact */
    r = ml_fma(n, -1.42860677e-6f, r);
    float p = 1.381446736e-3f;
    p = ml_fma(p, r, 8.368780775e-3f);
    p = ml_fma(p, r, 4.166839423e-2f);
    p = ml_fma(p, r, 1.666652010e-1f);
    p = ml_fma(p, r, 4.999999341e-1f);
    p = ml_fma(p, r * r, r) + 1.0f;
    float power = ml_float_of_bits((ml_bits_of_float(shifted) - ml_bits_of_float(shifter) + 127u)
                                   << 23); /* 2^n */
    return x < -87.33f ? 0.0f : p * power;
}

/* e^x for any x: Inf from 88.4 on. */
ML_INLINE float ml_native_exp(float x) { return ml_native_exp_small(x > 89.0f ? 89.0f : x); }

/* tanh x within 2e-7 relative: Lambert's continued fraction cut after x²/13 for small x, which
 * 1 − 2/(e^2|x| + 1) has no digits for. */
ML_INLINE float ml_native_tanh(float x)
{
    float u = x * x, size = x < 0 ? -x : x;
    float top = ml_fma(u, ml_fma(u, 378.0f + u, 17325.0f), 135135.0f);
    float bottom = ml_fma(u, ml_fma(u, ml_fma(u, 28.0f, 3150.0f), 62370.0f), 135135.0f);
    float large = 1.0f - 2.0f / (ml_native_exp_small(2.0f * (size > 10.0f ? 10.0f : size)) + 1.0f);
    return size < 1.0f ? x * top / bottom : (x < 0 ? -large : large);
}

/* The largest of x[n], n ≥ 1. */
ML_INLINE float ml_native_max(int64_t n, const float *x)
{
    enum { WIDTH = 4 * ML_LANES };
    float lane[WIDTH], top = x[0];
    int64_t i = 0;
    for (int l = 0; l < WIDTH; l++) lane[l] = top;
    for (; i + WIDTH <= n; i += WIDTH) {
#pragma omp simd
        for (int l = 0; l < WIDTH; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    }
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int l = 0; l < WIDTH; l++) top = lane[l] > top ? lane[l] : top;
    return top;
}

void ML_NATIVE(native_norms)(ml_kernels *table);
void ML_NATIVE(native_query_key_norms)(ml_kernels *table);
void ML_NATIVE(native_exponentials)(ml_kernels *table);
void ML_NATIVE(native_vectors)(ml_kernels *table);
void ML_NATIVE(small_forward)(int64_t T, const float *x, int64_t ldx, const ml_weight *w,
                              float beta, float *y, int64_t ldy);
/* decode.c: weights [first, first + count) of a row of blocks, whole groups of 32. What lies
 * `ahead` bytes behind them comes from memory meanwhile. */
void ML_NATIVE(decode_run)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                           int64_t ahead, float *out);
/* Of so many rows: into panels of the product's columns, [rows][columns], `panel` floats apart. */
void ML_NATIVE(decode_spread)(ml_dtype dtype, const uint8_t *row, int64_t row_bytes, int64_t rows,
                              int64_t first, int64_t count, int64_t panel, float *out);
void ML_NATIVE(decode_narrow)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                              uint16_t *out);
#if defined(__AVX512F__) /* of processors with AVX-512 BF16 */
void ML_NATIVE(decode_narrow_at_once)(ml_dtype dtype, const uint8_t *row, int64_t first,
                                      int64_t count, uint16_t *out);
#endif
bool ML_NATIVE(narrow_available)(void); /* narrow/available.c */
double ML_NATIVE(peak_gflops)(int threads);
int64_t ML_NATIVE(read_memory)(int threads, int64_t count, const ml_memory_span *spans);

#endif
