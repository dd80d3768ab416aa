/* The quantiser of the widest instruction set. Unlike paths of products it is not measured: all
 * make the same bytes. */
#include "kernels/quantise.h"
#include "mpilora/kernels.h"

extern const ml_vector_quantiser ml_vector_quantiser_generic;
#ifdef MPILORA_NATIVE_X86
extern const ml_vector_quantiser ml_vector_quantiser_avx2, ml_vector_quantiser_avx512;
#endif

static const ml_vector_quantiser *const quantisers[] = {
#ifdef MPILORA_NATIVE_X86
    &ml_vector_quantiser_avx512, &ml_vector_quantiser_avx2,
#endif
    &ml_vector_quantiser_generic}; /* the widest first */

const ml_vector_quantiser *ml_choose_vector_quantiser(void)
{
    const ml_kernels_paths paths = ml_kernels_available(ML_FP32);
    int last = sizeof quantisers / sizeof *quantisers - 1, i = 0;
    while (i < last && !ml_kernels_paths_have(&paths, NULL, quantisers[i]->name)) i++;
    return quantisers[i];
}
