/* Blockwise attention of every vector path, and of AMX's tiles, against the reference: short and
 * long sequences, odd head sizes, grouped heads; causal and both ways; one and several threads;
 * twice the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "attention_paths.h"
#include "mpilora/kernels.h"

enum { T_MOST = 400, GAP = 3, WITH_WINDOWS = 2 /* of the shapes: the reference is slow */ };
#define COUNT(x) (sizeof(x) / sizeof *(x))

enum { BIASED_HEADS = 4, BIAS_STRIDE = T_MOST + ML_KEY_BIAS_BEYOND };
static float key_bias[BIASED_HEADS * BIAS_STRIDE]; /* filled in main */
static const ml_attention_shape shapes[] = {
    {.heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 0.125f},
    {.heads = 4, .kv_heads = 2, .head_dim = 10, .scale = 0.3f, .cap = 0.8f},
    {.heads = 3, .kv_heads = 1, .head_dim = 80, .scale = 0.11f},
    {.heads = 2, .kv_heads = 1, .head_dim = 8, .scale = 0.35f, .cap = 2},
    {.heads = 1, .kv_heads = 1, .head_dim = 256, .scale = 0.0625f, .cap = 50},
    {.heads = 4,
     .kv_heads = 2,
     .head_dim = 10,
     .scale = 0.3f,
     .key_bias = key_bias,
     .key_bias_stride = BIAS_STRIDE}}; /* with caps, with a bias, and without */
enum { CAPPED = 1, BIASED = 5 };
/* One key, less than a block, a block and one beside it, several; in `trees` shorter and longer
 * than what is shared; the last one no path outgrows. */
static const int64_t windows[] = {0, 1, 2, 17, 63, 64, 65, 130, 200, T_MOST};
/* Packed sequences of one token, less than a block, exactly a block, several blocks. */
static const int64_t starts[] = {0, 1, 8, 58, 122, 187, 387};
static const ml_sequences packed = {.count = COUNT(starts) - 1, .start = starts},
                          one_long = {.count = 1, .start = (const int64_t[]){0, 333}};
/* Two trees; in the first, branches within a block, at a border of blocks, from a branch, and at
 * the very end of a path. */
static const int64_t tree_starts[] = {0, 100, 150, 151, 220, 230, 300, 333, 350},
                     tree_shared[] = {0, 70, 95, 64, 133, 3, 0, 33};
static const ml_sequences trees = {
    .count = COUNT(tree_shared), .start = tree_starts, .shared = tree_shared};

typedef struct tensors {
    int64_t T, ldq, ldkv, room;
    float *q, *k, *v, *d_o; /* inputs */
    float *o, *lse, *dq, *dk, *dv;
} tensors;

/* Normal numbers, made once; each name starts at another place. */
static float *fresh(int64_t n, const char *name)
{
    enum { MOST = T_MOST * (256 + GAP) };
    static float numbers[2][MOST + 1024];
    if (numbers[0][0] == 0)
        for (int64_t i = 0; i < MOST + 1024; i++) {
            float x = (float)ml_random_normal(ml_random_key_make(5, "numbers"), 0, (uint64_t)i);
            numbers[0][i] = x;
            numbers[1][i] = ml_bf16_to_float(ml_bf16_from_float(x));
        }
    float *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, name);
    assert_non_null(x);
    memcpy(x, numbers[inputs_are_narrow] + (unsigned char)name[0] + 3 * (unsigned char)name[1],
           (size_t)n * sizeof *x);
    return x;
}

static tensors tensors_of(const ml_attention_shape *s, int64_t T)
{
    tensors t = {
        .T = T, .ldq = s->heads * s->head_dim + GAP, .ldkv = s->kv_heads * s->head_dim + GAP};
    t.room = T_MOST * t.ldq;
    t.q = fresh(t.room, "q");
    t.k = fresh(t.room, "k");
    t.v = fresh(t.room, "v");
    t.d_o = fresh(t.room, "d_o");
    t.o = fresh(t.room, "o");
    t.lse = fresh(t.room, "lse");
    t.dq = fresh(t.room, "dq");
    t.dk = fresh(t.room, "dk");
    t.dv = fresh(t.room, "dv");
    return t;
}

static void release(tensors *t)
{
    float *const all[] = {t->q, t->k, t->v, t->d_o, t->o, t->lse, t->dq, t->dk, t->dv};
    for (size_t i = 0; i < COUNT(all); i++) ml_memory_free(all[i]);
}

static ml_attention_kept kept_of(const tensors *t, ml_dtype dtype, ml_dtype o_dtype)
{
    return (ml_attention_kept){.q = t->q,
                               .key = t->k,
                               .value = t->v,
                               .o = t->o,
                               .ldq = t->ldq,
                               .ldkv = t->ldkv,
                               .ldo = t->ldq,
                               .dtype = dtype,
                               .o_dtype = o_dtype,
                               .lse = t->lse};
}

static void backward(const ml_kernels *k, const ml_attention_shape *s,
                     const ml_sequences *sequences, const tensors *t, ml_dtype dtype,
                     ml_dtype o_dtype)
{
    const ml_attention_kept kept = kept_of(t, dtype, o_dtype);
    k->attention_backward(k, s, sequences, &kept, t->d_o, t->ldq, t->dq, t->ldq, t->dk, t->dv,
                          t->ldkv);
}

static void run(const ml_kernels *k, const ml_attention_shape *s, const ml_sequences *sequences,
                tensors *t)
{
    k->attention_forward(k, s, sequences, t->q, t->ldq, t->k, t->v, t->ldkv, t->o, t->ldq, t->lse);
    backward(k, s, sequences, t, ML_FP32, ML_FP32);
}

/* Of P and dS in bf16, 2^-9 of a sum of sizes: scores and their sums are no less exact than in
 * fp32, since the tests' numbers are what bf16 holds. */
static double narrow_tolerance(const char *what)
{
    return !strncmp(what, "o", 1) || !strcmp(what, "decode") ? 5e-3 : 2e-2;
}

/* All of the memory, gaps and what lies behind the last row as well. */
static void near(const char *what, const ml_kernels *k, const ml_attention_shape *s, int64_t n,
                 const float *got, const float *want)
{
    double tolerance = s->both_ways ? 3e-5 : 1e-5; /* twice the pairs, whose sums round more */
    if (is_narrow(k->backend) && strcmp(what, "lse") != 0) tolerance = narrow_tolerance(what);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * fmax(1, fabs((double)want[i]))))
            fail_msg("%s (%s, %s, head dimension %lld, window %lld%s): element %lld is %.9g, the "
                     "reference says %.9g",
                     what, k->vector_path, k->backend, (long long)s->head_dim, (long long)s->window,
                     s->both_ways ? ", both ways" : "", (long long)i, (double)got[i],
                     (double)want[i]);
}

static void same_as_reference(const ml_kernels *k, const ml_attention_shape *s,
                              const ml_sequences *sequences)
{
    tensors got = tensors_of(s, sequences->start[sequences->count]), want = tensors_of(s, got.T),
            again = tensors_of(s, got.T);
    run(k, s, sequences, &got);
    run(k, s, sequences, &again);
    run(ml_kernels_reference(), s, sequences, &want);
    near("o", k, s, got.room, got.o, want.o);
    near("lse", k, s, got.room, got.lse, want.lse);
    near("dq", k, s, got.room, got.dq, want.dq);
    near("dk", k, s, got.room, got.dk, want.dk);
    near("dv", k, s, got.room, got.dv, want.dv);
    assert_memory_equal(got.o, again.o, (size_t)got.room * sizeof(float));
    assert_memory_equal(got.dq, again.dq, (size_t)got.room * sizeof(float));
    assert_memory_equal(got.dk, again.dk, (size_t)got.room * sizeof(float));
    assert_memory_equal(got.dv, again.dv, (size_t)got.room * sizeof(float));
    release(&got);
    release(&again);
    release(&want);
}

/* What was kept in bf16 gives the bits of the same numbers in fp32. */
static void kept_in_bf16(const ml_kernels *k, const ml_attention_shape *s,
                         const ml_sequences *sequences)
{
    tensors wide = tensors_of(s, sequences->start[sequences->count]),
            narrow = tensors_of(s, wide.T);
    float *const from[] = {wide.q, wide.k, wide.v, wide.o}, *const to[] = {narrow.q, narrow.k,
                                                                           narrow.v, narrow.o};
    const size_t bytes = (size_t)wide.room * sizeof(float);
    run(k, s, sequences, &wide);
    memcpy(narrow.lse, wide.lse, bytes);
    for (size_t i = 0; i < COUNT(from); i++)
        for (int64_t j = 0; j < wide.room; j++) {
            uint16_t kept = ml_bf16_from_float(from[i][j]);
            ((uint16_t *)(void *)to[i])[j] = kept;
            from[i][j] = ml_bf16_to_float(kept);
        }
    backward(k, s, sequences, &wide, ML_FP32, ML_FP32);
    backward(k, s, sequences, &narrow, ML_BF16, ML_BF16);
    assert_memory_equal(wide.dq, narrow.dq, bytes);
    assert_memory_equal(wide.dk, narrow.dk, bytes);
    assert_memory_equal(wide.dv, narrow.dv, bytes);
    release(&wide);
    release(&narrow);
}

/* The same of o in blocks. */
static void kept_in_blocks(const ml_kernels *k, const ml_attention_shape *s,
                           const ml_sequences *sequences)
{
    const ml_block_format *format = ml_block_format_of(ML_Q8_0);
    tensors wide = tensors_of(s, sequences->start[sequences->count]),
            narrow = tensors_of(s, wide.T);
    int64_t count = wide.T * s->heads * s->head_dim;
    const size_t bytes = (size_t)wide.room * sizeof(float);
    ml_block_error error = {0};
    wide.ldq = narrow.ldq = s->heads * s->head_dim;
    run(k, s, sequences, &wide);
    memcpy(narrow.lse, wide.lse, bytes);
    assert_int_equal(ml_block_quantise(format, wide.o, count / format->weights, narrow.o, &error),
                     -1);
    ml_dtype_decode(ML_Q8_0, narrow.o, 0, count, wide.o);
    backward(k, s, sequences, &wide, ML_FP32, ML_FP32);
    backward(k, s, sequences, &narrow, ML_FP32, ML_Q8_0);
    assert_memory_equal(wide.dq, narrow.dq, bytes);
    assert_memory_equal(wide.dk, narrow.dk, bytes);
    assert_memory_equal(wide.dv, narrow.dv, bytes);
    release(&wide);
    release(&narrow);
}

/* Row `row` of x, `n` columns, added to row `to` of y. */
static void add_row(const float *x, int64_t row, float *y, int64_t to, int64_t n)
{
    for (int64_t c = 0; c < n; c++) y[to * n + c] += x[row * n + c];
}

/* A window that no path outgrows: the bits of none. */
static void wide_window_is_none(const ml_kernels *k, const ml_attention_shape *shape,
                                const ml_sequences *sequences, int64_t longest)
{
    ml_attention_shape s = *shape;
    tensors none = tensors_of(&s, sequences->start[sequences->count]),
            wide = tensors_of(&s, none.T);
    s.window = 0;
    run(k, &s, sequences, &none);
    s.window = s.both_ways ? 2 * longest : longest;
    run(k, &s, sequences, &wide);
    const size_t bytes = (size_t)none.room * sizeof(float);
    assert_memory_equal(none.o, wide.o, bytes);
    assert_memory_equal(none.lse, wide.lse, bytes);
    assert_memory_equal(none.dq, wide.dq, bytes);
    assert_memory_equal(none.dk, wide.dk, bytes);
    assert_memory_equal(none.dv, wide.dv, bytes);
    release(&none);
    release(&wide);
}

/* Of head 0; own, position: of the query and of the key on the path. */
static double score(const ml_attention_shape *s, const tensors *t, int64_t query, int64_t key,
                    int64_t own, int64_t position)
{
    double sum = 0;
    for (int64_t c = 0; c < s->head_dim; c++)
        sum += (double)t->q[query * t->ldq + c] * (double)t->k[key * t->ldkv + c];
    double plain = (double)s->scale * sum, cap = (double)s->cap;
    if (s->key_bias) plain += (double)s->key_bias[position] - (double)s->key_bias[own];
    return cap > 0 ? cap * tanh(plain / cap) : plain;
}

static int64_t length_of_path(const ml_sequences *sequences, int64_t i)
{
    return ml_sequences_shared(sequences, i) + sequences->start[i + 1] - sequences->start[i];
}

static bool sees(const ml_attention_shape *s, int64_t query, int64_t key)
{
    if (s->both_ways) return s->window == 0 || 2 * llabs(query - key) <= s->window;
    return key <= query && (s->window == 0 || query - key < s->window);
}

/* Head 0 of the reference against the definition: every position of the path is asked whether the
 * query sees it. */
static void reference_is_the_definition(const ml_attention_shape *s, const ml_sequences *sequences)
{
    tensors t = tensors_of(s, sequences->start[sequences->count]);
    run(ml_kernels_reference(), s, sequences, &t);
    for (int64_t q = 0; q < sequences->count; q++)
        for (int64_t row = sequences->start[q]; row < sequences->start[q + 1]; row++) {
            int64_t i = ml_sequences_shared(sequences, q) + row - sequences->start[q];
            double sum = 0, first_of_o = 0;
            for (int64_t j = 0; j < length_of_path(sequences, q); j++) {
                if (!sees(s, i, j)) continue;
                int64_t key = ml_sequences_row(sequences, q, j);
                double e = exp(score(s, &t, row, key, i, j));
                sum += e;
                first_of_o += e * (double)t.v[key * t.ldkv];
            }
            const float want[] = {(float)log(sum), (float)(first_of_o / sum)};
            near("log-sum-exp by definition", ml_kernels_reference(), s, 1, t.lse + row, want);
            near("o by definition", ml_kernels_reference(), s, 1, t.o + row * t.ldq, want + 1);
        }
    release(&t);
}

static void test_reference_is_the_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * COUNT(windows); i++) {
        ml_attention_shape s = shapes[i % 2 ? BIASED : CAPPED];
        s.window = windows[i / 2];
        reference_is_the_definition(&s, &packed);
        reference_is_the_definition(&s, &trees);
        s.both_ways = true;
        reference_is_the_definition(&s, &packed);
    }
}

static void test_both_ways_have_no_trees(void **state)
{
    (void)state;
    ml_attention_shape s = shapes[0];
    assert_int_equal(ml_attention_check(&s, &trees), ML_OK);
    s.both_ways = true;
    assert_int_equal(ml_attention_check(&s, &packed), ML_OK);
    assert_int_equal(ml_attention_check(&s, &trees), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "sequence 1 shares its first 70 rows"));
}

/* What the definition sees, counted. */
static void test_pairs(void **state)
{
    (void)state;
    for (size_t w = 0; w < COUNT(windows); w++)
        for (int both_ways = 0; both_ways < 2; both_ways++) {
            const ml_attention_shape s = {.window = windows[w], .both_ways = both_ways};
            int64_t pairs = 0;
            for (int64_t i = 0; i < 150; i++)
                for (int64_t j = 0; j < 150; j++) pairs += sees(&s, i, j);
            assert_true(ml_attention_pairs(150, s.window, both_ways) == (double)pairs);
        }
}

/* The trees against the same sequences each written out whole: what a row gets there in several
 * places adds up. The gradient of o counts once, where the row is a sequence's own. */
static void trees_are_sequences_written_out(int64_t window)
{
    enum { SEQUENCES = COUNT(tree_shared), ROOM = 1000 };
    ml_attention_shape s = shapes[CAPPED];
    s.window = window;
    const ml_kernels *k = ml_kernels_reference();
    int64_t start[SEQUENCES + 1] = {0}, row[ROOM], Q = s.heads * s.head_dim,
                              KV = s.kv_heads * s.head_dim, T = trees.start[SEQUENCES];
    bool own[ROOM];
    for (int64_t i = 0; i < SEQUENCES; i++) {
        int64_t length = tree_shared[i] + tree_starts[i + 1] - tree_starts[i];
        start[i + 1] = start[i] + length;
        for (int64_t p = 0; p < length; p++) {
            row[start[i] + p] = ml_sequences_row(&trees, i, p);
            own[start[i] + p] = p >= tree_shared[i];
        }
    }
    const ml_sequences whole = {.count = SEQUENCES, .start = start};
    int64_t W = start[SEQUENCES];
    assert_true(W <= ROOM);
    tensors t = tensors_of(&s, T), w = tensors_of(&s, T), sum = tensors_of(&s, T);
    t.ldq = Q, t.ldkv = KV;
    run(k, &s, &trees, &t);
    w.ldq = Q, w.ldkv = KV;
    float **const wide[] = {&w.q, &w.k, &w.v, &w.d_o, &w.o, &w.lse, &w.dq, &w.dk, &w.dv};
    for (size_t i = 0; i < COUNT(wide); i++) {
        ml_memory_free(*wide[i]);
        *wide[i] = ml_memory_alloc(ROOM * Q, sizeof **wide[i], ML_MEM_OTHER, "written out");
        assert_non_null(*wide[i]);
    }
    for (int64_t i = 0; i < W; i++) {
        add_row(t.q, row[i], w.q, i, Q);
        add_row(t.k, row[i], w.k, i, KV);
        add_row(t.v, row[i], w.v, i, KV);
        if (own[i]) add_row(t.d_o, row[i], w.d_o, i, Q);
    }
    run(k, &s, &whole, &w);
    memset(sum.o, 0, (size_t)sum.room * sizeof(float));
    memset(sum.dq, 0, (size_t)sum.room * sizeof(float));
    memset(sum.dk, 0, (size_t)sum.room * sizeof(float));
    memset(sum.dv, 0, (size_t)sum.room * sizeof(float));
    for (int64_t i = 0; i < W; i++) {
        if (own[i]) add_row(w.o, i, sum.o, row[i], Q);
        add_row(w.dq, i, sum.dq, row[i], Q);
        add_row(w.dk, i, sum.dk, row[i], KV);
        add_row(w.dv, i, sum.dv, row[i], KV);
    }
    near("o", k, &s, T * Q, t.o, sum.o);
    near("dq", k, &s, T * Q, t.dq, sum.dq);
    near("dk", k, &s, T * KV, t.dk, sum.dk);
    near("dv", k, &s, T * KV, t.dv, sum.dv);
    release(&t);
    release(&w);
    release(&sum);
}

static void test_trees_are_sequences_written_out(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(windows); i++) trees_are_sequences_written_out(windows[i]);
}

/* ---- sequences that ranks share out ---- */

enum { SHARERS = 3, PIECES_MOST = 2 * SHARERS * COUNT(tree_shared) };

/* The pieces of all, and which of them one rank has queries of. */
typedef struct cut_pieces {
    ml_sequences sequences;
    int64_t start[PIECES_MOST + 1], shared[PIECES_MOST], query[PIECES_MOST];
} cut_pieces;

static void cut_for(const ml_sequences *all, int rank, cut_pieces *c)
{
    int64_t n = 0, queries = 0;
    for (int64_t i = 0; i < all->count; i++) {
        int64_t length = all->start[i + 1] - all->start[i];
        for (int64_t chunk = 0; chunk < 2 * SHARERS; chunk++) {
            int64_t count = ml_part_count(length, 2 * SHARERS, chunk),
                    at = ml_part_start(length, 2 * SHARERS, chunk);
            if (count == 0) continue;
            bool own = ml_min(chunk, 2 * SHARERS - 1 - chunk) == rank;
            c->start[n] = all->start[i] + at;
            c->shared[n] = ml_sequences_shared(all, i) + at;
            c->query[n++] = own ? queries : -1;
            if (own) queries += count;
        }
    }
    c->start[n] = all->start[all->count];
    c->sequences = (ml_sequences){
        .count = n, .start = c->start, .shared = c->shared, .query = c->query, .queries = queries};
}

/* Rows of queries [T, ld] from their places in all to those of the pieces, or back. */
static void move_queries(const cut_pieces *c, bool back, int64_t ld, float *all, float *own)
{
    for (int64_t i = 0; i < c->sequences.count; i++) {
        if (c->query[i] < 0) continue;
        float *there = all + c->start[i] * ld, *here = own + c->query[i] * ld;
        memcpy(back ? there : here, back ? here : there,
               (size_t)((c->start[i + 1] - c->start[i]) * ld) * sizeof(float));
    }
}

/* Every rank has its queries and all keys: together they give the outputs of one rank, and the sum
 * of the gradients of keys and values is its. */
static void shares_are_the_whole(const ml_kernels *k, const ml_attention_shape *s,
                                 const ml_sequences *all)
{
    tensors whole = tensors_of(s, all->start[all->count]), own = tensors_of(s, whole.T),
            sum = tensors_of(s, whole.T);
    int64_t keys = whole.T * whole.ldkv;
    run(ml_kernels_reference(), s, all, &whole);
    memset(sum.dk, 0, (size_t)sum.room * sizeof(float));
    memset(sum.dv, 0, (size_t)sum.room * sizeof(float));
    for (int rank = 0; rank < SHARERS; rank++) {
        cut_pieces c;
        cut_for(all, rank, &c);
        move_queries(&c, false, whole.ldq, whole.q, own.q);
        move_queries(&c, false, whole.ldq, whole.d_o, own.d_o);
        run(k, s, &c.sequences, &own);
        move_queries(&c, true, whole.ldq, sum.o, own.o);
        move_queries(&c, true, whole.ldq, sum.dq, own.dq);
        for (int64_t i = 0; i < keys; i++) {
            if (i % whole.ldkv >= whole.ldkv - GAP) continue;
            sum.dk[i] += own.dk[i];
            sum.dv[i] += own.dv[i];
        }
    }
    for (int64_t t = 0; t < whole.T; t++) {
        near("o of shares", k, s, whole.ldq - GAP, sum.o + t * whole.ldq, whole.o + t * whole.ldq);
        near("dq of shares", k, s, whole.ldq - GAP, sum.dq + t * whole.ldq,
             whole.dq + t * whole.ldq);
        near("dk of shares", k, s, whole.ldkv - GAP, sum.dk + t * whole.ldkv,
             whole.dk + t * whole.ldkv);
        near("dv of shares", k, s, whole.ldkv - GAP, sum.dv + t * whole.ldkv,
             whole.dv + t * whole.ldkv);
    }
    release(&whole);
    release(&own);
    release(&sum);
}

/* ---- pieces of whole blocks: not a bit is another ---- */

/* one_long in pieces, the first and the last of one rank, those between of another. */
static void cut_at_blocks(int rank, cut_pieces *c)
{
    static const int64_t cut[] = {0, 64, 192, 256};
    enum { PIECES = COUNT(cut) };
    int64_t queries = 0;
    for (int i = 0; i < PIECES; i++) {
        c->start[i] = c->shared[i] = cut[i];
        c->start[i + 1] = i < PIECES - 1 ? cut[i + 1] : one_long.start[1];
        bool own = (i == 0 || i == PIECES - 1) == (rank == 0);
        c->query[i] = own ? queries : -1;
        if (own) queries += c->start[i + 1] - c->start[i];
    }
    c->sequences = (ml_sequences){.count = PIECES,
                                  .start = c->start,
                                  .shared = c->shared,
                                  .query = c->query,
                                  .queries = queries};
}

static void same_rows(const char *what, int64_t rows, int64_t width, int64_t ld, const float *got,
                      const float *want)
{
    for (int64_t t = 0; t < rows; t++)
        if (memcmp(got + t * ld, want + t * ld, (size_t)width * sizeof(float)) != 0)
            fail_msg("%s: row %lld of a piece has other bits than of the whole", what,
                     (long long)t);
}

/* A rank's queries with all keys, and its keys with all queries: o, lse, dq, dk, dv as of one rank.
 */
static void pieces_have_the_bits_of_the_whole(const ml_kernels *k, const ml_attention_shape *s)
{
    tensors whole = tensors_of(s, one_long.start[1]), own = tensors_of(s, whole.T);
    int64_t Q = whole.ldq - GAP, KV = whole.ldkv - GAP;
    run(k, s, &one_long, &whole);
    for (int rank = 0; rank < 2; rank++) {
        cut_pieces c;
        cut_at_blocks(rank, &c);
        move_queries(&c, false, whole.ldq, whole.q, own.q);
        move_queries(&c, false, whole.ldq, whole.d_o, own.d_o);
        k->attention_forward(k, s, &c.sequences, own.q, own.ldq, own.k, own.v, own.ldkv, own.o,
                             own.ldq, own.lse);
        const ml_attention_kept of_queries = kept_of(&own, ML_FP32, ML_FP32),
                                of_keys = kept_of(&whole, ML_FP32, ML_FP32);
        ml_sequences keys = c.sequences;
        keys.gives = keys.query;
        keys.query = NULL;
        k->attention_backward(k, s, &c.sequences, &of_queries, own.d_o, own.ldq, own.dq, own.ldq,
                              NULL, NULL, 0);
        k->attention_backward(k, s, &keys, &of_keys, whole.d_o, own.ldq, NULL, 0, own.dk, own.dv,
                              own.ldkv);
        for (int64_t i = 0; i < c.sequences.count; i++) {
            int64_t rows = c.start[i + 1] - c.start[i], at = c.start[i], from = c.query[i];
            if (from < 0) continue;
            same_rows("o", rows, Q, own.ldq, own.o + from * own.ldq, whole.o + at * own.ldq);
            same_rows("dq", rows, Q, own.ldq, own.dq + from * own.ldq, whole.dq + at * own.ldq);
            for (int64_t h = 0; h < s->heads; h++)
                same_rows("lse", 1, rows, rows, own.lse + h * c.sequences.queries + from,
                          whole.lse + h * whole.T + at);
            same_rows("dk", rows, KV, own.ldkv, own.dk + at * own.ldkv, whole.dk + at * own.ldkv);
            same_rows("dv", rows, KV, own.ldkv, own.dv + at * own.ldkv, whole.dv + at * own.ldkv);
        }
    }
    release(&whole);
    release(&own);
}

static void test_shares_of_the_reference(void **state)
{
    (void)state;
    ml_attention_shape s = shapes[BIASED];
    s.window = 64;
    shares_are_the_whole(ml_kernels_reference(), &s, &trees);
    kept_in_bf16(ml_kernels_reference(), &s, &trees);
    kept_in_blocks(ml_kernels_reference(), &shapes[0], &trees);
}

/* The last token of a sequence alone, against all of it, whose rows lie in the cache the other way
 * round; what lies before the window would be seen if it were read. */
static void decode_is_the_last_row(const ml_kernels *k, const ml_attention_shape *s)
{
    const int64_t n = one_long.start[1];
    tensors t = tensors_of(s, n);
    float *o = fresh(t.ldq, "one"), *key = fresh(n * t.ldkv, "keys"),
          *value = fresh(n * t.ldkv, "values");
    int32_t row[T_MOST];
    for (int64_t j = 0; j < n; j++) {
        row[j] = (int32_t)(n - 1 - j);
        memcpy(key + row[j] * t.ldkv, t.k + j * t.ldkv, (size_t)t.ldkv * sizeof *key);
        memcpy(value + row[j] * t.ldkv, t.v + j * t.ldkv, (size_t)t.ldkv * sizeof *value);
        if (s->window == 0 || j > n - 1 - s->window) continue;
        key[row[j] * t.ldkv] = value[row[j] * t.ldkv] = NAN;
        row[j] = INT32_MIN;
    }
    k->attention_forward(k, s, &one_long, t.q, t.ldq, t.k, t.v, t.ldkv, t.o, t.ldq, t.lse);
    k->attention_decode(k, s, n, row, t.q + (n - 1) * t.ldq, key, value, t.ldkv, o);
    near("decode", k, s, s->heads * s->head_dim, o, t.o + (n - 1) * t.ldq);
    ml_memory_free(o);
    ml_memory_free(key);
    ml_memory_free(value);
    release(&t);
}

static void both_ways(const ml_kernels *k, const ml_attention_shape *shape, bool with_windows)
{
    static const int64_t few[] = {0, 1, 17, 128, 131};
    ml_attention_shape s = *shape;
    s.both_ways = true;
    for (size_t w = 0; w < COUNT(few) && (w == 0 || with_windows); w++) {
        s.window = few[w];
        same_as_reference(k, &s, &packed);
        same_as_reference(k, &s, &one_long);
    }
    wide_window_is_none(k, &s, &packed, 200);
    wide_window_is_none(k, &s, &one_long, one_long.start[1]);
}

static void every_shape(const manner *how)
{
    for (size_t i = 0; i < COUNT(shapes); i++) {
        ml_attention_shape s = shapes[i];
        const ml_kernels_options options = {.backend = how->backend,
                                            .vector_path = how->vector_path,
                                            .weight_dtype = ML_BF16,
                                            .tokens = T_MOST,
                                            .head_dim = s.head_dim,
                                            .heads = s.heads,
                                            .kv_heads = s.kv_heads};
        ml_kernels *k;
        if (ml_kernels_create(&k, &options) != ML_OK) {
            print_message("skipped: %s\n", ml_error_text());
            return;
        }
        for (size_t w = 0; w < COUNT(windows) && (w == 0 || i < WITH_WINDOWS); w++) {
            s.window = windows[w];
            same_as_reference(k, &s, &packed);
            same_as_reference(k, &s, &one_long);
            same_as_reference(k, &s, &trees);
            decode_is_the_last_row(k, &s);
            pieces_have_the_bits_of_the_whole(k, &s);
            if (w % 4 == 0) shares_are_the_whole(k, &s, w > 0 ? &trees : &one_long);
        }
        kept_in_bf16(k, &s, &trees);
        if (s.head_dim % 32 == 0) kept_in_blocks(k, &s, &trees);
        wide_window_is_none(k, &s, &packed, 200);
        wide_window_is_none(k, &s, &one_long, one_long.start[1]);
        wide_window_is_none(k, &s, &trees, 173);
        if (s.head_dim <= 10) both_ways(k, &s, i == CAPPED);
        ml_kernels_destroy(k);
    }
}

/* More tokens than the options said: slow, but right. */
static void test_undeclared_length(void **state)
{
    (void)state;
    const ml_attention_shape *s = &shapes[1];
    const ml_kernels_options options = {.backend = "ref",
                                        .tokens = 16,
                                        .head_dim = s->head_dim,
                                        .heads = s->heads,
                                        .kv_heads = s->kv_heads};
    ml_kernels *k;
    assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
    same_as_reference(k, s, &packed);
    ml_kernels_destroy(k);
}

static void with_threads(int threads)
{
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    for (size_t i = 0; i < COUNT(manners); i++) {
        inputs_are_narrow = is_narrow(manners[i].backend);
        every_shape(&manners[i]);
    }
    inputs_are_narrow = false;
    omp_set_num_threads(before);
}

static void test_one_thread(void **state)
{
    (void)state;
    with_threads(1);
}

/* More threads than heads: backward is cut by blocks. */
static void test_many_threads(void **state)
{
    (void)state;
    with_threads(5);
}

int main(void)
{
    for (int64_t head = 0; head < BIASED_HEADS; head++)
        for (int64_t p = 0; p < BIAS_STRIDE; p++)
            key_bias[head * BIAS_STRIDE + p] =
                (float)p / (float)(2 << head) + (float)((p * 7 + head) % 5);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_thread),
                                       cmocka_unit_test(test_many_threads),
                                       cmocka_unit_test(test_undeclared_length),
                                       cmocka_unit_test(test_reference_is_the_definition),
                                       cmocka_unit_test(test_both_ways_have_no_trees),
                                       cmocka_unit_test(test_pairs),
                                       cmocka_unit_test(test_shares_of_the_reference),
                                       cmocka_unit_test(test_trees_are_sequences_written_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
