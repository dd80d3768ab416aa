/* The project's own product with bf16 instructions, C = A·op(B) + beta·C: A is narrowed to bf16 as
 * it is packed, products of two neighbours of the depth at a time are summed in fp32. narrow/ is
 * compiled for the instruction set that has them.
 *
 * op(B) is k × n: B is [k, n], or [n, k] where b_turned. beta is 0 (C is never read) or anything
 * else. An element of C is summed in the same order whatever m and the threads are. */
#ifndef MPILORA_KERNELS_NARROW_H
#define MPILORA_KERNELS_NARROW_H

#include "mpilora/kernels.h"

typedef struct ml_narrow_product {
    int64_t m, n, k;
    float beta;
    bool b_turned;
    const float *a;
    const uint16_t *b;
    float *c;
    int64_t lda, ldb, ldc;
} ml_narrow_product;

/* Depth of what is packed at a time, the most rows of A, columns of B of a thread. */
enum { ML_NARROW_DEPTH = 768, ML_NARROW_ROWS = 2044, ML_NARROW_COLUMNS = 64 };

/* With more than `rows` rows a product runs in several rounds. */
typedef struct ml_narrow_scratch {
    uint16_t *packed_a; /* [rows][ML_NARROW_DEPTH] */
    uint32_t *packed_b; /* [threads][ML_NARROW_DEPTH / 2][ML_NARROW_COLUMNS] */
    int64_t rows;
    int threads;
} ml_narrow_scratch;

/* On x86-64 only. */
bool ml_narrow_available_avx512bf16(void);
void ml_narrow_product_avx512bf16(const ml_narrow_product *product,
                                  const ml_narrow_scratch *scratch);

#endif
