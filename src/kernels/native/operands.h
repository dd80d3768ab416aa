/* What attention's products of blocks take: floats, read where they lie. Compiled for
 * instructions that multiply bf16, the same names stand for that, in the order that these want
 * (narrow/operands.h). */
#ifndef MPILORA_KERNELS_NATIVE_OPERANDS_H
#define MPILORA_KERNELS_NATIVE_OPERANDS_H

#include "kernels/native/attention.h"

#if defined(__AVX512BF16__)
#include "kernels/narrow/operands.h"
#else

/* Queries are multiplied by the scale as they are turned: scores come out scaled. On the diagonal a
 * product with P reads a few elements beyond it, at most the rows of a tile: these are made zero,
 * the rest is left as it is. */
enum { QUERIES_ARE_SCALED = 1, BEYOND_DIAGONAL = 16, ALL_ROWS_ARE_KEPT = 0 };

typedef operand left;
typedef struct right {
    const float *b; /* [k][ld] */
    int64_t ld;
} right;

/* Floats that each operand takes of a thread's memory; `pairs` of rows that were loaded before are
 * these themselves, and so are squares. */
ML_INLINE int64_t operand_floats(int64_t padded) { return BLOCK * padded; }
ML_INLINE int64_t pairs_floats(int64_t padded)
{
    (void)padded;
    return 0;
}
enum { SQUARE_FLOATS = 0 };

ML_INLINE void begin_products(void) {}
ML_INLINE void end_products(void) {}

/* A = rows of x, which are fp32: nothing has to be moved. */
ML_INLINE left rows_in_place(const numbers *x, int64_t padded, float *memory)
{
    (void)padded, (void)memory;
    return (left){(const float *)x->x + x->at, x->ld, false};
}

/* A = rows of x, which right_of and right_turned may follow. */
ML_INLINE left load_rows(const numbers *x, int64_t padded, float *memory)
{
    copy_kept_rows(x->rows, x->h, x->x, x->dtype, x->at, x->ld, memory, padded);
    return (left){memory, padded, false};
}

/* B = what was loaded, which has so many rows. */
ML_INLINE right right_of(left rows, int64_t count, int64_t padded, float *memory)
{
    (void)count, (void)padded, (void)memory;
    return (right){rows.a, rows.ld};
}

/* B = its transpose, where `factor` multiplies. */
ML_INLINE right right_turned(left rows, int64_t count, int64_t h, float factor, float *memory)
{
    copy_columns(count, h, factor, rows.a, rows.ld, memory);
    return (right){memory, BLOCK};
}

/* A = a square of m × k, or the transpose of one of k × m. */
ML_INLINE left left_of_square(const float *square, int64_t m, int64_t k, float *memory)
{
    (void)m, (void)k, (void)memory;
    return (left){square, BLOCK, false};
}

ML_INLINE left left_of_turned(const float *square, int64_t m, int64_t k, float *memory)
{
    (void)m, (void)k, (void)memory;
    return (left){square, BLOCK, true};
}

/* C[m, n] (+)= A·B. */
ML_INLINE void multiply(part which, int64_t m, int64_t n, int64_t k, left a, right b, float *c,
                        int64_t ldc, bool add)
{
    ML_NATIVE(block_product)(which, m, n, k, a, b.b, b.ld, c, ldc, add);
}

/* Asks memory for row i, where there is one. */
ML_INLINE void ask_for_row(const numbers *x, int64_t i) { (void)x, (void)i; }

/* May C be so many rows of a matrix, without a slab of its own? */
ML_INLINE bool adds_in_place(int64_t rows, int64_t h)
{
    (void)rows, (void)h;
    return false;
}

/* The rows that were loaded, and their transpose, as floats. */
ML_INLINE const float *rows_as_floats(left rows, const numbers *x, int64_t padded, float *memory)
{
    (void)x, (void)padded, (void)memory;
    return rows.a;
}

ML_INLINE const float *turned_as_floats(right turned, int64_t count, int64_t h, float factor,
                                        const float *rows, int64_t ld, float *memory)
{
    (void)count, (void)h, (void)factor, (void)rows, (void)ld, (void)memory;
    return turned.b;
}

#endif
#endif
