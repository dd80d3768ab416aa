/* What the decoders of block formats share: the small numbers inside a block. */
#ifndef MPILORA_KERNELS_BLOCK_FORMATS_H
#define MPILORA_KERNELS_BLOCK_FORMATS_H

#include "mpilora/blocks.h"

/* fp16, little-endian, at any address. */
static inline float ml_half_at(const uint8_t *bytes)
{
    return ml_half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* Half of the E8M0 number 2^(e − 127): the codes of MXFP4 are doubled. */
static inline float ml_half_of_e8m0(uint8_t e)
{
    uint32_t bits = e < 2 ? 0x00200000U << e : (uint32_t)(e - 1) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The six-bit scale and minimum number j of the 12 packed bytes of Q4_K and Q5_K. */
static inline void ml_k_scale_and_minimum(const uint8_t *q, int j, int *scale, int *minimum)
{
    *scale = j < 4 ? q[j] & 63 : (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
    *minimum = j < 4 ? q[j + 4] & 63 : q[j + 4] >> 4 | (q[j] >> 6) << 4;
}

extern const int8_t ml_iq4_values[16];  /* of IQ4_NL and IQ4_XS */
extern const int8_t ml_fp4_doubled[16]; /* E2M1, twice its values */

#endif
