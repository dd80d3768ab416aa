/* Makes the table of a rank: one block that holds the owner and all scratch memory, the vector
 * path, then the backend. ml_kernels_workspace_bytes adds up the same sizes. */
#include <omp.h>
#include <stdlib.h>

#include "kernels/kernels_private.h"

typedef struct sizes {
    int64_t owner, product, attention, rounded; /* bytes, each a multiple of 64 */
} sizes;

static sizes sizes_of(const ml_kernels_options *options, int threads)
{
    int64_t floats = ml_product_scratch_floats(options, threads);
    return (sizes){
        .owner = ml_round_up((int64_t)sizeof(ml_kernels_owner), 64),
        .product = ml_round_up(floats * (int64_t)sizeof(float), 64),
        .attention = ml_round_up(ml_attention_scratch_bytes(options, threads), 64),
        .rounded = ml_rounded_scratch_bytes(options),
    };
}

/* Options with the environment's words put over the caller's. */
static ml_kernels_options with_environment(const ml_kernels_options *options)
{
    ml_kernels_options o = *options;
    const char *product = getenv("MPILORA_PRODUCT_PATH"), *vector = getenv("MPILORA_VECTOR_PATH");
    if (product && *product) o.backend = product;
    if (vector && *vector) o.vector_path = vector;
    return o;
}

int64_t ml_kernels_workspace_bytes(const ml_kernels_options *options, int threads)
{
    ml_kernels_options o = with_environment(options);
    sizes s = sizes_of(&o, threads);
    return s.owner + s.product + s.attention + s.rounded;
}

ml_status ml_kernels_create(ml_kernels **out, const ml_kernels_options *options)
{
    ml_status st = ML_OK;
    ml_kernels_options o = with_environment(options);
    int threads = omp_get_max_threads();
    sizes s = sizes_of(&o, threads);
    char *block = NULL;
    ml_kernels_owner *owner = NULL;
    ML_NEW(block, s.owner + s.product + s.attention + s.rounded, ML_MEM_WORKSPACE,
           "the kernels' workspace");
    owner = (ml_kernels_owner *)(void *)block;
    owner->table = *ml_kernels_reference();
    owner->table.workspace = owner;
    owner->threads = threads;
    owner->ordered = o.ordered;
    owner->product_scratch = (float *)(void *)(block + s.owner);
    owner->product_floats = s.product / (int64_t)sizeof(float);
    owner->panel_floats = ml_panel_scratch_floats(&o, threads);
    ml_attention_scratch_place(&owner->attention, &o, block + s.owner + s.product);
    ML_TRY(ml_choose_vector_path(&owner->table, &o));
    ML_TRY(ml_choose_backend(owner, &o));
    ml_rounded_start(owner, &o, block + s.owner + s.product + s.attention);
    *out = &owner->table;
    owner = NULL;
done:
    if (owner) ml_kernels_destroy(&owner->table);
    return st;
}

void ml_kernels_destroy(ml_kernels *kernels)
{
    if (!kernels) return;
    ml_kernels_owner *owner = ml_kernels_owner_of(kernels);
    if (owner->product && owner->product->stop) owner->product->stop(owner);
    ml_memory_free(owner);
}

int64_t ml_kernels_rates(const ml_kernels *kernels, const ml_kernels_rate **rates, bool *recalled)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(kernels);
    *rates = owner->rates;
    if (recalled) *recalled = owner->recalled;
    return owner->nrates;
}

double ml_kernels_peak_gflops(const ml_kernels *kernels)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(kernels);
    return owner->peak_gflops ? owner->peak_gflops(owner->threads) : 0;
}

double ml_kernels_read_seconds(const ml_kernels *kernels, int64_t count,
                               const ml_memory_span *spans)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(kernels);
    if (!owner->read_memory) return 0;
    double start = ml_seconds();
    (void)owner->read_memory(owner->threads, count,
                             spans); /* of another file: not optimised away */
    return ml_seconds() - start;
}
