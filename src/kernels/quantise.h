/* Quantisers of single blocks: x[weights of a block], all finite, to the block's bytes. An internal
 * module. */
#ifndef MPILORA_KERNELS_QUANTISE_H
#define MPILORA_KERNELS_QUANTISE_H

#include "kernels/block_formats.h"

/* fp16, little-endian. */
static inline void ml_put_half(float value, uint8_t *to)
{
    uint16_t h = ml_half_from_float(value);
    to[0] = (uint8_t)h;
    to[1] = (uint8_t)(h >> 8);
}

/* quantise.c: the bytes of ggml and of the gguf package */
void ml_quantise_q8_0(const float *x, uint8_t *block);
void ml_quantise_q4_0(const float *x, uint8_t *block);
void ml_quantise_q4_1(const float *x, uint8_t *block);
void ml_quantise_q5_0(const float *x, uint8_t *block);
void ml_quantise_q5_1(const float *x, uint8_t *block);
void ml_quantise_mxfp4(const float *x, uint8_t *block);

/* quantise_k.c: scales are searched for */
void ml_quantise_q4_k(const float *x, uint8_t *block);
void ml_quantise_q5_k(const float *x, uint8_t *block);
void ml_quantise_q6_k(const float *x, uint8_t *block);

#endif
