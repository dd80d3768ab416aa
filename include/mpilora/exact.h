/* exact: sums whose order cannot matter, since nothing is rounded before the end.
 *
 * IEEE sums depend on their order, and so on how many ranks, micro-batches and threads share the
 * addends. Here addends become integers: of floats in units of 2^-90 in 128 bits (an addend's
 * digits below that are cut off, each for itself), of doubles in all bits that a double can have
 * (Kulisch's long accumulator; Demmel and Nguyen 2015, Collange and others 2015). Integers are
 * added in any order, over ranks too, and rounded once.
 */
#ifndef MPILORA_EXACT_H
#define MPILORA_EXACT_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

/* A number in units of 2^-ML_FIXED_BELOW, two's complement: high · 2^64 + low of them. */
typedef struct ml_fixed {
    uint64_t low;
    int64_t high;
} ml_fixed;

/* Addends lie below 2^ML_FIXED_TOP, and so does what a rank has of a sum: 2^13 ranks can add
 * theirs. */
enum { ML_FIXED_BELOW = 90, ML_FIXED_TOP = 24 };

/* sum[i] += x[i], and x[i] ← 0; an x[i] that is not finite, or with which |sum[i]| would reach
 * 2^ML_FIXED_TOP, becomes NaN instead. Returns how many became, or were, NaN.
 * Shapes: x[n], sum[n].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
int64_t ml_fixed_take(int64_t n, float *x, ml_fixed *sum);

/* a + b, modulo 2^128 units.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
static inline ml_fixed ml_fixed_add(ml_fixed a, ml_fixed b)
{
    uint64_t low = a.low + b.low;
    return (ml_fixed){low, (int64_t)((uint64_t)a.high + (uint64_t)b.high + (low < a.low))};
}

/* The sum as a float, rounded to nearest, ties to even.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
float ml_fixed_to_float(ml_fixed sum);

enum { ML_EXACT_DIGITS = 70 };

/* A sum of doubles: digit i counts 2^(32·i − 1074), the last one what was not finite. It starts
 * as {0}; sums of ranks are added digit by digit, as integers, after ml_exact_settle. */
typedef struct ml_exact {
    int64_t digit[ML_EXACT_DIGITS];
    int64_t added; /* since digits were last carried over */
} ml_exact;

/* sum += x, and sum += Σ x².
 * Shapes: x[n].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_exact_add(ml_exact *sum, double x);
void ml_exact_add_squares(ml_exact *sum, int64_t n, const float *x);

/* Carries digits over, so that each is below 2^32 and 2^30 ranks can add theirs.
 * Shapes: none.
 * Ownership: borrows `sum`.
 * Local.
 * Errors: none. */
void ml_exact_settle(ml_exact *sum);

/* The sum as a double, rounded to nearest; NaN where an addend was not finite.
 * Shapes: none.
 * Ownership: borrows `sum`.
 * Local.
 * Errors: none. */
double ml_exact_to_double(const ml_exact *sum);

ML_END_DECLS

#endif
