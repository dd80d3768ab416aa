/* Quantisers of single blocks: x[weights of a block], all finite, to the block's bytes. An internal
 * module. */
#ifndef MPILORA_KERNELS_QUANTISE_H
#define MPILORA_KERNELS_QUANTISE_H

#include "kernels/block_formats.h"

/* What blocks lost, as ml_block_error, by the lanes of a register. */
enum { ML_LOSS_LANES = 8 };
typedef struct ml_loss {
    double lost[ML_LOSS_LANES], whole[ML_LOSS_LANES];
} ml_loss;

/* The blocks of one thread for one instruction set (native/quantise.h), and those of the widest set
 * of this processor (choose_quantiser.c), by the names of the vector paths. */
typedef struct ml_vector_quantiser {
    const char *name;
    int64_t (*plain)(const ml_block_format *f, const float *x, int64_t count, uint8_t *out,
                     ml_loss *loss);
    int64_t (*search)(const ml_block_format *f, const float *x, int64_t count, uint8_t *out);
} ml_vector_quantiser;
const ml_vector_quantiser *ml_choose_vector_quantiser(void);

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
void ml_quantise_iq4_nl(const float *x, uint8_t *block);

#endif
