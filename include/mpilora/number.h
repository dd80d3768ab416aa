/* number: the types that weights are stored in, conversions of single numbers, and the integer
 * arithmetic of ranges. Everything is inline; base.h brings it along. */
#ifndef MPILORA_NUMBER_H
#define MPILORA_NUMBER_H

#include <stdint.h>
#include <string.h>

/* From ML_Q8_0 on in blocks of several (blocks.h): frozen matrices only. */
typedef enum ml_dtype {
    ML_FP32,
    ML_BF16,
    ML_Q8_0,
    ML_Q4_0,
    ML_Q4_1,
    ML_Q5_0,
    ML_Q5_1,
    ML_Q4_K,
    ML_Q5_K,
    ML_Q6_K,
    ML_IQ4_NL,
    ML_MXFP4,
    ML_DTYPES
} ml_dtype;

static inline float ml_bf16_to_float(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t ml_bf16_from_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t nan = (u >> 16) | 0x40u, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u
                          ? nan
                          : rounded); /* both sides made, so that loops become vector code */
}

/* IEEE 754 binary16; NaN stays NaN. */
static inline float ml_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u,
             fraction = h & 0x3ffu, u;
    if (exponent == 0) { /* zero or subnormal: a multiple of 2^-24 */
        float tiny =
            (float)fraction * 5.9604644775390625e-8F; /* 2^-24; C++11 has no hexadecimal floats */
        return sign ? -tiny : tiny;
    }
    u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | fraction << 13;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* To IEEE 754 binary16: nearest, ties to even; ±Inf beyond 65,519; NaN stays NaN. */
static inline uint16_t ml_half_from_float(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu, kept, shift;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65,536 and more */
    if (a < 0x33000000u) return (uint16_t)sign;              /* less than half of the least */
    if (a < 0x38800000u) {                                   /* subnormal: a multiple of 2^-24 */
        shift = 126u - (a >> 23);
        kept = (a & 0x7fffffu) | 0x800000u;
    } else {
        shift = 13;
        kept = a - 0x38000000u;
    }
    uint32_t half = 1u << (shift - 1), odd = kept >> shift & 1u;
    return (uint16_t)(sign | ((kept + half - 1 + odd) >> shift));
}

/* Number i of an array of either type. */
static inline float ml_number_at(const void *data, ml_dtype dtype, int64_t i)
{
    return dtype == ML_BF16 ? ml_bf16_to_float(((const uint16_t *)data)[i])
                            : ((const float *)data)[i];
}

static inline int64_t ml_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ml_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ml_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Part `index` of n items cut into `parts` ranges whose lengths differ by at most one: it begins at
 * ⌈n·index / parts⌉, so that the first one is one of the longest, and that each of fewer parts is
 * some of more parts where their number divides the other. */
static inline int64_t ml_part_start(int64_t n, int64_t parts, int64_t index)
{
    return n / parts * index + (n % parts * index + parts - 1) / parts;
}
static inline int64_t ml_part_count(int64_t n, int64_t parts, int64_t index)
{
    return ml_part_start(n, parts, index + 1) - ml_part_start(n, parts, index);
}

#endif
