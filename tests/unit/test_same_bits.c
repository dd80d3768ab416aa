/* Ordered kernels have the same bits with 512-bit vectors as with 256-bit ones (numerics: grid
 * promises it): every function of the table that a step goes through, whole rooms of memory
 * compared, so that a write beyond a row is seen, too. Skipped where the processor lacks one of the
 * two paths; simde/test_same_bits is this test with what is written for AVX-512 made of AVX2.
 *
 * Then a digest of each path's bits, by which arm/check_arm.py compares processors: so the numbers
 * here are made without any function of the C library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <omp.h>

#include "mpilora/blocks.h"
#include "mpilora/kernels.h"

#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { ROOM = 1 << 18, GAP = 3, ROWS = 38, COLS = 1024, HEAD = 40, LENGTH = 200, BIAS = 1024 };

static const char *const wide = "avx512", *const narrow = "avx2";

/* Everything reads from x, dy, w and a matrix of w's numbers in each type, and writes into a room
 * of its own, which has the numbers of `before`. */
static float *x, *dy, *w, *before;
static uint8_t *matrix[ML_DTYPES]; /* [ROWS, COLS] */

static float *new_room(void)
{
    float *out = ml_memory_alloc(ROOM, sizeof *out, ML_MEM_OTHER, "a room");
    assert_non_null(out);
    if (before) memcpy(out, before, ROOM * sizeof *out);
    return out;
}

static float *numbers(const char *name)
{
    float *out = new_room();
    for (int64_t i = 0; i < ROOM; i++) {
        uint64_t bits = ml_random_u64(ml_random_key_make(3, name), 0, (uint64_t)i);
        out[i] = (float)((int32_t)(bits >> 40) - (1 << 23)) / (1 << 22);
    }
    return out;
}

static uint8_t *make_matrix(ml_dtype dtype)
{
    const ml_block_format *f = ml_block_format_of(dtype);
    uint8_t *out = ml_memory_alloc(ROWS * COLS, sizeof *w, ML_MEM_OTHER, "a matrix");
    ml_block_error error = {0};
    assert_non_null(out);
    if (dtype == ML_FP32)
        memcpy(out, w, ROWS * COLS * sizeof *w);
    else if (dtype == ML_BF16)
        for (int64_t i = 0; i < ROWS * COLS; i++)
            ((uint16_t *)(void *)out)[i] = ml_bf16_from_float(w[i]);
    else
        assert_true(ml_block_quantise(f, w, ROWS * COLS / f->weights, out, &error) == -1);
    return out;
}

/* ---- products ------------------------------------------------------------------------------ */

static const int64_t sizes[][3] = {{5, 17, 40},    {13, 33, 769}, {75, 66, 800},
                                   {14, 31, 1600}, {1, 300, 100}, {300, 70, 64}};

static void gemm(const ml_kernels *k, int which, float *out)
{
    const int64_t *s = sizes[which / 8], m = s[0], n = s[1], depth = s[2];
    bool ta = which & 1, tb = which & 2;
    k->gemm(k, ta, tb, m, n, depth, 0.7f, x, (ta ? m : depth) + GAP, w, (tb ? depth : n) + GAP,
            which & 4 ? -0.75f : 0, out, n + GAP);
}

static void weights(const ml_kernels *k, int which, float *out)
{
    static const int64_t tokens[] = {1, 3, 20, 50};
    const ml_dtype dtype = (ml_dtype)(which % ML_DTYPES);
    const int64_t T = tokens[which / ML_DTYPES];
    const ml_weight of = {matrix[dtype], dtype, ROWS, COLS};
    const ml_rows runs[] = {{25, 7}, {3, 20}};
    k->weight_forward(k, T, x, COLS + GAP, &of, 1, out, ROWS + GAP);
    out += T * (ROWS + GAP);
    k->columns_forward(k, T, x, COLS + GAP, &of, 256, 512, 0, out, ROWS + GAP);
    out += T * (ROWS + GAP);
    k->weight_backward(k, T, dy, ROWS + GAP, &of, 0, out, COLS + GAP);
    out += T * (COLS + GAP);
    k->rows_backward(k, T, dy, ROWS + GAP, &of, 2, runs, 1, out, COLS + GAP);
}

static void sparse(const ml_kernels *k, int which, float *out)
{
    const int64_t T = which ? 133 : 7, rows = 321, cols = 130;
    const ml_weight of = {w, ML_FP32, rows, cols};
    float *thin = new_room();
    for (int64_t i = 0; i < T * rows; i++)
        if ((i / rows / (2 * ML_FILTER_ROWS) + i % rows / ML_FILTER_COLUMNS) % 3) thin[i] = 0;
    k->sparse_backward(k, T, thin, rows, &of, 1, out, cols + GAP);
    ml_memory_free(thin);
}

/* ---- rows ---------------------------------------------------------------------------------- */

enum { T = 71, N = 333, CELLS = T * (N + GAP) };

static void norms(const ml_kernels *k, int which, float *out)
{
    float *mean = out + 2 * CELLS, *rstd = mean + T, *dw = rstd + T, *db = dw + N;
    const bool add = which & 1, one = which & 2;
    k->layernorm_forward(T, N, x, w, w + N, 1e-5f, out, mean, rstd);
    k->layernorm_backward(T, N, x, w, mean, rstd, dy, out + CELLS, add, dw, db);
    out = db + N;
    k->rmsnorm_forward(T, N, x, w, one, 1e-5f, out, rstd);
    k->rmsnorm_backward(T, N, x, w, one, rstd, dy, out + CELLS, add, dw);
}

static void head_norms(const ml_kernels *k, int which, float *out)
{
    const ml_headnorm norm = {.heads = 3,
                              .head_dim = which & 4 ? 128 : HEAD,
                              .centred = which & 1,
                              .own = which & 2,
                              .eps = 1e-6f,
                              .w = w,
                              .b = which & 1 ? w + N : NULL};
    const int64_t ld = 3 * norm.head_dim + GAP;
    float *d = out + T * ld, *dw = d + T * ld, *db = dw + 512;
    memcpy(d, dy, (size_t)(T * ld) * sizeof *d);
    k->headnorm_forward(&norm, T, out, ld);
    k->headnorm_backward(&norm, T, x, ld, d, ld, dw, norm.b ? db : NULL);
}

static void wide_norms(const ml_kernels *k, int which, float *out)
{
    (void)which;
    float *d = out + CELLS, *sum = d + CELLS, *dw = sum + T;
    k->wide_squares(T, N, x, N + GAP, sum);
    k->wide_forward(T, N, out, N + GAP, w, sum);
    k->wide_products(T, N, x, N + GAP, w, sum, dy, N + GAP, dw + N);
    k->wide_backward(T, N, x, N + GAP, w, sum, dw + N, d, N + GAP, dw);
}

static void rotations(const ml_kernels *k, int which, float *out)
{
    const ml_rope_shape shape = {
        .heads = 4, .head_dim = 64, .rotated = 48, .neighbours = which & 1};
    int32_t position[T];
    for (int i = 0; i < T; i++) position[i] = i * 3 % 100;
    k->rope(&shape, T, out, 4 * 64 + GAP, position, x, w, which & 2);
}

static void activations(const ml_kernels *k, int which, float *out)
{
    const ml_activation a = (ml_activation)which;
    k->activation_forward(a, T, N, x, N + GAP, out, N + GAP);
    k->activation_backward(a, T, N, x, N + GAP, dy, N + GAP, out + CELLS, N + GAP);
    out += 2 * CELLS;
    k->gated_forward(a, T, N, x, w, N + GAP, out, N + GAP);
    k->gated_backward(a, T, N, x, w, N + GAP, dy, N + GAP, out + CELLS, out + 2 * CELLS, N + GAP);
    out += 3 * CELLS;
    k->slopes_forward(a, T, N, x, N + GAP, (uint8_t *)(void *)out);
    k->slopes_backward(T, N, (const uint8_t *)(void *)out, dy, N + GAP, out + CELLS, N + GAP);
}

/* ---- attention ----------------------------------------------------------------------------- */

static const ml_attention_shape shapes[] = {
    {.heads = 4, .kv_heads = 2, .head_dim = HEAD, .scale = 0.2f},
    {.heads = 4, .kv_heads = 2, .head_dim = HEAD, .scale = 0.2f, .window = 90},
    {.heads = 4, .kv_heads = 2, .head_dim = HEAD, .scale = 0.2f, .cap = 1.5f},
    {.heads = 2, .kv_heads = 2, .head_dim = 64, .scale = 0.125f, .both_ways = true},
    {.heads = 2, .kv_heads = 1, .head_dim = 10, .scale = 0.3f}};

static void attention(const ml_kernels *k, int which, float *out)
{
    static const int64_t start[] = {0, 1, 65, LENGTH};
    const ml_sequences packed = {.count = COUNT(start) - 1, .start = start};
    ml_attention_shape s = shapes[which % (int)COUNT(shapes)];
    if (which >= (int)COUNT(shapes)) {
        if (s.cap != 0 || s.both_ways) return;
        s.key_bias = dy;
        s.key_bias_stride = BIAS;
    }
    const int64_t ld = s.heads * s.head_dim + GAP, ldkv = s.kv_heads * s.head_dim + GAP;
    const float *key = w, *value = w + LENGTH * ldkv;
    float *o = out, *lse = o + LENGTH * ld, *dq = lse + LENGTH * s.heads, *dk = dq + LENGTH * ld,
          *dv = dk + LENGTH * ldkv;
    k->attention_forward(k, &s, &packed, x, ld, key, value, ldkv, o, ld, lse);
    const ml_attention_kept kept = {x, key, value, o, ld, ldkv, ld, ML_FP32, ML_FP32, lse};
    k->attention_backward(k, &s, &packed, &kept, dy, ld, dq, ld, dk, dv, ldkv);
}

/* ---- cross-entropy, vectors ---------------------------------------------------------------- */

static void cross_entropy(const ml_kernels *k, int which, float *out)
{
    enum { C = 13, V = 3001 };
    int64_t start[C + 1];
    int32_t token[C];
    float *z = out, *top = z + C * V, *sum = top + C, *picked = sum + C, *lost = picked + C;
    for (int c = 0; c <= C; c++) start[c] = c;
    for (int c = 0; c < C; c++) token[c] = c * 211;
    const ml_targets targets = {start, token, 0, NULL};
    for (int64_t i = 0; i < C * V; i++) z[i] *= 4;
    k->xent_max(C, V, z, V, top);
    k->xent_sum(C, V, z, V, top, &targets, sum, picked);
    if (which)
        k->xent_filter(C, V, z, V, top, sum, &targets, 0.3f, 1e-3f, lost);
    else
        k->xent_backward(C, V, z, V, top, sum, &targets, 0.1f, V, 0.3f);
}

static void vectors(const ml_kernels *k, int which, float *out)
{
    const int64_t n = which ? 20011 : 37; /* by several threads, and by one */
    const ml_adamw step = {.lr = 0.01,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = 1e-8,
                           .decay = 0.01,
                           .grad_scale = 0.5,
                           .t = 3};
    double squares = k->sum_squares(n, x);
    memcpy(out, &squares, sizeof squares);
    out += 2;
    k->add(n, x, out);
    k->scale(n, 0.3f, x, out + n);
    k->multiply(n, w, out + n);
    k->soft_cap(n, 1.5f, out + n, out + 2 * n);
    k->add_bias(n / 37, 37, w, out, 37);
    k->sum_rows(n / 37, 37, x, 37, out + 3 * n);
    out += 4 * n;
    k->fp32_to_bf16(n, x, (uint16_t *)(void *)out);
    k->bf16_to_fp32(n, (const uint16_t *)(const void *)out, out + n);
    for (int64_t i = 0; i < n; i++) out[4 * n + i] = x[i] * x[i];
    k->adamw(&step, n, out + 2 * n, x, out + 3 * n, out + 4 * n);
}

/* ---- the comparison ------------------------------------------------------------------------ */

typedef struct work {
    const char *name;
    int variants;
    void (*run)(const ml_kernels *k, int which, float *out);
} work;

static const work works[] = {{"gemm", 8 * COUNT(sizes), gemm},
                             {"products with a weight", 4 * ML_DTYPES, weights},
                             {"a product with blocks of zeros", 2, sparse},
                             {"norms", 4, norms},
                             {"norms of heads", 8, head_norms},
                             {"norms over ranks", 1, wide_norms},
                             {"rotations", 4, rotations},
                             {"activations", ML_TANH + 1, activations},
                             {"attention", 2 * COUNT(shapes), attention},
                             {"cross-entropy", 2, cross_entropy},
                             {"vectors", 2, vectors}};

static ml_kernels *create(const char *vector_path)
{
    static const ml_weight shape = {.dtype = ML_FP32, .rows = ROWS, .cols = COLS};
    const ml_kernels_options options = {.backend = "native",
                                        .vector_path = vector_path,
                                        .ordered = true,
                                        .tokens = 512,
                                        .shapes = &shape,
                                        .nshapes = 1,
                                        .head_dim = 64,
                                        .heads = 4,
                                        .kv_heads = 2};
    ml_kernels *k = NULL;
    if (ml_kernels_create(&k, &options) != ML_OK) print_message("skipped: %s\n", ml_error_text());
    return k;
}

static void compare(const work *of, int which, const ml_kernels *got, const ml_kernels *want)
{
    float *a = new_room(), *b = new_room();
    of->run(got, which, a);
    of->run(want, which, b);
    for (int64_t i = 0; i < ROOM && memcmp(a, b, ROOM * sizeof *a) != 0; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s, %d of %d: number %lld is %.9g by %s, %.9g by %s", of->name, which,
                     of->variants, (long long)i, (double)a[i], got->vector_path, (double)b[i],
                     want->vector_path);
    ml_memory_free(a);
    ml_memory_free(b);
}

static void both_paths_have_the_same_bits(void **state)
{
    (void)state;
    ml_kernels *want = create(narrow), *got = want ? create(wide) : NULL;
#if defined(WIDE_IS_SIMULATED)
    assert_true(got || !want);
#endif
    if (!got) {
        ml_kernels_destroy(want);
        skip();
    }
    for (size_t i = 0; i < COUNT(works); i++)
        for (int which = 0; which < works[i].variants; which++)
            compare(&works[i], which, got, want);
    ml_kernels_destroy(got);
    ml_kernels_destroy(want);
}

#if !defined(WIDE_IS_SIMULATED)

/* FNV-1a of the words. */
static uint64_t digest_of(const ml_kernels *k)
{
    uint64_t digest = 14695981039346656037U;
    for (size_t i = 0; i < COUNT(works); i++)
        for (int which = 0; which < works[i].variants; which++) {
            float *out = new_room();
            works[i].run(k, which, out);
            for (int64_t j = 0; j < ROOM; j++) {
                uint32_t bits;
                memcpy(&bits, out + j, sizeof bits);
                digest = (digest ^ bits) * 1099511628211U;
            }
            ml_memory_free(out);
        }
    return digest;
}

static void digests(void **state)
{
    (void)state;
    const char *paths[ML_KERNELS_VECTOR_PATHS];
    ml_kernels_vector_paths(paths);
    for (const char **path = paths; *path; path++) {
        ml_kernels *k = create(*path);
        assert_non_null(k);
        const uint64_t digest = digest_of(k);
        assert_true(digest == digest_of(k));
        print_message("digest of %s: %016llx\n", *path, (unsigned long long)digest);
        ml_kernels_destroy(k);
    }
}

#endif

/* The matrices were made by the widest vectors. */
static void quantisers_make_the_bytes_of_plain_loops(void **state)
{
    (void)state;
    uint8_t block[ML_BLOCK_WEIGHTS_MOST * sizeof *w];
    for (int dtype = ML_Q8_0; dtype < ML_DTYPES; dtype++) {
        const ml_block_format *f = ml_block_format_of((ml_dtype)dtype);
        for (int64_t i = 0; i < 16 * ML_BLOCK_WEIGHTS_MOST / f->weights; i++) {
            f->quantise(w + i * f->weights, block);
            assert_memory_equal(block, matrix[dtype] + i * f->bytes, (size_t)f->bytes);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_paths_have_the_same_bits),
        cmocka_unit_test(quantisers_make_the_bytes_of_plain_loops),
#if !defined(WIDE_IS_SIMULATED)
        cmocka_unit_test(digests),
#endif
    };
    omp_set_num_threads(2);
    x = numbers("x");
    dy = numbers("dy");
    w = numbers("w");
    before = numbers("before");
    for (int dtype = 0; dtype < ML_DTYPES; dtype++) matrix[dtype] = make_matrix((ml_dtype)dtype);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    float *const all[] = {x, dy, w, before};
    for (size_t i = 0; i < COUNT(all); i++) ml_memory_free(all[i]);
    for (int dtype = 0; dtype < ML_DTYPES; dtype++) ml_memory_free(matrix[dtype]);
    return failed;
}
