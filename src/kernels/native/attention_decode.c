/* One new token against a cache of n: each query head runs over the keys in blocks with a running
 * softmax; bound by reading the cache, of which a window reads its own positions alone. */
#include "kernels/native/attention.h"

ML_INLINE float dot(int64_t n, const float *a, const float *b)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

typedef struct running {
    float top, sum;
} running;

/* Adds the keys of one block to o (not yet divided by the sum). bias: theirs, or NULL; own: the
 * query's. */
static void decode_block(const ml_attention_shape *shape, int64_t keys, const int32_t *row,
                         const float *bias, float own, const float *q, const float *key,
                         const float *value, int64_t ldkv, running *r, float *o)
{
    float p[BLOCK];
    int64_t h = shape->head_dim;
    for (int64_t j = 0; j < keys; j++) p[j] = shape->scale * dot(h, q, key + row[j] * ldkv);
    if (shape->cap > 0) {
#pragma omp simd
        for (int64_t j = 0; j < keys; j++) p[j] = shape->cap * ml_native_tanh(p[j] / shape->cap);
    }
    for (int64_t j = 0; bias && j < keys; j++) p[j] += bias[j] - own;
    float top = ml_native_max(keys, p), keep;
    top = top > r->top ? top : r->top;
    keep = ml_native_exp(r->top - top);
    r->sum *= keep;
    r->top = top;
#pragma omp simd
    for (int64_t x = 0; x < h; x++) o[x] *= keep;
    for (int64_t j = 0; j < keys; j++) {
        float weight = ml_native_exp(p[j] - top);
        r->sum += weight;
#pragma omp simd
        for (int64_t x = 0; x < h; x++) o[x] += weight * value[row[j] * ldkv + x];
    }
}

void ML_NATIVE(attention_decode)(const ml_kernels *k, const ml_attention_shape *shape, int64_t n,
                                 const int32_t *row, const float *q, const float *key,
                                 const float *value, int64_t ldkv, float *o)
{
    (void)k;
    int64_t h = shape->head_dim, group = shape->heads / shape->kv_heads,
            first = ml_attention_first(shape, n - 1);
#pragma omp parallel for schedule(static) if ((n - first) * shape->heads * h >= ML_PARALLEL_FROM)
    for (int64_t head = 0; head < shape->heads; head++) {
        float *out = o + head * h;
        const float *bias =
            shape->key_bias ? shape->key_bias + head * shape->key_bias_stride : NULL;
        running r = {-1e30f, 0};
        for (int64_t x = 0; x < h; x++) out[x] = 0;
        int64_t at = head / group * h;
        for (int64_t j = first; j < n; j += BLOCK)
            decode_block(shape, ml_min(BLOCK, n - j), row + j, bias ? bias + j : NULL,
                         bias ? bias[n - 1] : 0, q + head * h, key + at, value + at, ldkv, &r, out);
        for (int64_t x = 0; x < h; x++) out[x] /= r.sum;
    }
}
