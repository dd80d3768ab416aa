/* The cache of matmul primitives: a list, searched from its start (a model has few shapes). */
#include "kernels/onednn/primitives.h"

ml_status ml_matmul_cache_start(ml_matmul_cache *cache, dnnl_data_type_t type)
{
    memset(cache, 0, sizeof *cache);
    cache->type = type;
    if (dnnl_engine_create(&cache->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&cache->stream, cache->engine, dnnl_stream_default_flags) !=
            dnnl_success)
        return ml_fail(ML_RESOURCE, "oneDNN does not start: no engine for this processor");
    return ML_OK;
}

static void destroy_matmul(ml_matmul *x)
{
    if (x->primitive) dnnl_primitive_destroy(x->primitive);
    if (x->a) dnnl_memory_destroy(x->a);
    if (x->w) dnnl_memory_destroy(x->w);
    if (x->c) dnnl_memory_destroy(x->c);
    x->primitive = NULL;
    x->a = x->w = x->c = NULL;
    x->usable = false;
}

void ml_matmul_cache_stop(ml_matmul_cache *cache)
{
    for (int i = 0; i < cache->count; i++) destroy_matmul(&cache->matmuls[i]);
    if (cache->stream) dnnl_stream_destroy(cache->stream);
    if (cache->engine) dnnl_engine_destroy(cache->engine);
    memset(cache, 0, sizeof *cache);
}

/* The three matrices: A[m, k]; W read as [k, n] through its strides; C[m, n]. */
typedef struct matrices {
    dnnl_memory_desc_t a, w, c;
} matrices;

static bool describe(const ml_matmul_cache *cache, const ml_matmul_key *key, matrices *out)
{
    int64_t n = key->backward ? key->cols : key->rows, k = key->backward ? key->rows : key->cols;
    const dnnl_dims_t a_size = {key->m, k}, a_step = {k, 1}, w_size = {k, n}, c_size = {key->m, n},
                      c_step = {key->ldc, 1};
    const dnnl_dims_t w_step = {key->backward ? key->cols : 1, key->backward ? 1 : key->cols};
    return onednn_matrix(&out->a, a_size, cache->type, a_step) &&
           onednn_matrix(&out->w, w_size, cache->type, w_step) &&
           onednn_matrix(&out->c, c_size, dnnl_f32, c_step);
}

static void free_matrices(matrices *x)
{
    onednn_matrix_free(&x->a);
    onednn_matrix_free(&x->w);
    onednn_matrix_free(&x->c);
}

static bool create_attributes(bool add, dnnl_primitive_attr_t *attributes)
{
    dnnl_post_ops_t after = NULL;
    if (dnnl_primitive_attr_create(attributes) != dnnl_success) return false;
    if (!add) return true;
    bool ok = dnnl_post_ops_create(&after) == dnnl_success && onednn_append_sum(after) &&
              dnnl_primitive_attr_set_post_ops(*attributes, after) == dnnl_success;
    if (after) dnnl_post_ops_destroy(after);
    return ok;
}

/* oneDNN's reference code is far slower than panels. */
static bool is_fast(const_dnnl_primitive_desc_t description)
{
    const char *name = NULL;
    return dnnl_primitive_desc_query(description, dnnl_query_impl_info_str, 0, &name) ==
               dnnl_success &&
           name && strncmp(name, "ref", 3) != 0;
}

static void create_matmul(const ml_matmul_cache *cache, ml_matmul *x)
{
    matrices on = {0};
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t description = NULL;
    x->usable =
        describe(cache, &x->key, &on) && create_attributes(x->key.add, &attributes) &&
        onednn_product(&description, &on.a, &on.w, &on.c, attributes, cache->engine) &&
        is_fast(description) && dnnl_primitive_create(&x->primitive, description) == dnnl_success &&
        onednn_memory(&x->a, &on.a, cache->engine) && onednn_memory(&x->w, &on.w, cache->engine) &&
        onednn_memory(&x->c, &on.c, cache->engine);
    if (description) dnnl_primitive_desc_destroy(description);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    free_matrices(&on);
    if (!x->usable) destroy_matmul(x);
}

static bool same_key(const ml_matmul_key *a, const ml_matmul_key *b)
{
    return a->m == b->m && a->rows == b->rows && a->cols == b->cols && a->ldc == b->ldc &&
           a->backward == b->backward && a->add == b->add;
}

static const ml_matmul *find(ml_matmul_cache *cache, const ml_matmul_key *key)
{
    for (int i = 0; i < cache->count; i++)
        if (same_key(&cache->matmuls[i].key, key)) return &cache->matmuls[i];
    if (cache->count == ML_MATMULS_MOST) return NULL;
    ml_matmul *x = &cache->matmuls[cache->count++];
    *x = (ml_matmul){.key = *key};
    create_matmul(cache, x);
    return x;
}

/* oneDNN takes the inputs as plain void pointers but does not write them. */
static void *unconst(const void *p)
{
    union {
        const void *in;
        void *out;
    } same = {p};
    return same.out;
}

bool ml_matmul_run(ml_matmul_cache *cache, const ml_matmul_key *key, const void *a, const void *w,
                   float *c)
{
    const ml_matmul *x = find(cache, key);
    if (!x || !x->usable) return false;
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, x->a}, {DNNL_ARG_WEIGHTS, x->w}, {DNNL_ARG_DST, x->c}};
    return dnnl_memory_set_data_handle(x->a, unconst(a)) == dnnl_success &&
           dnnl_memory_set_data_handle(x->w, unconst(w)) == dnnl_success &&
           dnnl_memory_set_data_handle(x->c, c) == dnnl_success &&
           dnnl_primitive_execute(x->primitive, cache->stream, 3, arguments) == dnnl_success &&
           dnnl_stream_wait(cache->stream) == dnnl_success;
}
