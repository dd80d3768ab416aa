/* Ordered kernels: the bits of a number do not depend on what is computed with it: how many rows,
 * which of the columns, how many threads, which other sequences, which heads. On every vector
 * path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>

#include "mpilora/kernels.h"

#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { TOKENS = 71, ROWS = 150, COLS = 1600, ROOM = TOKENS * COLS, DRAWS = 40 };

static const ml_weight shape = {.rows = ROWS, .cols = COLS};

/* ---- numbers ------------------------------------------------------------------------------- */

static float *numbers(int64_t n, const char *name)
{
    float *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, name);
    assert_non_null(x);
    ml_random_normals(ml_random_key_make(3, name), 0, 0, n, 1.0, x);
    return x;
}

static int64_t draw(const char *name, int number, int64_t below)
{
    return (int64_t)(ml_random_uniform(ml_random_key_make(5, name), 0, (uint64_t)number) *
                     (double)below);
}

/* A range of n things, not empty, that begins and ends anywhere. */
typedef struct range {
    int64_t first, count;
} range;

static range some_of(const char *name, int number, int64_t n)
{
    int64_t first = draw(name, number, n);
    return (range){first, 1 + draw(name, number + DRAWS, n - first)};
}

static void same_rows(const char *what, const ml_kernels *k, int64_t rows, int64_t cols,
                      const float *got, int64_t ldgot, const float *want, int64_t ldwant)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            if (memcmp(got + i * ldgot + j, want + i * ldwant + j, sizeof *got) != 0)
                fail_msg("%s (%s): number %d of row %d of %d × %d is %.9g, among more it was %.9g",
                         what, k->vector_path, (int)j, (int)i, (int)rows, (int)cols,
                         (double)got[i * ldgot + j], (double)want[i * ldwant + j]);
}

static ml_kernels *create(const char *vector_path, ml_dtype dtype, int threads)
{
    ml_kernels *k;
    const ml_kernels_options options = {.backend = "native",
                                        .vector_path = vector_path,
                                        .weight_dtype = dtype,
                                        .ordered = true,
                                        .tokens = 512,
                                        .shapes = &shape,
                                        .nshapes = 1,
                                        .head_dim = 40,
                                        .heads = 4,
                                        .kv_heads = 2};
    omp_set_num_threads(threads);
    assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
    return k;
}

/* ---- products ------------------------------------------------------------------------------ */

static ml_weight weight_of(ml_dtype dtype, const float *wide)
{
    ml_weight w = {.dtype = dtype, .rows = ROWS, .cols = COLS};
    void *data = ml_memory_alloc(ml_dtype_bytes(dtype, ROWS * COLS), 1, ML_MEM_OTHER, "weight");
    assert_non_null(data);
    const ml_block_format *format = ml_block_format_of(dtype);
    for (int64_t i = 0; i < ROWS * COLS; i += format->weights)
        if (dtype == ML_BF16)
            ((uint16_t *)data)[i] = ml_bf16_from_float(wide[i]);
        else if (dtype == ML_FP32)
            ((float *)data)[i] = wide[i];
        else
            format->quantise(wide + i, (uint8_t *)data + i / format->weights * format->bytes);
    w.data = data;
    return w;
}

/* `all` and `few` have different threads. */
static void weight_rows(const ml_kernels *all, const ml_kernels *few, const ml_weight *w)
{
    float *x = numbers(ROOM, "x"), *y = numbers(ROOM, "y"), *old = numbers(ROOM, "y"),
          *got = numbers(ROOM, "y");
    int64_t bytes = ml_dtype_bytes(w->dtype, w->cols);
    all->weight_forward(all, TOKENS, x, COLS, w, 1, y, ROWS);
    for (int i = 0; i < DRAWS; i++) {
        range t = some_of("tokens", i, TOKENS), r = some_of("rows", i, ROWS);
        if (i % 4 == 0) t.count = ml_min(t.count, 1 + i / 4 % 4);
        const ml_weight part = {(const char *)w->data + r.first * bytes, w->dtype, r.count, COLS};
        int64_t at = t.first * ROWS + r.first;
        memcpy(got, old, ROOM * sizeof *got);
        few->weight_forward(few, t.count, x + t.first * COLS, COLS, &part, 1, got + at, ROWS);
        same_rows("x·Wᵀ", few, t.count, r.count, got + at, ROWS, y + at, ROWS);
        memcpy(got, old, ROOM * sizeof *got);
        few->columns_forward(few, t.count, x + t.first * COLS, COLS, &part, 0, COLS, 1, got + at,
                             ROWS);
        same_rows("x·Wᵀ by columns", few, t.count, r.count, got + at, ROWS, y + at, ROWS);
    }
    all->weight_backward(all, TOKENS, x, ROWS, w, 0, y, COLS);
    for (int i = 0; i < DRAWS; i++) {
        range t = some_of("tokens", i, TOKENS);
        few->weight_backward(few, t.count, x + t.first * ROWS, ROWS, w, 0, got, COLS);
        same_rows("dy·W", few, t.count, COLS, got, COLS, y + t.first * COLS, COLS);
    }
    ml_memory_free(x);
    ml_memory_free(y);
    ml_memory_free(old);
    ml_memory_free(got);
}

static void gemm_rows(const ml_kernels *all, const ml_kernels *few, bool ta, bool tb, int64_t depth)
{
    enum { M = 60, N = 90 };
    float *a = numbers(M * depth, "a"), *b = numbers(N * depth, "b"), *c = numbers(M * N, "c"),
          *got = numbers(M * N, "c"), *old = numbers(M * N, "c");
    int64_t lda = ta ? M : depth, ldb = tb ? depth : N;
    all->gemm(all, ta, tb, M, N, depth, 0.7f, a, lda, b, ldb, 1, c, N);
    for (int i = 0; i < DRAWS; i++) {
        range m = some_of("m", i, M), n = some_of("n", i, N);
        memcpy(got, old, M * N * sizeof *got);
        few->gemm(few, ta, tb, m.count, n.count, depth, 0.7f, a + m.first * (ta ? 1 : lda), lda,
                  b + n.first * (tb ? ldb : 1), ldb, 1, got + m.first * N + n.first, N);
        same_rows("gemm", few, m.count, n.count, got + m.first * N + n.first, N,
                  c + m.first * N + n.first, N);
    }
    ml_memory_free(a);
    ml_memory_free(b);
    ml_memory_free(c);
    ml_memory_free(got);
    ml_memory_free(old);
}

/* ---- everything else ----------------------------------------------------------------------- */

/* Rows of `all`'s widths, and some columns of these. */
static void elementwise(const ml_kernels *all, const ml_kernels *few)
{
    enum { N = 333 };
    float *x = numbers(2 * TOKENS * N, "x"), *dy = numbers(TOKENS * N, "dy"),
          *y = numbers(2 * TOKENS * N, "y"), *got = numbers(2 * TOKENS * N, "y");
    for (int i = 0; i < DRAWS; i++) {
        const ml_activation a = (ml_activation)(i % (ML_TANH + 1));
        range t = some_of("tokens", i, TOKENS), n = some_of("columns", i, N);
        int64_t at = t.first * N + n.first, at2 = 2 * t.first * N + n.first;
        all->activation_forward(a, TOKENS, N, x, N, y, N);
        few->activation_forward(a, t.count, n.count, x + at, N, got, N);
        same_rows("activation", few, t.count, n.count, got, N, y + at, N);
        all->activation_backward(a, TOKENS, N, x, N, dy, N, y, N);
        few->activation_backward(a, t.count, n.count, x + at, N, dy + at, N, got, N);
        same_rows("activation's gradient", few, t.count, n.count, got, N, y + at, N);
        all->gated_forward(a, TOKENS, N, x, x + N, 2 * N, y, N);
        few->gated_forward(a, t.count, n.count, x + at2, x + at2 + N, 2 * N, got, N);
        same_rows("gate", few, t.count, n.count, got, N, y + at, N);
        all->gated_backward(a, TOKENS, N, x, x + N, 2 * N, dy, N, y, y + N, 2 * N);
        few->gated_backward(a, t.count, n.count, x + at2, x + at2 + N, 2 * N, dy + at, N, got,
                            got + N, 2 * N);
        same_rows("gate's gradient", few, t.count, n.count, got, 2 * N, y + at2, 2 * N);
        same_rows("gate's gradient", few, t.count, n.count, got + N, 2 * N, y + at2 + N, 2 * N);
        memcpy(y, x, TOKENS * N * sizeof *y);
        memcpy(got, x, TOKENS * N * sizeof *got);
        all->soft_cap(TOKENS * N, 1.5f, y, NULL);
        few->soft_cap(n.count, 1.5f, got + at, NULL);
        same_rows("cap", few, 1, n.count, got + at, N, y + at, N);
    }
    ml_memory_free(x);
    ml_memory_free(dy);
    ml_memory_free(y);
    ml_memory_free(got);
}

static void norms(const ml_kernels *all, const ml_kernels *few)
{
    enum { N = 333 };
    float *x = numbers(TOKENS * N, "x"), *dy = numbers(TOKENS * N, "dy"), *w = numbers(N, "w"),
          *y = numbers(TOKENS * N, "y"), *got = numbers(TOKENS * N, "y"), mean[TOKENS],
          rstd[TOKENS];
    for (int i = 0; i < DRAWS; i++) {
        range t = some_of("tokens", i, TOKENS);
        int64_t at = t.first * N;
        float m[TOKENS], r[TOKENS];
        all->layernorm_forward(TOKENS, N, x, w, w, 1e-5f, y, mean, rstd);
        few->layernorm_forward(t.count, N, x + at, w, w, 1e-5f, got, m, r);
        same_rows("layer norm", few, t.count, N, got, N, y + at, N);
        all->layernorm_backward(TOKENS, N, x, w, mean, rstd, dy, y, false, NULL, NULL);
        few->layernorm_backward(t.count, N, x + at, w, m, r, dy + at, got, false, NULL, NULL);
        same_rows("layer norm's gradient", few, t.count, N, got, N, y + at, N);
        all->rmsnorm_forward(TOKENS, N, x, w, true, 1e-5f, y, rstd);
        few->rmsnorm_forward(t.count, N, x + at, w, true, 1e-5f, got, r);
        same_rows("RMS norm", few, t.count, N, got, N, y + at, N);
        all->rmsnorm_backward(TOKENS, N, x, w, true, rstd, dy, y, false, NULL);
        few->rmsnorm_backward(t.count, N, x + at, w, true, r, dy + at, got, false, NULL);
        same_rows("RMS norm's gradient", few, t.count, N, got, N, y + at, N);
    }
    ml_memory_free(x);
    ml_memory_free(dy);
    ml_memory_free(w);
    ml_memory_free(y);
    ml_memory_free(got);
}

/* Columns of a vocabulary from a leaf's first on: sums begin there on every rank. */
static void cross_entropy(const ml_kernels *all, const ml_kernels *few)
{
    enum { V = 3001, C = 8 };
    float *z = numbers(C * V, "z"), *whole = numbers(C * V, "z"), *part = numbers(C * V, "z"),
          top[C], sum[C], picked[C], other[C], again[C], unused[C];
    int64_t start[C + 1];
    int32_t token[C];
    for (int c = 0; c <= C; c++) start[c] = c;
    for (int c = 0; c < C; c++) token[c] = c * 311;
    const ml_targets targets = {start, token, 0, NULL};
    all->xent_max(C, V, z, V, top);
    all->xent_sum(C, V, z, V, top, &targets, sum, picked);
    all->xent_backward(C, V, whole, V, top, sum, &targets, 0.1f, V, 0.3f);
    for (int i = 0; i < DRAWS; i++) {
        range c = some_of("rows", i, C), v = some_of("columns", i, V);
        ml_targets own = {start + c.first, token, v.first, NULL};
        few->xent_sum(c.count, V, z + c.first * V, V, top + c.first,
                      &(ml_targets){start + c.first, token, 0, NULL}, other, again);
        assert_memory_equal(other, sum + c.first, (size_t)c.count * sizeof *other);
        assert_memory_equal(again, picked + c.first, (size_t)c.count * sizeof *again);
        memcpy(part, z, C * V * sizeof *part);
        int64_t at = c.first * V + v.first;
        few->xent_backward(c.count, v.count, part + at, V, top + c.first, sum + c.first, &own, 0.1f,
                           V, 0.3f);
        same_rows("cross-entropy's gradient", few, c.count, v.count, part + at, V, whole + at, V);
        /* The same columns lie elsewhere in a rank's memory. */
        few->xent_sum(1, v.count, z + v.first, V, top, &own, other, again);
        memcpy(part, z + v.first, (size_t)v.count * sizeof *part);
        few->xent_sum(1, v.count, part, v.count, top, &own, again, unused);
        assert_memory_equal(other, again, sizeof *other);
    }
    ml_memory_free(z);
    ml_memory_free(whole);
    ml_memory_free(part);
}

/* Sequences alone and packed, all heads and half of them. */
typedef struct attention {
    float *q, *kv, *o, *d_o, *dq, *dkv, *lse;
} attention;

enum { LENGTH = 350, HEAD = 40, Q = 4 * HEAD, KV = 4 * HEAD };

static attention attention_of(void)
{
    return (attention){numbers(LENGTH * Q, "q"),  numbers(LENGTH * KV, "kv"),
                       numbers(LENGTH * Q, "o"),  numbers(LENGTH * Q, "d_o"),
                       numbers(LENGTH * Q, "dq"), numbers(LENGTH * KV, "dkv"),
                       numbers(LENGTH * 4, "lse")};
}

static void attention_free(attention *a)
{
    float *all[] = {a->q, a->kv, a->o, a->d_o, a->dq, a->dkv, a->lse};
    for (size_t i = 0; i < COUNT(all); i++) ml_memory_free(all[i]);
}

/* Rows from `first` on, heads [head, head + heads), twice as many as key heads. */
static void attend(const ml_kernels *k, attention *a, int64_t first, const ml_sequences *s,
                   int64_t head, int64_t heads)
{
    const ml_attention_shape shape = {
        .heads = heads, .kv_heads = heads / 2, .head_dim = HEAD, .scale = 0.2f, .window = 200};
    int64_t at = first * Q + head * HEAD, kv = first * KV + head / 2 * HEAD, v = kv + KV / 2;
    k->attention_forward(k, &shape, s, a->q + at, Q, a->kv + kv, a->kv + v, KV, a->o + at, Q,
                         a->lse);
    const ml_attention_kept kept = {.q = a->q + at,
                                    .key = a->kv + kv,
                                    .value = a->kv + v,
                                    .o = a->o + at,
                                    .ldq = Q,
                                    .ldkv = KV,
                                    .ldo = Q,
                                    .lse = a->lse};
    k->attention_backward(k, &shape, s, &kept, a->d_o + at, Q, a->dq + at, Q, a->dkv + kv,
                          a->dkv + v, KV);
}

static void compare_attention(const ml_kernels *k, const attention *got, const attention *want)
{
    same_rows("attention", k, LENGTH, Q, got->o, Q, want->o, Q);
    same_rows("attention's dq", k, LENGTH, Q, got->dq, Q, want->dq, Q);
    same_rows("attention's dk, dv", k, LENGTH, KV, got->dkv, KV, want->dkv, KV);
}

static void attention_rows(const ml_kernels *all, const ml_kernels *few)
{
    static const int64_t starts[] = {0, 1, 65, 180, LENGTH}, shared[] = {0, 0, 30, 60};
    const ml_sequences packed = {.count = COUNT(starts) - 1, .start = starts},
                       tree = {.count = COUNT(starts) - 1, .start = starts, .shared = shared};
    attention one = attention_of(), other = attention_of();
    attend(all, &one, 0, &packed, 0, 4);
    for (int64_t head = 0; head < 4; head += 2)
        for (int64_t i = 0; i < packed.count; i++) {
            const int64_t own[] = {0, starts[i + 1] - starts[i]};
            attend(few, &other, starts[i], &(ml_sequences){.count = 1, .start = own}, head, 2);
        }
    compare_attention(few, &other, &one);
    attend(all, &one, 0, &tree, 0, 4);
    for (int64_t head = 0; head < 4; head += 2) attend(few, &other, 0, &tree, head, 2);
    compare_attention(few, &other, &one);
    attention_free(&one);
    attention_free(&other);
}

/* ---- the tests ----------------------------------------------------------------------------- */

static void of_path(const char *path)
{
    static const ml_dtype dtypes[] = {ML_FP32, ML_BF16, ML_Q8_0, ML_Q4_0, ML_Q5_1};
    static const int threads[] = {2, 3, 1};
    ml_kernels *all = create(path, ML_FP32, 1);
    float *wide = numbers(ROWS * COLS, "wide");
    for (size_t i = 0; i < COUNT(threads); i++) {
        ml_kernels *few = create(path, ML_FP32, threads[i]);
        for (size_t d = 0; d < COUNT(dtypes); d++) {
            const ml_weight w = weight_of(dtypes[d], wide);
            weight_rows(all, few, &w);
            ml_memory_free((void *)(uintptr_t)w.data);
        }
        for (int layout = 0; layout < 4; layout++)
            gemm_rows(all, few, layout & 1, layout & 2, layout % 2 ? 71 : 900);
        elementwise(all, few);
        norms(all, few);
        cross_entropy(all, few);
        attention_rows(all, few);
        ml_kernels_destroy(few);
    }
    ml_memory_free(wide);
    ml_kernels_destroy(all);
}

static void rows_stand_for_themselves(void **state)
{
    (void)state;
    const char *paths[ML_KERNELS_VECTOR_PATHS];
    int before = omp_get_max_threads();
    ml_kernels_vector_paths(paths);
    for (const char **path = paths; *path; path++) of_path(*path);
    omp_set_num_threads(before);
}

/* A backend that promises nothing is refused by name, with those that do. */
static void others_are_refused(void **state)
{
    (void)state;
    ml_kernels *k;
    const ml_kernels_options options = {.backend = "blas", .ordered = true, .tokens = 8};
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "native"));
    assert_null(strstr(ml_error_text(), "onednn"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_stand_for_themselves),
        cmocka_unit_test(others_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
