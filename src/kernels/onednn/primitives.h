/* A cache of oneDNN matmul primitives: C[m, n] (+)= A[m, k]·W with the weight as it lies in memory.
 *
 * Creating a primitive costs more than running a small one, so each shape is made once. Everything
 * lies in one block of memory that the caller gives (zero-filled); oneDNN's own objects are its
 * own. */
#ifndef MPILORA_KERNELS_ONEDNN_PRIMITIVES_H
#define MPILORA_KERNELS_ONEDNN_PRIMITIVES_H

#include "kernels/kernels_private.h"
#include "kernels/onednn/api.h"

/* What tells one primitive from another. */
typedef struct ml_matmul_key {
    int64_t m, rows, cols; /* W is rows × cols; C[m, rows] or C[m, cols] */
    int64_t ldc;
    bool backward; /* A·W instead of A·Wᵀ */
    bool add;      /* C += */
} ml_matmul_key;

typedef struct ml_matmul {
    ml_matmul_key key;
    bool usable; /* oneDNN has more than its reference code for it */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, w, c;
} ml_matmul;

enum { ML_MATMULS_MOST = 512 };

typedef struct ml_matmul_cache {
    dnnl_data_type_t type; /* of A and W */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int count;
    ml_matmul matmuls[ML_MATMULS_MOST];
} ml_matmul_cache;

ml_status ml_matmul_cache_start(ml_matmul_cache *cache, dnnl_data_type_t type) ML_NODISCARD;
void ml_matmul_cache_stop(ml_matmul_cache *cache);
/* Runs the product; false where it is not usable or fails: nothing is computed then. */
bool ml_matmul_run(ml_matmul_cache *cache, const ml_matmul_key *key, const void *a, const void *w,
                   float *c);

#endif
