/* Rounding of activations, and the product of one instruction set: few rows of x go over rows of W
 * (dots.c), more of them over panels of it (panels.c). */
#include <omp.h>

#include "kernels/rounded/codes.h"

#if defined(__AVX2__)
#include <cpuid.h>

static bool has_f16c(void)
{
    static _Atomic int known; /* ±1; the question takes long on a virtual machine */
    unsigned a, b, c, d;
    if (known == 0) known = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) ? 1 : -1;
    return known > 0;
}
#endif

enum { GROUP = 32 };

/* The largest |x| as bits, so that Inf and NaN are larger than all numbers. */
ML_INLINE uint32_t largest_bits(int64_t n, const float *x)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = ml_bits_of_float(x[i]) & 0x7fffffffU;
        most = bits > most ? bits : most;
    }
    return most;
}

/* x·factor to the nearest integer, ties to even; |x·factor| ≤ 127. */
ML_INLINE void round_codes(int64_t n, const float *x, float factor, int8_t *code)
{
    const float shifter = 12582912.0F; /* 1.5·2^23: adding it rounds */
    for (int64_t i = 0; i < n; i++) {
        const float shifted = x[i] * factor + shifter;
        code[i] = (int8_t)((int32_t)ml_bits_of_float(shifted) - (int32_t)ml_bits_of_float(shifter));
    }
}

/* A block of 32 or 256: its factor; codes and their sums of 16 are written. */
ML_INLINE float round_block(int64_t n, bool signed_most, const float *x, int8_t *code,
                            int16_t *half)
{
    const uint32_t bits = largest_bits(n, x);
    const float most = ml_float_of_bits(bits);
    float factor = 0, scale = bits >= 0x7f800000U ? ml_float_of_bits(0x7fc00000U) : most / 127.0F;
    if (bits > 0 && bits < 0x7f800000U) factor = 127.0F / most;
    if (!(factor < 3e38F)) factor = 0; /* what is so small is nothing */
    if (signed_most && factor > 0) {   /* ggml's Q8_K: the largest becomes −127 */
        int64_t at = 0;
        while ((ml_bits_of_float(x[at]) & 0x7fffffffU) != bits) at++;
        if (x[at] > 0) {
            factor = -factor;
            scale = -scale;
        }
    }
    if (factor == 0)
        memset(code, 0, (size_t)n);
    else
        round_codes(n, x, factor, code);
    for (int64_t h = 0; h < n / 16; h++) {
        int32_t sum = 0;
        for (int i = 0; i < 16; i++) sum += code[16 * h + i];
        half[h] = (int16_t)sum;
    }
    return scale;
}

static void round_row(ml_dtype dtype, const float *x, int64_t t, const ml_rounded *out)
{
    const int groups = ml_block_groups(dtype), bias = ml_code_bias(dtype);
    const int64_t G = out->groups;
    int8_t *code = out->code + t * out->cols;
    int16_t *half = out->half + t * 2 * G;
    float *scale = out->scale + t * G, *sum = out->sum + t * G;
    for (int64_t g = 0; g < G; g += groups) {
        const float *from = x + g * GROUP;
        float factor = groups == 1
                           ? round_block(GROUP, false, from, code + g * GROUP, half + 2 * g)
                           : round_block(8 * GROUP, true, from, code + g * GROUP, half + 2 * g);
        for (int j = 0; j < groups; j++) scale[g + j] = factor;
    }
    for (int64_t g = 0; g < G; g++)
        sum[g] = scale[g] * (float)((int32_t)half[2 * g] + (int32_t)half[2 * g + 1]);
    if (ml_has_halves(dtype))
        for (int64_t h = 0; h < 2 * G; h++) out->start[t * 2 * G + h] = -bias * half[h];
    else
        for (int64_t g = 0; g < G; g++)
            out->start[t * G + g] = -bias * ((int32_t)half[2 * g] + (int32_t)half[2 * g + 1]);
}

static void round_rows(ml_dtype dtype, int64_t first, int64_t T, const float *x, int64_t ldx,
                       const ml_rounded *out)
{
#pragma omp parallel for schedule(static) if (T * out->cols >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) round_row(dtype, x + t * ldx, first + t, out);
}

/* The rows from t on. */
static ml_rounded rows_from(ml_dtype dtype, const ml_rounded *x, int64_t t)
{
    const int parts = ml_has_halves(dtype) ? 2 : 1;
    ml_rounded out = *x;
    out.code += t * x->cols;
    out.scale += t * x->groups;
    out.sum += t * x->groups;
    out.half += t * 2 * x->groups;
    out.start += t * parts * x->groups;
    return out;
}

static void multiply(int64_t T, const ml_rounded *x, const ml_weight *w, float beta, float *y,
                     int64_t ldy)
{
#pragma omp parallel if (w->rows * w->cols >= ML_PARALLEL_FROM)
    {
        int64_t threads = omp_get_num_threads(), mine = omp_get_thread_num();
        int64_t first = ml_part_start(w->rows, threads, mine),
                count = ml_part_count(w->rows, threads, mine);
#if defined(__AVX2__)
        if (T > ML_SMALL_TOKENS) {
            ML_NATIVE(rounded_panels)(T, x, w, first, count, beta, y, ldy);
            count = 0;
        }
#endif
        for (int64_t t = 0; count > 0 && t < T; t += ML_SMALL_TOKENS) {
            const ml_rounded some = rows_from(w->dtype, x, t);
            ML_NATIVE(rounded_dots)
            (ml_min(ML_SMALL_TOKENS, T - t), &some, w, first, count, beta, y + t * ldy, ldy);
        }
    }
}

static bool available(void)
{
#if defined(__AVX512VNNI__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512vnni") && has_f16c();
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#else
    return true;
#endif
}

#define ML_TEXT_(x) #x
#define ML_TEXT(x) ML_TEXT_(x)

const ml_rounded_set ML_NATIVE(rounded_set) = {ML_TEXT(ML_NATIVE_NAME), available, round_rows,
                                               multiply, &ML_NATIVE(fine_products)};
