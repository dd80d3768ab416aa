/* What the quantisers of one instruction set share. */
#ifndef MPILORA_KERNELS_NATIVE_QUANTISE_H
#define MPILORA_KERNELS_NATIVE_QUANTISE_H

#include "kernels/native/native.h"
#include "kernels/quantise.h"

/* GGUF's numbers of the formats that are made here. */
enum {
    ML_GGUF_Q4_0 = 2,
    ML_GGUF_Q4_1 = 3,
    ML_GGUF_Q5_0 = 6,
    ML_GGUF_Q5_1 = 7,
    ML_GGUF_Q8_0 = 8,
    ML_GGUF_Q4_K = 12,
    ML_GGUF_Q5_K = 13,
    ML_GGUF_Q6_K = 14,
    ML_GGUF_IQ4_NL = 20,
    ML_GGUF_MXFP4 = 39
};

/* Blocks of one of the formats of quantise_plain.c, one after the other; returns how many. */
typedef int64_t ml_plain_loop(int number, int64_t bytes, const float *x, int64_t count,
                              uint8_t *out, ml_loss *loss);

/* A loop of its own for each format: the number is a constant, by which the compiler takes out all
 * that the format does not need. */
ML_INLINE int64_t ml_plain_formats(ml_plain_loop *loop, const ml_block_format *f, const float *x,
                                   int64_t count, uint8_t *out, ml_loss *loss)
{
    switch (f->number) {
    case ML_GGUF_Q8_0:
        return loop(ML_GGUF_Q8_0, 34, x, count, out, loss);
    case ML_GGUF_Q4_0:
        return loop(ML_GGUF_Q4_0, 18, x, count, out, loss);
    case ML_GGUF_Q4_1:
        return loop(ML_GGUF_Q4_1, 20, x, count, out, loss);
    case ML_GGUF_Q5_0:
        return loop(ML_GGUF_Q5_0, 22, x, count, out, loss);
    case ML_GGUF_Q5_1:
        return loop(ML_GGUF_Q5_1, 24, x, count, out, loss);
    case ML_GGUF_MXFP4:
        return loop(ML_GGUF_MXFP4, 17, x, count, out, loss);
    default:
        return 0;
    }
}

/* The first blocks of `count`, as the scalar functions make them; returns how many. What stopped it
 * is for these: a number that no block holds; too few blocks for the lanes of a search, whose
 * numbers the caller has checked. */
int64_t ML_NATIVE(quantise_plain)(const ml_block_format *f, const float *x, int64_t count,
                                  uint8_t *out, ml_loss *loss);
/* quantise_sixteen.c: as many as it likes, in sixteens, where there is no reason to look at single
 * blocks; 0 where the instruction set has nothing for it. */
int64_t ML_NATIVE(quantise_sixteen)(const ml_block_format *f, const float *x, int64_t count,
                                    uint8_t *out, ml_loss *loss);
int64_t ML_NATIVE(quantise_search)(const ml_block_format *f, const float *x, int64_t count,
                                   uint8_t *out);

/* Both, for choose_quantiser.c. */
extern const ml_vector_quantiser ML_NATIVE(vector_quantiser);

#endif
