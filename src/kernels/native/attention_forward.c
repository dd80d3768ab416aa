/* Attention forward: each (query block, query head) is one task. It runs over the key blocks on
 * its path with a running softmax:
 *   Sᵀ = K·Qᵀ (keys × queries, so that a vector holds queries: maxima and sums need no horizontal
 *     step),
 *   m' = max(m, max_j s), P = exp(S − m'), l = l·e^(m − m') + Σ_j P, O = O·e^(m − m') + P·V;  at
 *     the end O / l and lse = m + log l. */
#include <math.h>
#include <omp.h>

#include "kernels/native/operands.h"

typedef struct call {
    const ml_attention_shape *shape;
    const ml_sequences *sequences;
    const float *q, *key, *value;
    int64_t ldq, ldkv, ldo, T, padded;
    float *o, *lse;
} call;

typedef struct space {
    float *queries_t;        /* room for Qᵀ */
    float *keys;             /* for rows of Q, then of K */
    float *values, *pairs;   /* for V, and what it is multiplied as */
    float *p;                /* for P as it is multiplied */
    float *out;              /* [BLOCK][padded] */
    float *scores;           /* [BLOCK keys][BLOCK queries] */
    float *top, *sum, *keep; /* [BLOCK] queries: m, l, e^(m − m') */
    relative_space relative;
} space;

static space space_of(float *memory, int64_t padded)
{
    const int64_t operand = operand_floats(padded);
    space s;
    s.queries_t = memory;
    s.keys = s.queries_t + operand;
    s.values = s.keys + operand;
    s.pairs = s.values + operand;
    s.p = s.pairs + pairs_floats(padded);
    s.out = s.p + SQUARE_FLOATS;
    s.scores = s.out + BLOCK * padded;
    s.top = s.scores + BLOCK * BLOCK;
    s.sum = s.top + BLOCK;
    s.keep = s.sum + BLOCK;
    s.relative = ML_NATIVE(relative_space_of)(memory, padded);
    return s;
}

/* The queries that come before key j do not attend to it; all but the last few of these are left
 * out of every loop. */
ML_INLINE int64_t first_query(bool diagonal, int64_t j)
{
    return diagonal ? ml_max(0, j - BEYOND_DIAGONAL) / ML_LANES * ML_LANES : 0;
}

static void scale_scores(float scale, bool diagonal, int64_t keys, int64_t n, float *scores)
{
    for (int64_t j = 0; j < keys; j++) {
        float *row = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++) row[i] *= scale;
    }
}

/* s → cap·tanh(s/cap), of the scores that are used. */
static void cap_scores(float cap, bool diagonal, int64_t keys, int64_t n, float *scores)
{
    const float inverse = 1 / cap;
    for (int64_t j = 0; j < keys; j++) {
        float *row = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++)
            row[i] = cap * ml_native_tanh(inverse * row[i]);
    }
}

static void mask_diagonal(int64_t keys, float *scores)
{
    for (int64_t j = 1; j < keys; j++)
        for (int64_t i = first_query(true, j); i < j; i++) scores[j * BLOCK + i] = -INFINITY;
}

/* The queries whose window ends behind key j, or before it, do not attend to it. A query that sees
 * no key of the block keeps its top and its sum: e^−∞ is zero. */
static void mask_window(sight window, int64_t keys, int64_t n, float *scores)
{
    for (int64_t j = 0; j < keys; j++) {
        float *row = scores + j * BLOCK;
        for (int64_t i = ml_max(0, j + window.behind); i < n; i++) row[i] = -INFINITY;
        for (int64_t i = 0; i < ml_min(n, j - window.ahead + 1); i++) row[i] = -INFINITY;
    }
}

ML_INLINE float larger(float a, float b) { return a > b ? a : b; }

/* Four keys at a time, which begin at the same query: `top` is a detour through memory. */
static void raise_top(bool diagonal, int64_t keys, int64_t n, const float *scores, float *top)
{
    int64_t j = 0;
    for (; j + 4 <= keys; j += 4) {
        const float *row = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++) {
            float two = larger(row[i], row[i + BLOCK]),
                  others = larger(row[i + 2 * BLOCK], row[i + 3 * BLOCK]);
            top[i] = larger(larger(two, others), top[i]);
        }
    }
    for (; j < keys; j++) {
        const float *row = scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++) top[i] = larger(row[i], top[i]);
    }
}

/* scores, which `scale` still multiplies, → P; top, sum and keep move on. n: queries rounded up to
 * whole vectors. What is wanted next comes from memory meanwhile. */
static void softmax_step(const space *s, float scale, bool diagonal, int64_t keys, int64_t n,
                         const numbers ahead[2])
{
    float top[BLOCK], sum[BLOCK];
    for (int64_t i = 0; i < BLOCK; i++) top[i] = -INFINITY;
    memcpy(sum, s->sum, sizeof sum);
    raise_top(diagonal, keys, n, s->scores, top);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        top[i] = larger(scale * top[i], s->top[i]);
        s->keep[i] = ml_native_exp_small(s->top[i] - top[i]);
        sum[i] *= s->keep[i];
    }
    for (int64_t j = 0; j < keys; j++) {
        float *row = s->scores + j * BLOCK;
        ask_for_row(&ahead[0], j);
        ask_for_row(&ahead[1], j);
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++) {
            row[i] = ml_native_exp_small(ml_fma(scale, row[i], -top[i]));
            sum[i] += row[i];
        }
    }
    memcpy(s->top, top, (size_t)n * sizeof *top);
    memcpy(s->sum, sum, sizeof sum);
}

/* scores += bias of each key − that of each query. */
static void bias_scores(const float *key, const float *query, bool diagonal, int64_t keys,
                        int64_t n, float *scores)
{
    for (int64_t j = 0; j < keys; j++) {
        float *row = scores + j * BLOCK, own = key[j];
#pragma omp simd
        for (int64_t i = first_query(diagonal, j); i < n; i++) row[i] += own - query[i];
    }
}

/* scores += what query and key get by their distance. */
static void relative_scores(const call *c, const space *s, right queries_t, block queries,
                            block keys, int64_t head, int64_t n)
{
    const ml_relative *r = c->shape->relative;
    const relative_space *own = &s->relative;
    int64_t h = c->shape->head_dim;
    const float scale = c->shape->scale;
    distances d;
    copy_columns(keys.rows, h, scale, c->key + keys.first * c->ldkv + head * h, c->ldkv,
                 own->keys_t);
    const float *scaled_t =
        turned_as_floats(queries_t, queries.rows, h, scale,
                         c->q + queries.query * c->ldq + head * h, c->ldq, own->queries_t);
    ML_NATIVE(relative_products)(c->shape, own, queries, keys, head, scaled_t, own->keys_t, &d);
    for (int64_t j = 0; j < keys.rows; j++) {
        const int32_t *number = d.number + BLOCK - 1 - j;
        float *row = s->scores + j * BLOCK;
#pragma omp simd
        for (int64_t i = 0; i < (r->keys ? n : 0); i++)
            row[i] += own->of_queries[number[i] * BLOCK + i];
#pragma omp simd
        for (int64_t i = 0; i < (r->queries ? n : 0); i++)
            row[i] += own->of_keys[number[i] * BLOCK + j];
    }
}

static numbers rows_of_keys(const call *c, const float *x, block keys, int64_t head)
{
    int64_t h = c->shape->head_dim, group = c->shape->heads / c->shape->kv_heads;
    return (numbers){x, ML_FP32, keys.first * c->ldkv + head / group * h, c->ldkv, keys.rows, h};
}

/* scores of a pair of blocks, complete but for the factor that is returned. */
static float scores_of(const call *c, const space *s, right queries_t, block queries, block keys,
                       int64_t head)
{
    const ml_attention_shape *shape = c->shape;
    int64_t n = ml_round_up(queries.rows, ML_LANES), h = shape->head_dim;
    const numbers key = rows_of_keys(c, c->key, keys, head);
    bool diagonal = on_diagonal(shape, queries, keys);
    const sight window = window_sight(shape, queries, keys);
    float scale = QUERIES_ARE_SCALED ? 1 : shape->scale;
    multiply(diagonal ? PART_RESULT_UPPER : PART_ALL, keys.rows, n, h,
             rows_in_place(&key, c->padded, s->keys), queries_t, s->scores, BLOCK, false);
    if (!QUERIES_ARE_SCALED && (shape->cap > 0 || shape->key_bias || shape->relative)) {
        scale_scores(scale, diagonal, keys.rows, n, s->scores);
        scale = 1;
    }
    if (shape->cap > 0) cap_scores(shape->cap, diagonal, keys.rows, n, s->scores);
    if (shape->key_bias)
        bias_scores(key_bias(shape, head, keys), key_bias(shape, head, queries), diagonal,
                    keys.rows, n, s->scores);
    if (shape->relative) relative_scores(c, s, queries_t, queries, keys, head, n);
    if (diagonal) mask_diagonal(keys.rows, s->scores);
    if (on_edge(window, queries, keys)) mask_window(window, keys.rows, n, s->scores);
    return scale;
}

/* next: the key block after this one, or NULL. */
static void key_block(const call *c, const space *s, right queries_t, block queries, block keys,
                      int64_t head, bool first, const block *next)
{
    int64_t n = ml_round_up(queries.rows, ML_LANES), h = c->shape->head_dim;
    const numbers value = rows_of_keys(c, c->value, keys, head);
    bool diagonal = on_diagonal(c->shape, queries, keys);
    float scale = scores_of(c, s, queries_t, queries, keys, head);
    numbers ahead[2] = {{c->o, ML_FP32, queries.query * c->ldo + head * h, c->ldo, queries.rows, h},
                        {.rows = 0}};
    if (next) {
        ahead[0] = rows_of_keys(c, c->key, *next, head);
        ahead[1] = rows_of_keys(c, c->value, *next, head);
    }
    softmax_step(s, QUERIES_ARE_SCALED ? 1 : scale, diagonal, keys.rows, n, ahead);
    right values =
        right_of(load_rows(&value, c->padded, s->values), keys.rows, c->padded, s->pairs);
    for (int64_t i = 0; i < queries.rows && !first; i++) {
        if (!ALL_ROWS_ARE_KEPT && !(s->keep[i] < 1)) continue; /* the largest score is no new one */
#pragma omp simd
        for (int64_t x = 0; x < c->padded; x++) s->out[i * c->padded + x] *= s->keep[i];
    }
    multiply(diagonal ? PART_A_LOWER : PART_ALL, queries.rows, c->padded, keys.rows,
             left_of_turned(s->scores, queries.rows, keys.rows, s->p), values, s->out, c->padded,
             !first);
}

static void query_block(const call *c, const space *s, block queries, int64_t head)
{
    int64_t h = c->shape->head_dim;
    const numbers query = {c->q,   ML_FP32,      queries.query * c->ldq + head * h,
                           c->ldq, queries.rows, h};
    right queries_t = right_turned(rows_in_place(&query, c->padded, s->keys), queries.rows, h,
                                   c->shape->scale, s->queries_t);
    for (int64_t i = 0; i < BLOCK; i++) {
        s->top[i] = -1e30f;
        s->sum[i] = 0;
    }
    key_walk walk = walk_keys(c->shape, c->sequences, queries);
    block keys, next;
    bool more = next_keys(&walk, &keys);
    for (bool first = true; more; first = false, keys = next) {
        more = next_keys(&walk, &next);
        key_block(c, s, queries_t, queries, keys, head, first, more ? &next : NULL);
    }
    for (int64_t i = 0; i < queries.rows; i++) {
        float *o = c->o + (queries.query + i) * c->ldo + head * h, inverse = 1 / s->sum[i];
#pragma omp simd
        for (int64_t x = 0; x < h; x++) o[x] = s->out[i * c->padded + x] * inverse;
        c->lse[head * c->T + queries.query + i] = s->top[i] + logf(s->sum[i]);
    }
}

void ML_NATIVE(attention_forward)(const ml_kernels *k, const ml_attention_shape *shape,
                                  const ml_sequences *sequences, const float *q, int64_t ldq,
                                  const float *key, const float *value, int64_t ldkv, float *o,
                                  int64_t ldo, float *lse)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    const ml_attention_scratch *scratch = &owner->attention;
    if (!ml_attention_fits(scratch, shape, sequences)) { /* more than the options said */
        ml_kernels_reference()->attention_forward(k, shape, sequences, q, ldq, key, value, ldkv, o,
                                                  ldo, lse);
        return;
    }
    const call c = {shape,
                    sequences,
                    q,
                    key,
                    value,
                    ldq,
                    ldkv,
                    ldo,
                    ml_sequences_queries(sequences),
                    padded_head(shape),
                    o,
                    lse};
    int64_t blocks = ML_NATIVE(cut_blocks)(sequences, scratch->block_start),
            tasks = blocks * shape->heads;
#pragma omp parallel num_threads(owner->threads)
    {
        float *memory = scratch->threads + omp_get_thread_num() * scratch->thread_floats;
        if (c.padded != shape->head_dim)
            memset(memory, 0, (size_t)scratch->thread_floats * sizeof *memory);
        space s = space_of(memory, c.padded);
        begin_products();
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            block_task t = ML_NATIVE(task_at)(sequences, scratch->block_start, shape->heads, task);
            if (t.block.query >= 0) query_block(&c, &s, t.block, t.head);
        }
        end_products();
    }
}
