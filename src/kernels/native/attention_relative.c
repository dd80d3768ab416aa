/* The relative terms of a pair of blocks (ml_relative). Of its distances, at most 127, many fall on
 * one row where blocks lie far apart: each row is loaded and multiplied once, and picked by the
 * distance:
 *   s_ij += C[r][i] + P[r][j],  C = K_r·Qᵀ, P = Q_r·Kᵀ, r the number of i − j
 * Backward the other way: E[r][i] = Σ_j dS_ij and F[r][j] = Σ_i dS_ij over the pairs of number r,
 *   dQ += Eᵀ·K_r, dK_r += E·Q, dK += Fᵀ·Q_r, dQ_r += F·K
 * So memory does not grow with the tokens, and all work is products of blocks. */
#include "kernels/native/attention.h"

relative_space ML_NATIVE(relative_space_of)(float *memory, int64_t padded)
{
    const int64_t slab = BLOCK * padded, square = BLOCK * BLOCK;
    float *next = memory + ML_ATTENTION_SLABS * slab + ML_ATTENTION_SQUARES * square +
                  ML_ATTENTION_COLUMNS * (int64_t)BLOCK;
    relative_space s;
    s.key_rows = next;
    s.query_rows = s.key_rows + 2 * slab;
    s.d_rows = s.query_rows + 2 * slab;
    s.queries_t = s.d_rows + 2 * slab;
    s.keys_t = s.queries_t + slab;
    s.queries = s.keys_t + slab;
    s.keys = s.queries + slab;
    s.of_queries = s.keys + slab;
    s.of_keys = s.of_queries + 2 * square;
    return s;
}

/* Distances that no pair of these rows has get the number 0: what is computed with them is not
 * used. */
static void find_distances(const ml_relative *r, block queries, block keys, distances *d)
{
    int64_t apart = queries.position - keys.position;
    d->count = 0;
    memset(d->number, 0, sizeof d->number);
    for (int64_t x = 1 - keys.rows; x < queries.rows; x++) {
        int32_t row = r->row[r->most + apart + x];
        if (d->count == 0 || d->row[d->count - 1] != row) d->row[d->count++] = row;
        d->number[BLOCK - 1 + x] = (int32_t)(d->count - 1);
    }
}

static void load_rows(const distances *d, int64_t h, const float *x, int64_t ld, float *to,
                      int64_t padded)
{
    for (int64_t i = 0; i < d->count; i++)
        copy_rows(1, h, x + d->row[i] * ld, ld, to + i * padded, padded);
}

void ML_NATIVE(relative_products)(const ml_attention_shape *shape, const relative_space *s,
                                  block queries, block keys, int64_t head, const float *queries_t,
                                  const float *keys_t, distances *d)
{
    const ml_relative *r = shape->relative;
    int64_t h = shape->head_dim, padded = padded_head(shape);
    find_distances(r, queries, keys, d);
    if (r->keys) {
        load_rows(d, h, r->keys + head * h, r->ld, s->key_rows, padded);
        ML_NATIVE(block_product)
        (PART_ALL, d->count, ml_round_up(queries.rows, ML_LANES), h,
         (operand){s->key_rows, padded, false}, queries_t, BLOCK, s->of_queries, BLOCK, false);
    }
    if (r->queries) {
        load_rows(d, h, r->queries + head * h, r->ld, s->query_rows, padded);
        ML_NATIVE(block_product)
        (PART_ALL, d->count, ml_round_up(keys.rows, ML_LANES), h,
         (operand){s->query_rows, padded, false}, keys_t, BLOCK, s->of_keys, BLOCK, false);
    }
}

/* Row i of d_rows onto the gradient of the row that has number i. */
static void add_to_rows(const distances *d, int64_t h, const float *d_rows, int64_t padded,
                        float *to, int64_t ld)
{
    for (int64_t i = 0; i < d->count; i++) {
        const float *from = d_rows + i * padded;
        float *row = to + d->row[i] * ld;
#pragma omp simd
        for (int64_t c = 0; c < h; c++) row[c] += from[c];
    }
}

/* One of the two halves of backward: sums [count][BLOCK] of the tokens `x` [BLOCK][padded], whose
 * gradient is d_x, with the rows whose gradient is `d_row` (NULL: not wanted). */
static void half(const ml_attention_shape *shape, const relative_space *s, const distances *d,
                 int64_t tokens, const float *sums, const float *x, float *d_x, const float *rows,
                 float *d_row)
{
    int64_t padded = padded_head(shape);
    ML_NATIVE(block_product)
    (PART_ALL, tokens, padded, d->count, (operand){sums, BLOCK, true}, rows, padded, d_x, padded,
     true);
    if (!d_row) return;
    ML_NATIVE(block_product)
    (PART_ALL, d->count, padded, tokens, (operand){sums, BLOCK, false}, x, padded, s->d_rows,
     padded, false);
    add_to_rows(d, shape->head_dim, s->d_rows, padded, d_row, shape->relative->ld);
}

static float *from_head(float *x, int64_t at) { return x ? x + at : NULL; }

void ML_NATIVE(relative_gradients)(const ml_attention_shape *shape, const relative_space *s,
                                   const distances *d, block queries, block keys, int64_t head,
                                   const float *ds, const float *query_rows, const float *key_rows,
                                   float *d_queries, float *d_keys)
{
    const ml_relative *r = shape->relative;
    const size_t bytes = (size_t)(d->count * BLOCK) * sizeof(float);
    int64_t at = head * shape->head_dim;
    if (r->keys) {
        memset(s->of_queries, 0, bytes);
        for (int64_t j = 0; j < keys.rows; j++) /* neighbours in i never add to one place */
            for (int64_t i = 0; i < queries.rows; i++)
                s->of_queries[d->number[BLOCK - 1 + i - j] * BLOCK + i] += ds[i * BLOCK + j];
        half(shape, s, d, queries.rows, s->of_queries, query_rows, d_queries, s->key_rows,
             from_head(r->d_keys, at));
    }
    if (r->queries) {
        memset(s->of_keys, 0, bytes);
        for (int64_t i = 0; i < queries.rows; i++)
            for (int64_t j = 0; j < keys.rows; j++)
                s->of_keys[d->number[BLOCK - 1 + i - j] * BLOCK + j] += ds[i * BLOCK + j];
        half(shape, s, d, keys.rows, s->of_keys, key_rows, d_keys, s->query_rows,
             from_head(r->d_queries, at));
    }
}
