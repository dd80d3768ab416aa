/* The project's own product with bf16 instructions, C = A·op(B) + beta·C: A is narrowed to bf16 as
 * it is packed, products of two neighbours of the depth at a time are summed in fp32. narrow/ is
 * compiled for the instruction set that has them.
 *
 * op(B) is k × n: B is [k, n], or [n, k] where b_turned. beta is 0 (C is never read) or anything
 * else. An element of C is summed in the same order whatever m and the threads are. */
#ifndef MPILORA_KERNELS_NARROW_H
#define MPILORA_KERNELS_NARROW_H

#include "mpilora/kernels.h"

/* Weights [first, first + count) of a row of blocks, whole groups of 32, as bf16. */
typedef void (*ml_narrow_decode)(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count,
                                 uint16_t *out);

typedef struct ml_narrow_product {
    int64_t m, n, k;
    float beta;
    bool b_turned;
    const float *a;
    const void *b;
    ml_dtype b_dtype; /* bf16, or blocks, whole groups of 32 in its rows, which `decode` decodes */
    ml_narrow_decode decode;
    float *c;
    int64_t lda, ldb, ldc;
} ml_narrow_product;

/* At the most so many rows of A are narrowed at a time, so deep; a thread packs so many columns of
 * B, so deep a part of that. AMX's tiles multiply so fast that what they are fed with decides: many
 * columns, for the sake of A, which comes from the third cache, and parts whose rows of A stay in
 * the first. */
enum {
    ML_NARROW_ROWS = 2048,
    ML_NARROW_DEPTH = 768,
    ML_NARROW_PART = ML_NARROW_DEPTH,
    ML_NARROW_COLUMNS = 64,
    ML_NARROW_TILE_ROWS = 1024,
    ML_NARROW_TILE_DEPTH = 4096,
    ML_NARROW_TILE_PART = 768,
    ML_NARROW_TILE_COLUMNS = 512
};

/* With more than `rows` rows a product runs in several rounds. */
typedef struct ml_narrow_scratch {
    uint16_t *packed_a; /* [rows, whole tiles][depth of the set] */
    uint32_t *packed_b; /* [threads][part / 2][columns of the set] */
    float *sums;        /* [threads][rows][columns of the set], where a set has several parts */
    int64_t rows;
    int threads;
} ml_narrow_scratch;

/* The instructions for pairs of bf16: AVX-512's and AMX's. */
typedef struct ml_narrow_set {
    bool (*available)(void);
    void (*product)(const ml_narrow_product *product, const ml_narrow_scratch *scratch);
    int64_t rows, depth, part, columns; /* as above */
} ml_narrow_set;

/* On x86-64 only, as all that follows. */
extern const ml_narrow_set ml_narrow_set_avx512bf16, ml_narrow_set_amx;

/* Attention as native/ has it, with products of blocks in bf16; ml_kernels' equations. */
typedef void ml_narrow_attention_forward(const ml_kernels *k, const ml_attention_shape *shape,
                                         const ml_sequences *sequences, const float *q, int64_t ldq,
                                         const float *key, const float *value, int64_t ldkv,
                                         float *o, int64_t ldo, float *lse);
typedef void ml_narrow_attention_backward(const ml_kernels *k, const ml_attention_shape *shape,
                                          const ml_sequences *sequences,
                                          const ml_attention_kept *kept, const float *d_o,
                                          int64_t lddo, float *dq, int64_t lddq, float *dk,
                                          float *dv, int64_t lddkv);
ml_narrow_attention_forward ml_attention_forward_avx512bf16, ml_attention_forward_amx;
ml_narrow_attention_backward ml_attention_backward_avx512bf16, ml_attention_backward_amx;

#endif
