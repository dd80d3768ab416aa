/* directions: the singular vectors of an adapter's factors. Local; private to analyze/. */
#ifndef MPILORA_ANALYZE_DIRECTIONS_H
#define MPILORA_ANALYZE_DIRECTIONS_H

#include "mpilora/analyze.h"

/* Orthonormal vectors with their singular values, the largest first. Zeroed by the caller; ended
 * with directions_destroy. */
typedef struct directions {
    int64_t count, length;
    double *vector; /* [count, length] */
    double *sigma;  /* [count] */
} directions;

void directions_destroy(directions *d);

/* How many of the singular values are more than rounding: those above max(length, other
 * side)·2⁻⁵²·(the largest). */
int64_t directions_rank(const directions *d, int64_t other_side);

/* The singular vectors of a pair's factor, as many as its numerical rank. ML_INPUT naming the
 * module where that is none. */
ml_status directions_of(directions *out, const ml_adapter_pair *pair,
                        ml_factor factor) ML_NODISCARD;

/* All r of ΔW = s·B·A, on both sides; count is r on both, whatever the numerical rank. */
ml_status directions_of_delta(directions *left, directions *right,
                              const ml_adapter_pair *pair) ML_NODISCARD;

/* Those of a matrix of Gaussian numbers with `count` rows of `length`, a function of seed and name
 * alone. */
ml_status directions_random(directions *out, int64_t count, int64_t length, uint64_t seed,
                            const char *name) ML_NODISCARD;

#endif
