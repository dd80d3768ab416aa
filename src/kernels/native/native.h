/* What the native kernels share. This folder is compiled once for each instruction set
 * (cmake/NativeKernels.cmake); ML_NATIVE(name) is the name with the set's name behind it. Loops
 * are plain C that the compiler turns into vector code; only the small matrix products of
 * attention are written with vector types. */
#ifndef MPILORA_KERNELS_NATIVE_NATIVE_H
#define MPILORA_KERNELS_NATIVE_NATIVE_H

#include "kernels/kernels_private.h"

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
typedef float ml_vector __attribute__((vector_size(4 * ML_LANES), aligned(4), may_alias));

#define ML_INLINE static inline __attribute__((always_inline))

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
    float shifted = x * 1.44269504f + shifter;
    float n = shifted - shifter;
    float r =
        x -
        n * 0.693145752f; /* ln 2 in two parts: the first has few digits, so the product is exact */
    r = r - n * 1.42860677e-6f;
    float p = 1.381446736e-3f;
    p = p * r + 8.368780775e-3f;
    p = p * r + 4.166839423e-2f;
    p = p * r + 1.666652010e-1f;
    p = p * r + 4.999999341e-1f;
    p = p * (r * r) + r + 1.0f;
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
    float top = 135135.0f + u * (17325.0f + u * (378.0f + u));
    float bottom = 135135.0f + u * (62370.0f + u * (3150.0f + u * 28.0f));
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
/* decode.c: weights [first, first + count) of a row of blocks, whole groups of 32. */
void ML_NATIVE(decode_run)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                           float *out);
void ML_NATIVE(decode_narrow)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                              uint16_t *out);
#if defined(__AVX512F__) /* of processors with AVX-512 BF16 */
void ML_NATIVE(decode_narrow_at_once)(ml_dtype dtype, const uint8_t *row, int64_t first,
                                      int64_t count, uint16_t *out);
#endif
double ML_NATIVE(peak_gflops)(int threads);
int64_t ML_NATIVE(read_memory)(int threads, int64_t count, const ml_memory_span *spans);

#endif
