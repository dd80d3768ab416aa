/* The project's own product, C = alpha·op(A)·op(B) + beta·C, in the manner of Goto and van de
 * Geijn (2008) and BLIS: operands are packed into panels that stay in the caches, and a register
 * tile of C runs along them. native/product.c does it, once for each instruction set. */
#ifndef MPILORA_KERNELS_PRODUCT_H
#define MPILORA_KERNELS_PRODUCT_H

#include "mpilora/kernels.h"

/* op(A) is m × k: A is [m, k], or [k, m] where a_turned; op(B) is k × n: B is [k, n], or [n, k]
 * where b_turned. B may be bf16, widened as it is packed, or blocks, whole
 * ones in its rows, decoded as they are packed. beta is 0 (C is never read) or anything
 * else. With runs k is the sum of their counts, and they are contracted one behind the other. */
typedef struct ml_product {
    int64_t m, n, k;
    float alpha, beta;
    bool a_turned, b_turned;
    const float *a;
    const void *b;
    ml_dtype b_dtype;
    float *c;
    int64_t lda, ldb, ldc;
    int runs;           /* 0: all of k */
    const ml_rows *run; /* columns of op(A), rows of op(B) */
    bool sparse; /* blocks of zeros in A, ML_FILTER_ROWS × ML_FILTER_COLUMNS from its first element
                    on, are passed over; A is not turned then, and there are no runs */
} ml_product;

/* Depth of the panels, the most rows of A packed at a time, columns of B that a thread packs at a
 * time. */
enum { ML_PRODUCT_DEPTH = 768, ML_PRODUCT_ROWS = 2052, ML_PRODUCT_COLUMNS = 128 };

enum { ML_PRODUCT_COLUMNS_STEP = 32 };

/* blocking.c: a line of the table by processor, and the numbers of the first one that fits; the
 * last one fits all. */
typedef struct ml_blocking_line {
    const char *processor, *vector; /* "": any */
    ml_product_blocking blocking;
} ml_blocking_line;
const ml_product_blocking *ml_blocking_among(const ml_blocking_line *lines, const char *processor,
                                             const char *vector);

/* Scratch memory for products with up to `rows` rows at full speed (with more they run in several
 * rounds). */
typedef struct ml_product_scratch {
    float *packed_a; /* [rows][ML_PRODUCT_DEPTH] */
    float *packed_b; /* [threads][ML_PRODUCT_DEPTH][ML_PRODUCT_COLUMNS] */
    int64_t rows;    /* at most ML_PRODUCT_ROWS */
    int threads;
    ml_product_blocking blocking;
} ml_product_scratch;

typedef void (*ml_product_function)(const ml_product *product, const ml_product_scratch *scratch);
void ml_product_generic(const ml_product *product, const ml_product_scratch *scratch);
void ml_product_avx2(const ml_product *product, const ml_product_scratch *scratch);
void ml_product_avx512(const ml_product *product, const ml_product_scratch *scratch);

#endif
