/* Attention backward. For a key block and a query block that attends to it:
 *   S = Q·Kᵀ, P = exp(scale·S − lse), dV += Pᵀ·dO, dP = dO·Vᵀ, dS = scale·P∘(dP − D), dK += dSᵀ·Q,
 *     dQ += dS·K.
 * With enough heads and sequences a task is one (tree of sequences that share, key/value head) and
 * does all of it. Else the work is cut by blocks too:
 * one pass over key blocks for dK and dV, one over query blocks for dQ (which computes P and dP a
 * second time). With relative terms, whose gradients all sequences add to, a task is a head.
 * Nothing is ever added by two threads, and each sum runs in one order, the same in both ways. */
#include <omp.h>

#include "kernels/native/operands.h"

typedef struct call {
    const ml_attention_shape *shape;
    const ml_sequences *sequences;
    const ml_attention_kept *kept;
    const float *d_o, *row_dot;
    int64_t lddo, lddq, lddkv, T, padded;
    float *dq, *dk, *dv;
} call;

enum { AHEAD = 3 };
typedef struct space {
    float *keys_t, *values_t, *keys, *key_pairs; /* rooms for what is multiplied */
    float *queries, *query_pairs, *d_out, *d_out_pairs, *square;
    float *d_queries, *d_keys, *d_values; /* [BLOCK][padded] */
    float *p, *ds;                        /* [BLOCK queries][BLOCK keys] */
    relative_space relative;
    numbers ahead[AHEAD]; /* what the next pair of blocks has in memory */
} space;

/* What is loaded of a key block, and of a query block that it meets. */
typedef struct key_operands {
    numbers source;
    left rows;
    right straight, turned, values_turned;
} key_operands;
typedef struct query_operands {
    numbers source;
    left rows, d_out;
} query_operands;

static space space_of(float *memory, int64_t padded)
{
    const int64_t operand = operand_floats(padded), pairs = pairs_floats(padded),
                  slab = BLOCK * padded;
    space s = {0};
    s.keys_t = memory;
    s.values_t = s.keys_t + operand;
    s.keys = s.values_t + operand;
    s.key_pairs = s.keys + operand;
    s.queries = s.key_pairs + pairs;
    s.query_pairs = s.queries + operand;
    s.d_out = s.query_pairs + pairs;
    s.d_out_pairs = s.d_out + operand;
    s.d_queries = s.d_out_pairs + pairs;
    s.d_keys = s.d_queries + slab;
    s.d_values = s.d_keys + slab;
    s.p = s.d_values + slab;
    s.ds = s.p + BLOCK * BLOCK;
    s.square = s.ds + BLOCK * BLOCK;
    s.relative = ML_NATIVE(relative_space_of)(memory, padded);
    return s;
}

/* The rows of values pass through where their gradient is going to be. */
static key_operands load_keys(const call *c, const space *s, block keys, int64_t kv_head)
{
    const ml_attention_kept *kept = c->kept;
    int64_t h = c->shape->head_dim, ld = kept->ldkv;
    const numbers key = {kept->key, kept->dtype, keys.first * ld + kv_head * h, ld, keys.rows, h};
    numbers value = key;
    value.x = kept->value;
    const left rows = load_rows(&key, c->padded, s->keys),
               values = load_rows(&value, c->padded, s->d_values);
    return (key_operands){key, rows, right_of(rows, keys.rows, c->padded, s->key_pairs),
                          right_turned(rows, keys.rows, h, 1, s->keys_t),
                          right_turned(values, keys.rows, h, 1, s->values_t)};
}

static query_operands load_queries(const call *c, const space *s, block queries, int64_t head)
{
    const ml_attention_kept *kept = c->kept;
    int64_t h = c->shape->head_dim;
    const numbers query = {kept->q,   kept->dtype,  queries.query * kept->ldq + head * h,
                           kept->ldq, queries.rows, h},
                  d_out = {c->d_o,  ML_FP32,      queries.query * c->lddo + head * h,
                           c->lddo, queries.rows, h};
    return (query_operands){query, load_rows(&query, c->padded, s->queries),
                            load_rows(&d_out, c->padded, s->d_out)};
}

/* One row of S → P and of dP → dS, the first `n`. */
ML_INLINE void plain_row(int64_t n, float scale, float lse, float dot, float *p, float *ds)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        p[j] = ml_native_exp_small(ml_fma(scale, p[j], -lse));
        ds[j] = scale * p[j] * (ds[j] - dot);
    }
}

/* The same of scores that are capped: cap·t, t = tanh(scale·s/cap), whose derivative is 1 − t². */
ML_INLINE void capped_row(int64_t n, float scale, float cap, float lse, float dot, float *p,
                          float *ds)
{
    const float inverse = scale / cap;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float t = ml_native_tanh(inverse * p[j]);
        p[j] = ml_native_exp_small(ml_fma(cap, t, -lse));
        ds[j] = scale * ml_fma(-t, t, 1) * p[j] * (ds[j] - dot);
    }
}

/* The same of scores with a bias of their keys; own: that of the query. */
ML_INLINE void biased_row(int64_t n, float scale, const float *bias, float own, float lse,
                          float dot, float *p, float *ds)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        p[j] = ml_native_exp_small(ml_fma(scale, p[j], bias[j] - own) - lse);
        ds[j] = scale * p[j] * (ds[j] - dot);
    }
}

/* S += what query and key get by their distance. */
static void relative_scores(const call *c, const space *s, const key_operands *of_keys,
                            const query_operands *of_queries, block queries, block keys,
                            int64_t head, distances *d)
{
    const ml_relative *r = c->shape->relative;
    const relative_space *own = &s->relative;
    int64_t h = c->shape->head_dim;
    const float *query =
                    rows_as_floats(of_queries->rows, &of_queries->source, c->padded, own->queries),
                *key = rows_as_floats(of_keys->rows, &of_keys->source, c->padded, own->keys),
                *key_t =
                    turned_as_floats(of_keys->turned, keys.rows, h, 1, key, c->padded, own->keys_t);
    copy_columns(queries.rows, h, 1, query, c->padded, own->queries_t);
    ML_NATIVE(relative_products)(c->shape, own, queries, keys, head, own->queries_t, key_t, d);
    for (int64_t i = 0; i < queries.rows; i++) {
        const int32_t *number = d->number + BLOCK - 1 + i;
        float *row = s->p + i * BLOCK;
#pragma omp simd
        for (int64_t j = 0; j < (r->keys ? keys.rows : 0); j++)
            row[j] += own->of_queries[number[-j] * BLOCK + i];
#pragma omp simd
        for (int64_t j = 0; j < (r->queries ? keys.rows : 0); j++)
            row[j] += own->of_keys[number[-j] * BLOCK + j];
    }
}

/* P and dS of a pair of blocks. */
static void probabilities(const call *c, const space *s, const key_operands *of_keys,
                          const query_operands *of_queries, block queries, block keys, int64_t head,
                          distances *d)
{
    int64_t h = c->shape->head_dim, n = ml_round_up(keys.rows, ML_LANES);
    const sight window = window_sight(c->shape, queries, keys);
    bool diagonal = on_diagonal(c->shape, queries, keys), edge = on_edge(window, queries, keys);
    part which = diagonal ? PART_RESULT_LOWER : PART_ALL;
    multiply(which, queries.rows, n, h, of_queries->rows, of_keys->turned, s->p, BLOCK, false);
    multiply(which, queries.rows, n, h, of_queries->d_out, of_keys->values_turned, s->ds, BLOCK,
             false);
    if (c->shape->relative) relative_scores(c, s, of_keys, of_queries, queries, keys, head, d);
    const float scale = c->shape->scale, *lse = c->kept->lse + head * c->T + queries.query,
                *dot = c->row_dot + head * c->T + queries.query;
    for (int64_t i = 0; i < queries.rows; i++) {
        float *p = s->p + i * BLOCK, *ds = s->ds + i * BLOCK;
        for (int a = 0; a < AHEAD; a++) ask_for_row(&s->ahead[a], i);
        int64_t end = diagonal ? ml_round_up(i + 1, ML_LANES) : n;
        if (c->shape->key_bias)
            biased_row(end, scale, key_bias(c->shape, head, keys),
                       key_bias(c->shape, head, queries)[i], lse[i], dot[i], p, ds);
        else if (c->shape->cap > 0)
            capped_row(end, scale, c->shape->cap, lse[i], dot[i], p, ds);
        else
            plain_row(end, scale, lse[i], dot[i], p, ds);
        for (int64_t j = i + 1; diagonal && j < ml_min(BLOCK, i + 1 + BEYOND_DIAGONAL); j++)
            p[j] = ds[j] = 0;
        for (int64_t j = 0; edge && j < ml_min(n, i - window.behind + 1); j++) p[j] = ds[j] = 0;
        for (int64_t j = ml_max(0, i + window.ahead); edge && j < n; j++) p[j] = ds[j] = 0;
    }
}

/* dK and dV of the loaded key block from a query block, added to d_keys and d_values. */
static void add_key_gradients(const call *c, const space *s, const query_operands *of_queries,
                              block queries, block keys)
{
    part which = on_diagonal(c->shape, queries, keys) ? PART_A_UPPER : PART_ALL;
    multiply(which, keys.rows, c->padded, queries.rows,
             left_of_turned(s->p, keys.rows, queries.rows, s->square),
             right_of(of_queries->d_out, queries.rows, c->padded, s->d_out_pairs), s->d_values,
             c->padded, true);
    multiply(which, keys.rows, c->padded, queries.rows,
             left_of_turned(s->ds, keys.rows, queries.rows, s->square),
             right_of(of_queries->rows, queries.rows, c->padded, s->query_pairs), s->d_keys,
             c->padded, true);
}

/* dQ of a query block from the loaded key block, added; with relative terms what they give to dK
 * and to the rows as well. */
static void add_query_gradients(const call *c, const space *s, const key_operands *of_keys,
                                const query_operands *of_queries, block queries, block keys,
                                int64_t head, const distances *d)
{
    part which = on_diagonal(c->shape, queries, keys) ? PART_A_LOWER : PART_ALL;
    float *to = c->dq + queries.query * c->lddq + head * c->shape->head_dim;
    const left ds = left_of_square(s->ds, queries.rows, keys.rows, s->square);
    if (!c->shape->relative && adds_in_place(queries.rows, c->shape->head_dim)) {
        multiply(which, queries.rows, c->padded, keys.rows, ds, of_keys->straight, to, c->lddq,
                 true);
        return;
    }
    multiply(which, queries.rows, c->padded, keys.rows, ds, of_keys->straight, s->d_queries,
             c->padded, false);
    if (c->shape->relative) ML_NATIVE(relative_gradients)
    (c->shape, &s->relative, d, queries, keys, head, s->ds,
     rows_as_floats(of_queries->rows, &of_queries->source, c->padded, s->relative.queries),
     rows_as_floats(of_keys->rows, &of_keys->source, c->padded, s->relative.keys), s->d_queries,
     s->d_keys);
    for (int64_t i = 0; i < queries.rows; i++) {
        float *dq = to + i * c->lddq;
        const float *part_of = s->d_queries + i * c->padded;
#pragma omp simd
        for (int64_t x = 0; x < c->shape->head_dim; x++) dq[x] += part_of[x];
    }
}

static void clear_query_gradients(const call *c, int64_t first, int64_t rows, int64_t head,
                                  int64_t heads)
{
    int64_t h = c->shape->head_dim;
    for (int64_t t = first; t < first + rows; t++)
        memset(c->dq + t * c->lddq + head * h, 0, (size_t)(heads * h) * sizeof *c->dq);
}

/* The first query block of the keys' own sequence that sees one of them. */
static int64_t first_queries(const call *c, block keys)
{
    if (!c->shape->both_ways) return keys.index;
    return ml_attention_first(c->shape, keys.position) / BLOCK;
}

/* What the pair of blocks after this one has in memory, where none before it had that: the next
 * queries, if these keys are the first that they meet; behind the last queries the gradients of the
 * keys. */
static void look_ahead(const call *c, space *s, block keys, const block *next, int64_t head)
{
    const ml_attention_kept *kept = c->kept;
    int64_t h = c->shape->head_dim, kv_head = head / (c->shape->heads / c->shape->kv_heads);
    memset(s->ahead, 0, sizeof s->ahead);
    if (!next) {
        int64_t at = keys.first * c->lddkv + kv_head * h;
        s->ahead[0] = (numbers){c->dk, ML_FP32, at, c->lddkv, keys.rows, h};
        s->ahead[1] = (numbers){c->dv, ML_FP32, at, c->lddkv, keys.rows, h};
    } else if (keys.position <= ml_attention_first(c->shape, next->position)) {
        int64_t row = next->query, count = next->rows, column = head * h;
        s->ahead[0] =
            (numbers){kept->q, kept->dtype, row * kept->ldq + column, kept->ldq, count, h};
        s->ahead[1] = (numbers){c->d_o, ML_FP32, row * c->lddo + column, c->lddo, count, h};
        if (c->dq)
            s->ahead[2] = (numbers){c->dq, ML_FP32, row * c->lddq + column, c->lddq, count, h};
    }
}

/* The loaded key block with the query blocks of a sequence that see one of its keys, from the
 * index-th on, in one head. */
static void meet_queries(const call *c, space *s, const key_operands *of_keys, block keys,
                         int64_t head, int64_t sequence, int64_t index, bool with_queries)
{
    int64_t start = c->sequences->start[sequence], end = c->sequences->start[sequence + 1];
    int64_t reach = ml_attention_reach(c->shape->window, c->shape->both_ways);
    if (ml_sequences_query(c->sequences, sequence) < 0) return;
    if (reach > 0) {
        int64_t seen_before = keys.position + keys.rows - 1 + reach;
        end = ml_min(end, start + seen_before - ml_sequences_shared(c->sequences, sequence));
    }
    for (int64_t i = index; start + i * BLOCK < end; i++) {
        block queries = sequence_block(c->sequences, sequence, i);
        distances d;
        const query_operands of_queries = load_queries(c, s, queries, head);
        const block next = sequence_block(c->sequences, sequence, i + 1);
        look_ahead(c, s, keys, start + (i + 1) * BLOCK < end ? &next : NULL, head);
        probabilities(c, s, of_keys, &of_queries, queries, keys, head, &d);
        add_key_gradients(c, s, &of_queries, queries, keys);
        if (with_queries) add_query_gradients(c, s, of_keys, &of_queries, queries, keys, head, &d);
    }
}

/* In one head: the queries of the keys' own sequence, and of those after it whose paths reach
 * them. */
static void meet_head(const call *c, space *s, const key_operands *of_keys, block keys,
                      int64_t head, bool with_queries)
{
    const ml_sequences *sequences = c->sequences;
    meet_queries(c, s, of_keys, keys, head, keys.sequence, first_queries(c, keys), with_queries);
    for (int64_t i = keys.sequence + 1; i < sequences->count; i++) {
        keys.rows = ml_min(keys.rows, ml_sequences_shared(sequences, i) - keys.position);
        if (keys.rows <= 0) break;
        meet_queries(c, s, of_keys, keys, head, i, 0, with_queries);
    }
}

/* Everything that one key block of one key/value head takes part in: head by head of its group, so
 * that a sequence that is cut into pieces gives it what it would give whole. */
static void key_block(const call *c, space *s, block keys, int64_t kv_head, bool with_queries)
{
    int64_t h = c->shape->head_dim, group = c->shape->heads / c->shape->kv_heads;
    const key_operands of_keys = load_keys(c, s, keys, kv_head);
    memset(s->d_keys, 0, (size_t)(BLOCK * c->padded) * sizeof(float));
    memset(s->d_values, 0, (size_t)(BLOCK * c->padded) * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        meet_head(c, s, &of_keys, keys, head, with_queries);
    copy_rows(keys.rows, h, s->d_keys, c->padded, c->dk + keys.first * c->lddkv + kv_head * h,
              c->lddkv);
    copy_rows(keys.rows, h, s->d_values, c->padded, c->dv + keys.first * c->lddkv + kv_head * h,
              c->lddkv);
}

static void query_block(const call *c, space *s, block queries, int64_t head)
{
    int64_t group = c->shape->heads / c->shape->kv_heads;
    key_walk walk = walk_keys(c->shape, c->sequences, queries);
    clear_query_gradients(c, queries.query, queries.rows, head, 1);
    memset(s->ahead, 0, sizeof s->ahead);
    const query_operands of_queries = load_queries(c, s, queries, head);
    for (block keys; next_keys(&walk, &keys);) {
        const key_operands of_keys = load_keys(c, s, keys, head / group);
        probabilities(c, s, &of_keys, &of_queries, queries, keys, head, NULL);
        add_query_gradients(c, s, &of_keys, &of_queries, queries, keys, head, NULL);
    }
}

static bool is_root(const ml_sequences *sequences, int64_t i)
{
    return ml_sequences_shared(sequences, i) == 0;
}

static void tree(const call *c, space *s, int64_t root, int64_t kv_head)
{
    const ml_sequences *sequences = c->sequences;
    int64_t group = c->shape->heads / c->shape->kv_heads, end = root + 1;
    while (end < sequences->count && !is_root(sequences, end)) end++;
    for (int64_t i = root; i < end; i++)
        if (ml_sequences_query(sequences, i) >= 0)
            clear_query_gradients(c, ml_sequences_query(sequences, i),
                                  sequences->start[i + 1] - sequences->start[i], kv_head * group,
                                  group);
    for (int64_t i = root; i < end; i++)
        for (int64_t j = 0; sequences->start[i] + j * BLOCK < sequences->start[i + 1]; j++)
            key_block(c, s, sequence_block(sequences, i, j), kv_head, true);
}

/* Called by every thread of a team: its share of the tasks. */
static void by_heads(const call *c, space *s)
{
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < c->sequences->count * c->shape->kv_heads; task++) {
        int64_t sequence = task / c->shape->kv_heads;
        if (is_root(c->sequences, sequence)) tree(c, s, sequence, task % c->shape->kv_heads);
    }
}

static void clear_rows(const call *c, float *gradient, int64_t head)
{
    int64_t h = c->shape->head_dim, ld = c->shape->relative->ld;
    for (int64_t row = 0; gradient && row < c->shape->relative->rows; row++)
        memset(gradient + row * ld + head * h, 0, (size_t)h * sizeof *gradient);
}

static void by_whole_heads(const call *c, space *s)
{
#pragma omp for schedule(dynamic)
    for (int64_t head = 0; head < c->shape->heads; head++) {
        clear_rows(c, c->shape->relative->d_keys, head);
        clear_rows(c, c->shape->relative->d_queries, head);
        for (int64_t i = 0; i < c->sequences->count; i++) tree(c, s, i, head);
    }
}

/* Of the keys whose gradients are wanted, and of the queries whose are. */
static void by_blocks(const call *c, space *s, const int64_t *block_start)
{
    int64_t blocks = block_start[c->sequences->count], heads = c->shape->heads,
            kv_heads = c->shape->kv_heads;
#pragma omp for schedule(dynamic) nowait
    for (int64_t task = 0; task < (c->dk ? blocks * kv_heads : 0); task++) {
        block_task t = ML_NATIVE(task_at)(c->sequences, block_start, kv_heads, task);
        if (ml_sequences_gives(c->sequences, t.block.sequence))
            key_block(c, s, t.block, t.head, false);
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (c->dq ? blocks * heads : 0); task++) {
        block_task t = ML_NATIVE(task_at)(c->sequences, block_start, heads, task);
        if (t.block.query >= 0) query_block(c, s, t.block, t.head);
    }
}

void ML_NATIVE(attention_backward)(const ml_kernels *k, const ml_attention_shape *shape,
                                   const ml_sequences *sequences, const ml_attention_kept *kept,
                                   const float *d_o, int64_t lddo, float *dq, int64_t lddq,
                                   float *dk, float *dv, int64_t lddkv)
{
    const ml_kernels_owner *owner = ml_kernels_owner_of(k);
    const ml_attention_scratch *scratch = &owner->attention;
    if (!ml_attention_fits(scratch, shape, sequences)) { /* more than the options said */
        ml_kernels_reference()->attention_backward(k, shape, sequences, kept, d_o, lddo, dq, lddq,
                                                   dk, dv, lddkv);
        return;
    }
    const call c = {shape,
                    sequences,
                    kept,
                    d_o,
                    scratch->row_dot,
                    lddo,
                    lddq,
                    lddkv,
                    ml_sequences_queries(sequences),
                    padded_head(shape),
                    dq,
                    dk,
                    dv};
    (void)ML_NATIVE(cut_blocks)(sequences, scratch->block_start);
    owner->attention_dots(shape, kept, c.T, d_o, lddo, scratch->row_dot);
    int64_t trees = 0;
    for (int64_t i = 0; i < sequences->count; i++) trees += is_root(sequences, i);
    bool enough_heads = trees * shape->kv_heads >= 2 * owner->threads || owner->threads == 1;
#pragma omp parallel num_threads(owner->threads)
    {
        float *memory = scratch->threads + omp_get_thread_num() * scratch->thread_floats;
        if (c.padded != shape->head_dim)
            memset(memory, 0, (size_t)scratch->thread_floats * sizeof *memory);
        space s = space_of(memory, c.padded);
        begin_products();
        if (shape->relative)
            by_whole_heads(&c, &s);
        else if (enough_heads && dq && dk)
            by_heads(&c, &s);
        else
            by_blocks(&c, &s, scratch->block_start);
        end_products();
    }
}
