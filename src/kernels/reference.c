/* The reference table: every entry by plain loops. */
#include <threads.h>

#include "kernels/kernels_private.h"

static ml_kernels reference = {.backend = "ref", .vector_path = "ref"};
static once_flag filled = ONCE_FLAG_INIT;

static void fill(void)
{
    ml_reference_products(&reference);
    ml_reference_norms(&reference);
    ml_reference_exponentials(&reference);
    ml_reference_attention(&reference);
    ml_reference_vectors(&reference);
}

const ml_kernels *ml_kernels_reference(void)
{
    call_once(&filled, fill);
    return &reference;
}
