/* Blockwise attention: what forward and backward share. A block is up to ML_ATTENTION_BLOCK own
 * tokens of one sequence; query and key blocks of a sequence are cut at the same places, so only
 * blocks on the diagonal are masked, and exactly along their diagonal; none is where queries see
 * both ways. A key block may be used in part: its first rows. With a window, pairs of blocks in
 * which no query sees a key are never visited; in those that an edge of the window crosses, what
 * lies beyond it is masked. */
#ifndef MPILORA_KERNELS_NATIVE_ATTENTION_H
#define MPILORA_KERNELS_NATIVE_ATTENTION_H

#include "kernels/native/native.h"

/* PAD: columns of heads come in multiples of it, of products of bf16 in whole panels. */
#if defined(__AVX512BF16__)
enum { BLOCK = ML_ATTENTION_BLOCK, PAD = ML_ATTENTION_PAD };
#else
enum { BLOCK = ML_ATTENTION_BLOCK, PAD = 16 };
#endif

/* Which part of a product is needed, for blocks on the diagonal. */
typedef enum part {
    PART_ALL,
    PART_RESULT_LOWER, /* only C[i][j] with j ≤ i is used */
    PART_RESULT_UPPER, /* only C[i][j] with j ≥ i is used */
    PART_A_LOWER,      /* A[i][l] is zero for l > i */
    PART_A_UPPER       /* A[i][l] is zero for l < i */
} part;

/* C[m, n] (+)= A[m, k]·B[k, n]: A[i][l] is a[i·ld + l], or turned a[l·BLOCK + i]; B and C are
 * row-major with n padded up to the vector length. */
typedef struct operand {
    const float *a;
    int64_t ld;
    bool turned;
} operand;
void ML_NATIVE(block_product)(part which, int64_t m, int64_t n, int64_t k, operand a,
                              const float *b, int64_t ldb, float *c, int64_t ldc, bool add);

/* Cuts the sequences into blocks: fills block_start, returns the number of blocks. */
int64_t ML_NATIVE(cut_blocks)(const ml_sequences *sequences, int64_t *block_start);

/* One block of queries or keys of a sequence. */
typedef struct block {
    int64_t sequence, index; /* index: its place in the sequence */
    int64_t first, rows;     /* tokens, as keys */
    int64_t query;           /* row of the first token as a query; of keys alone below 0 */
    int64_t position;        /* of the first token on its path */
} block;

/* Tasks 0 … blocks·heads − 1, one a block and head: sequence by sequence, head by head, the last
 * block (the longest work) first, so that tasks that follow each other read the same keys and
 * values. */
typedef struct block_task {
    block block;
    int64_t head;
} block_task;
block_task ML_NATIVE(task_at)(const ml_sequences *sequences, const int64_t *block_start,
                              int64_t heads, int64_t number);

/* The index-th block of a sequence. */
ML_INLINE block sequence_block(const ml_sequences *sequences, int64_t sequence, int64_t index)
{
    int64_t first = sequences->start[sequence] + index * BLOCK,
            query = ml_sequences_query(sequences, sequence);
    return (block){sequence,
                   index,
                   first,
                   ml_min(BLOCK, sequences->start[sequence + 1] - first),
                   query < 0 ? query : query + index * BLOCK,
                   ml_sequences_shared(sequences, sequence) + index * BLOCK};
}

/* Is this a pair that the causal mask cuts? */
ML_INLINE bool on_diagonal(const ml_attention_shape *shape, block queries, block keys)
{
    return !shape->both_ways && queries.first == keys.first;
}

/* The window in a pair of blocks: query i sees the keys i − behind < j < i + ahead. An edge that
 * there is not lies outside of the pair. */
typedef struct sight {
    int64_t behind, ahead;
} sight;
ML_INLINE sight window_sight(const ml_attention_shape *shape, block queries, block keys)
{
    int64_t reach = ml_attention_reach(shape->window, shape->both_ways),
            apart = queries.position - keys.position;
    if (reach == 0) return (sight){BLOCK, BLOCK};
    return (sight){reach - apart, shape->both_ways ? reach + apart : BLOCK};
}

/* Is there a key that the last query, or the first, does not see? */
ML_INLINE bool on_edge(sight window, block queries, block keys)
{
    return window.behind < queries.rows || window.ahead < keys.rows;
}

/* The bias of a head at the positions of a block. */
ML_INLINE const float *key_bias(const ml_attention_shape *shape, int64_t head, block of)
{
    return shape->key_bias + head * shape->key_bias_stride + of.position;
}

/* The key blocks that a query block attends to, in the order of their positions: along the path
 * from its root on, so that a sequence that is cut into pieces is met as if it were whole. */
typedef struct key_walk {
    const ml_sequences *sequences;
    int64_t sequence;  /* of the queries */
    int64_t next, end; /* positions on its path; the first block may begin before */
} key_walk;

ML_INLINE key_walk walk_keys(const ml_attention_shape *shape, const ml_sequences *sequences,
                             block queries)
{
    int64_t length = ml_sequences_shared(sequences, queries.sequence) +
                     sequences->start[queries.sequence + 1] - sequences->start[queries.sequence],
            last = queries.position + queries.rows - 1;
    return (key_walk){sequences, queries.sequence, ml_attention_first(shape, queries.position),
                      ml_attention_end(shape, last, length)};
}

ML_INLINE bool next_keys(key_walk *walk, block *keys)
{
    const ml_sequences *sequences = walk->sequences;
    int64_t i = walk->sequence, end = walk->end;
    if (walk->next >= end) return false;
    while (ml_sequences_shared(sequences, i) > walk->next) {
        end = ml_sequences_shared(sequences, i);
        do i--;
        while (ml_sequences_shared(sequences, i) >= end);
    }
    *keys = sequence_block(sequences, i, (walk->next - ml_sequences_shared(sequences, i)) / BLOCK);
    keys->rows = ml_min(keys->rows, end - keys->position);
    walk->next = keys->position + keys->rows;
    return true;
}

/* ---- relative terms (attention_relative.c) ---- */

/* The distances of a pair of blocks: those that fall on one row of shape->relative stand together,
 * numbered 0 … count − 1. */
typedef struct distances {
    int64_t count;
    int32_t row[2 * BLOCK];    /* of each number */
    int32_t number[2 * BLOCK]; /* of query i and key j at BLOCK − 1 + i − j */
} distances;

/* Behind what every pass has in its thread's memory. */
typedef struct relative_space {
    float *key_rows, *query_rows; /* [count][padded]: the rows of a pair's distances */
    float *d_rows;                /* [count][padded] */
    float *queries_t, *keys_t;    /* [h][BLOCK] */
    float *queries, *keys;        /* [BLOCK][padded] */
    float *of_queries, *of_keys;  /* [count][BLOCK]: products with the rows, or sums of dS */
} relative_space;
relative_space ML_NATIVE(relative_space_of)(float *memory, int64_t padded);

/* Finds the distances of a pair, loads their rows and multiplies them by the queries and the keys,
 * both [h][BLOCK]: of_queries[r][i] + of_keys[r][j] is what the score of i and j gets. */
void ML_NATIVE(relative_products)(const ml_attention_shape *shape, const relative_space *s,
                                  block queries, block keys, int64_t head, const float *queries_t,
                                  const float *keys_t, distances *d);

/* From dS [queries][BLOCK]: onto d_queries and d_keys, both [BLOCK][padded], and onto the gradients
 * of the rows; queries and keys [BLOCK][padded]. Of the pair that relative_products came to last.
 */
void ML_NATIVE(relative_gradients)(const ml_attention_shape *shape, const relative_space *s,
                                   const distances *d, block queries, block keys, int64_t head,
                                   const float *ds, const float *query_rows, const float *key_rows,
                                   float *d_queries, float *d_keys);

ML_INLINE int64_t padded_head(const ml_attention_shape *shape)
{
    return ml_round_up(shape->head_dim, PAD);
}

/* A block of a matrix: rows × h from its at-th number on. */
typedef struct numbers {
    const void *x;
    ml_dtype dtype; /* fp32 or bf16 */
    int64_t at, ld, rows, h;
} numbers;

/* rows × h of a matrix into a slab [BLOCK][padded]; columns from h on stay zero (prepared once a
 * thread). */
ML_INLINE void copy_rows(int64_t rows, int64_t h, const float *x, int64_t ldx, float *to,
                         int64_t padded)
{
    for (int64_t i = 0; i < rows; i++) {
#pragma omp simd
        for (int64_t c = 0; c < h; c++) to[i * padded + c] = x[i * ldx + c];
    }
}

/* Number i of what was kept; bf16 is a constant. */
ML_INLINE float kept_at(const void *x, const bool bf16, int64_t i)
{
    return bf16 ? ml_bf16_to_float(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* The same of what was kept, from the at-th number on. */
ML_INLINE void copy_kept_rows(int64_t rows, int64_t h, const void *x, ml_dtype dtype, int64_t at,
                              int64_t ldx, float *to, int64_t padded)
{
    if (dtype == ML_FP32) {
        copy_rows(rows, h, (const float *)x + at, ldx, to, padded);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
#pragma omp simd
        for (int64_t c = 0; c < h; c++) to[i * padded + c] = kept_at(x, true, at + i * ldx + c);
    }
}

/* Four rows × four columns turned in registers. */
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

ML_INLINE void turn_four(const float *x, int64_t ldx, float factor, float *to)
{
    const four *r0 = (const four *)(const void *)x, *r1 = (const four *)(const void *)(x + ldx);
    const four *r2 = (const four *)(const void *)(x + 2 * ldx),
               *r3 = (const four *)(const void *)(x + 3 * ldx);
    four a = __builtin_shufflevector(*r0, *r1, 0, 4, 1, 5),
         b = __builtin_shufflevector(*r0, *r1, 2, 6, 3, 7);
    four c = __builtin_shufflevector(*r2, *r3, 0, 4, 1, 5),
         d = __builtin_shufflevector(*r2, *r3, 2, 6, 3, 7);
    *(four *)(void *)to = factor * __builtin_shufflevector(a, c, 0, 1, 4, 5);
    *(four *)(void *)(to + BLOCK) = factor * __builtin_shufflevector(a, c, 2, 3, 6, 7);
    *(four *)(void *)(to + 2 * BLOCK) = factor * __builtin_shufflevector(b, d, 0, 1, 4, 5);
    *(four *)(void *)(to + 3 * BLOCK) = factor * __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* rows × h, multiplied by `factor`, into a slab [h][BLOCK]. */
ML_INLINE void copy_columns(int64_t rows, int64_t h, float factor, const float *x, int64_t ldx,
                            float *to)
{
    int64_t i = 0, whole = h / 4 * 4;
    for (; i + 4 <= rows; i += 4) {
        for (int64_t c = 0; c < whole; c += 4)
            turn_four(x + i * ldx + c, ldx, factor, to + c * BLOCK + i);
        for (int64_t c = whole; c < h; c++)
            for (int64_t r = i; r < i + 4; r++) to[c * BLOCK + r] = factor * x[r * ldx + c];
    }
    for (; i < rows; i++)
        for (int64_t c = 0; c < h; c++) to[c * BLOCK + i] = factor * x[i * ldx + c];
}

void ML_NATIVE(attention_dots)(const ml_attention_shape *shape, const ml_attention_kept *kept,
                               int64_t T, const float *d_o, int64_t lddo, float *row_dot);
void ML_NATIVE(attention_forward)(const ml_kernels *k, const ml_attention_shape *shape,
                                  const ml_sequences *sequences, const float *q, int64_t ldq,
                                  const float *key, const float *value, int64_t ldkv, float *o,
                                  int64_t ldo, float *lse);
void ML_NATIVE(attention_backward)(const ml_kernels *k, const ml_attention_shape *shape,
                                   const ml_sequences *sequences, const ml_attention_kept *kept,
                                   const float *d_o, int64_t lddo, float *dq, int64_t lddq,
                                   float *dk, float *dv, int64_t lddkv);
void ML_NATIVE(attention_decode)(const ml_kernels *k, const ml_attention_shape *shape, int64_t n,
                                 const int32_t *row, const float *q, const float *key,
                                 const float *value, int64_t ldkv, float *o);

#endif
