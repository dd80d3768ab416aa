/* What differs between the C interfaces of oneDNN 2 and 3, as the cache of primitives needs it.
 *
 * In oneDNN 3 a memory descriptor is an object that is created and destroyed, and a primitive's
 * description is made in one call; in oneDNN 2 both are plain structures that are filled in. */
#ifndef MPILORA_KERNELS_ONEDNN_API_H
#define MPILORA_KERNELS_ONEDNN_API_H

#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>

#if DNNL_VERSION_MAJOR >= 3

/* A matrix with a distance between its rows and between its columns. */
static inline bool onednn_matrix(dnnl_memory_desc_t *out, const dnnl_dims_t size,
                                 dnnl_data_type_t type, const dnnl_dims_t step)
{
    return dnnl_memory_desc_create_with_strides(out, 2, size, type, step) == dnnl_success;
}

static inline void onednn_matrix_free(dnnl_memory_desc_t *matrix)
{
    if (*matrix) dnnl_memory_desc_destroy(*matrix);
}

static inline bool onednn_memory(dnnl_memory_t *out, const dnnl_memory_desc_t *matrix,
                                 dnnl_engine_t engine)
{
    return dnnl_memory_create(out, *matrix, engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static inline bool onednn_append_sum(dnnl_post_ops_t after)
{
    return dnnl_post_ops_append_sum(after, 1, 0, dnnl_data_type_undef) == dnnl_success;
}

/* C = A·W */
static inline bool onednn_product(dnnl_primitive_desc_t *out, const dnnl_memory_desc_t *a,
                                  const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *c,
                                  dnnl_primitive_attr_t attributes, dnnl_engine_t engine)
{
    return dnnl_matmul_primitive_desc_create(out, engine, *a, *w, NULL, *c, attributes) ==
           dnnl_success;
}

#else

static inline bool onednn_matrix(dnnl_memory_desc_t *out, const dnnl_dims_t size,
                                 dnnl_data_type_t type, const dnnl_dims_t step)
{
    return dnnl_memory_desc_init_by_strides(out, 2, size, type, step) == dnnl_success;
}

static inline void onednn_matrix_free(dnnl_memory_desc_t *matrix) { (void)matrix; }

static inline bool onednn_memory(dnnl_memory_t *out, const dnnl_memory_desc_t *matrix,
                                 dnnl_engine_t engine)
{
    return dnnl_memory_create(out, matrix, engine, DNNL_MEMORY_NONE) == dnnl_success;
}

static inline bool onednn_append_sum(dnnl_post_ops_t after)
{
    return dnnl_post_ops_append_sum(after, 1) == dnnl_success;
}

static inline bool onednn_product(dnnl_primitive_desc_t *out, const dnnl_memory_desc_t *a,
                                  const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *c,
                                  dnnl_primitive_attr_t attributes, dnnl_engine_t engine)
{
    dnnl_matmul_desc_t product;
    return dnnl_matmul_desc_init(&product, a, w, NULL, c) == dnnl_success &&
           dnnl_primitive_desc_create(out, &product, attributes, engine, NULL) == dnnl_success;
}

#endif

#endif
