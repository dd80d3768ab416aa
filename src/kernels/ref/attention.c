/* Reference attention: one query at a time, scores recomputed in each of three loops, so that no T
 * × T matrix is needed.
 *   s_ij = scale·q_i·k_j + b_j − b_i, or cap·tanh of scale·q_i·k_j/cap,  p_ij = exp(s_ij − lse_i)
 *   o_i = Σ_j p_ij·v_j over the j that i sees: at or before it on its path, or on both sides of it,
 *     with a window those near enough
 *   with relative terms q_i·k_j becomes q_i·k_j + q_i·K_r + k_j·Q_r, r the row of i − j
 *   D_i = dO_i·o_i,  ds_ij = p_ij·(dO_i·v_j − D_i)·scale,  dq_i = Σ ds_ij·k_j,  dk_j = Σ ds_ij·q_i,
 *     dv_j = Σ p_ij·dO_i */
#include <math.h>

#include "kernels/kernels_private.h"

enum { HEAD_MOST = 1024 }; /* elements, as ml_model_spec says */

static double dot(int64_t n, const float *a, const float *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The keys that a query at position `own` attends to: positions first … n−1 of a path, or of the
 * rows of a list (`sequences` NULL). */
typedef struct keys {
    const ml_sequences *sequences;
    int64_t sequence, own, first, n;
    const int32_t *row;
    const float *bias; /* by position, of the head; NULL: none */
    int64_t head;
} keys;

static int64_t key_row(const keys *k, int64_t j)
{
    return k->sequences ? ml_sequences_row(k->sequences, k->sequence, j) : k->row[j];
}

/* s_ij before and after the cap. */
static double capped(const ml_attention_shape *shape, double score)
{
    double cap = (double)shape->cap;
    return cap > 0 ? cap * tanh(score / cap) : score;
}

/* Where a head's part of the relative row of the key at position j begins. */
static int64_t relative_at(const ml_attention_shape *shape, const keys *keys, int64_t j)
{
    const ml_relative *r = shape->relative;
    return r->row[r->most + keys->own - j] * r->ld + keys->head * shape->head_dim;
}

static double relative_terms(const ml_attention_shape *shape, const keys *keys, int64_t j,
                             const float *q, const float *key)
{
    const ml_relative *r = shape->relative;
    int64_t at = relative_at(shape, keys, j), h = shape->head_dim;
    return (r->keys ? dot(h, q, r->keys + at) : 0) +
           (r->queries ? dot(h, key, r->queries + at) : 0);
}

/* The score of a query with the key k at position j. */
static double score_of(const ml_attention_shape *shape, const keys *keys, int64_t j, const float *q,
                       const float *k)
{
    double product = dot(shape->head_dim, q, k);
    if (shape->relative) product += relative_terms(shape, keys, j, q, k);
    double score = (double)shape->scale * product;
    if (!shape->key_bias) return capped(shape, score);
    return score + (double)keys->bias[j] - (double)keys->bias[keys->own];
}

/* One query; lse may be NULL. */
static void attend_forward(const ml_attention_shape *shape, const keys *keys, const float *q,
                           const float *key, const float *value, int64_t ldkv, float *o, float *lse)
{
    double top = -INFINITY, sum = 0;
    int64_t first = keys->first, n = keys->n, h = shape->head_dim;
    for (int64_t j = first; j < n; j++)
        top = fmax(top, score_of(shape, keys, j, q, key + key_row(keys, j) * ldkv));
    for (int64_t j = first; j < n; j++)
        sum += exp(score_of(shape, keys, j, q, key + key_row(keys, j) * ldkv) - top);
    for (int64_t c = 0; c < h; c++) o[c] = 0;
    for (int64_t j = first; j < n; j++) {
        int64_t row = key_row(keys, j);
        double p = exp(score_of(shape, keys, j, q, key + row * ldkv) - top) / sum;
        for (int64_t c = 0; c < h; c++) o[c] += (float)(p * (double)value[row * ldkv + c]);
    }
    if (lse) *lse = (float)(top + log(sum));
}

static const float *bias_of(const ml_attention_shape *shape, int64_t head)
{
    return shape->key_bias ? shape->key_bias + head * shape->key_bias_stride : NULL;
}

static int64_t queries_of(const ml_sequences *sequences, int64_t s)
{
    return ml_sequences_query(sequences, s) < 0 ? 0 : sequences->start[s + 1] - sequences->start[s];
}

/* Of a sequence's t-th own token. */
static keys keys_of(const ml_attention_shape *shape, const ml_sequences *sequences, int64_t s,
                    int64_t head, int64_t t)
{
    int64_t shared = ml_sequences_shared(sequences, s), position = shared + t,
            length = shared + sequences->start[s + 1] - sequences->start[s];
    return (keys){.sequences = sequences,
                  .sequence = s,
                  .own = position,
                  .first = ml_attention_first(shape, position),
                  .n = ml_attention_end(shape, position, length),
                  .bias = bias_of(shape, head),
                  .head = head};
}

static void attention_forward(const ml_kernels *k, const ml_attention_shape *shape,
                              const ml_sequences *sequences, const float *q, int64_t ldq,
                              const float *key, const float *value, int64_t ldkv, float *o,
                              int64_t ldo, float *lse)
{
    (void)k;
    int64_t T = ml_sequences_queries(sequences), h = shape->head_dim,
            group = shape->heads / shape->kv_heads;
    for (int64_t s = 0; s < sequences->count; s++)
        for (int64_t head = 0; head < shape->heads; head++)
            for (int64_t t = 0; t < queries_of(sequences, s); t++) {
                const keys keys = keys_of(shape, sequences, s, head, t);
                int64_t kv = head / group * h, i = ml_sequences_query(sequences, s) + t;
                attend_forward(shape, &keys, q + i * ldq + head * h, key + kv, value + kv, ldkv,
                               o + i * ldo + head * h, lse + head * T + i);
            }
}

/* y += factor·x */
static void add_scaled(int64_t n, double factor, const float *x, float *y)
{
    for (int64_t c = 0; c < n; c++) y[c] += (float)(factor * (double)x[c]);
}

static void relative_gradients(const ml_attention_shape *shape, const keys *keys, int64_t j,
                               double ds, const float *q, const float *key, float *dq, float *dk)
{
    const ml_relative *r = shape->relative;
    int64_t at = relative_at(shape, keys, j), h = shape->head_dim;
    if (r->keys) add_scaled(h, ds, r->keys + at, dq);
    if (r->queries) add_scaled(h, ds, r->queries + at, dk);
    if (r->keys && r->d_keys) add_scaled(h, ds, q, r->d_keys + at);
    if (r->queries && r->d_queries) add_scaled(h, ds, key, r->d_queries + at);
}

static void clear_relative(const ml_attention_shape *shape)
{
    const ml_relative *r = shape->relative;
    float *const both[] = {r->d_keys, r->d_queries};
    for (int i = 0; i < 2; i++)
        for (int64_t row = 0; both[i] && row < r->rows; row++)
            memset(both[i] + row * r->ld, 0,
                   (size_t)(shape->heads * shape->head_dim) * sizeof *both[i]);
}

/* h numbers from the at-th on, in `room` where they are no floats. */
static const float *kept_row(const void *x, ml_dtype dtype, int64_t at, int64_t h, float *room)
{
    if (dtype == ML_FP32) return (const float *)x + at;
    ml_dtype_decode(dtype, x, at, h, room);
    return room;
}

/* All that one query of one head gives to dq, and to dk and dv from their kv-th column on; NULL:
 * not wanted. */
static void attend_backward(const ml_attention_shape *shape, const keys *keys,
                            const ml_attention_kept *kept, int64_t kv, const float *q,
                            const float *o, float lse, const float *d_o, float *dq, float *dk,
                            float *dv, int64_t lddkv)
{
    int64_t h = shape->head_dim;
    float rooms[2][HEAD_MOST];
    double scale = (double)shape->scale, D = dot(h, d_o, o);
    for (int64_t c = 0; dq && c < h; c++) dq[c] = 0;
    for (int64_t j = keys->first; j < keys->n; j++) {
        int64_t row = key_row(keys, j), at = row * kept->ldkv + kv, to = row * lddkv + kv;
        const float *key = kept_row(kept->key, kept->dtype, at, h, rooms[0]),
                    *value = kept_row(kept->value, kept->dtype, at, h, rooms[1]);
        double score = score_of(shape, keys, j, q, key), p = exp(score - (double)lse);
        double ds = p * (dot(h, d_o, value) - D) * scale;
        double turn = shape->cap > 0 ? score / (double)shape->cap : 0; /* tanh */
        ds *= 1 - turn * turn;
        if (dq) add_scaled(h, ds, key, dq);
        for (int64_t c = 0; dk && c < h; c++) {
            dk[to + c] += (float)(ds * (double)q[c]);
            dv[to + c] += (float)(p * (double)d_o[c]);
        }
        if (shape->relative) relative_gradients(shape, keys, j, ds, q, key, dq, dk + to);
    }
}

static void attention_backward(const ml_kernels *k, const ml_attention_shape *shape,
                               const ml_sequences *sequences, const ml_attention_kept *kept,
                               const float *d_o, int64_t lddo, float *dq, int64_t lddq, float *dk,
                               float *dv, int64_t lddkv)
{
    (void)k;
    float rooms[2][HEAD_MOST];
    int64_t T = ml_sequences_queries(sequences), h = shape->head_dim,
            group = shape->heads / shape->kv_heads;
    for (int64_t t = 0; dk && t < sequences->start[sequences->count]; t++)
        for (int64_t c = 0; c < shape->kv_heads * h; c++) dk[t * lddkv + c] = dv[t * lddkv + c] = 0;
    if (shape->relative) clear_relative(shape);
    for (int64_t s = 0; s < sequences->count; s++)
        for (int64_t head = 0; head < shape->heads; head++)
            for (int64_t t = 0; t < queries_of(sequences, s); t++) {
                const keys keys = keys_of(shape, sequences, s, head, t);
                int64_t kv = head / group * h, i = ml_sequences_query(sequences, s) + t;
                attend_backward(
                    shape, &keys, kept, kv,
                    kept_row(kept->q, kept->dtype, i * kept->ldq + head * h, h, rooms[0]),
                    kept_row(kept->o, kept->o_dtype, i * kept->ldo + head * h, h, rooms[1]),
                    kept->lse[head * T + i], d_o + i * lddo + head * h,
                    dq ? dq + i * lddq + head * h : NULL, dk, dv, lddkv);
            }
}

static void attention_decode(const ml_kernels *k, const ml_attention_shape *shape, int64_t n,
                             const int32_t *row, const float *q, const float *key,
                             const float *value, int64_t ldkv, float *o)
{
    (void)k;
    int64_t h = shape->head_dim, group = shape->heads / shape->kv_heads;
    for (int64_t head = 0; head < shape->heads; head++) {
        const keys keys = {.own = n - 1,
                           .first = ml_attention_first(shape, n - 1),
                           .n = n,
                           .row = row,
                           .bias = bias_of(shape, head)};
        attend_forward(shape, &keys, q + head * h, key + head / group * h, value + head / group * h,
                       ldkv, o + head * h, NULL);
    }
}

void ml_reference_attention(ml_kernels *table)
{
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_decode = attention_decode;
}
