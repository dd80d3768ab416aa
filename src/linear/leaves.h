/* leaves: the products of linear layers whose contracted dimension tp cuts, with sums whose order
 * does not depend on tp. An internal header. */
#ifndef MPILORA_LINEAR_LEAVES_H
#define MPILORA_LINEAR_LEAVES_H

#include "mpilora/linear.h"

/* Of a row-parallel layer with leaves: y = Σ_tp x·Wᵀ. Collective over tp. */
void ml_linear_forward_leaves(const ml_linear *layer, const ml_pass *pass, const float *x,
                              float *y);
/* Of a column-parallel one: dx = Σ_tp dy·W. Collective over tp. */
void ml_linear_backward_leaves(const ml_linear *layer, const ml_pass *pass, const float *dy,
                               float *dx);

#endif
