/* Products with a weight: every path against the reference on odd sizes, the choice of a path, and
 * the workspace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "mpilora/kernels.h"

static const char *const backends[] = {"native",      "blas",       "onednn",     "onednn-matmul",
                                       "native-bf16", "native-amx", "onednn-bf16"};
static const int64_t tokens[] = {1, 2, 7, 20, 33, 64, 129};
/* Less than a panel, several panels with a rest, not multiples of any vector; more rows than oneDNN
 * is given at a time. */
static const ml_weight shapes[] = {{.rows = 37, .cols = 65},
                                   {.rows = 600, .cols = 50},
                                   {.rows = 1, .cols = 300},
                                   {.rows = 256, .cols = 33},
                                   {.rows = 8200, .cols = 9}};
#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { T_MOST = 129, GAP = 5, ROOM = 33 * (8200 + GAP) };

static ml_kernels_options options_of(const char *path, ml_dtype dtype)
{
    return (ml_kernels_options){.backend = path,
                                .weight_dtype = dtype,
                                .tokens = T_MOST,
                                .shapes = shapes,
                                .nshapes = COUNT(shapes)};
}

/* Normal numbers, made once; each name starts at another place. */
static float *fresh(const char *name)
{
    static float numbers[ROOM + 256];
    if (numbers[0] == 0)
        for (int64_t i = 0; i < ROOM + 256; i++)
            numbers[i] = (float)ml_random_normal(ml_random_key_make(3, "numbers"), 0, (uint64_t)i);
    float *x = ml_memory_alloc(ROOM, sizeof *x, ML_MEM_OTHER, name);
    assert_non_null(x);
    memcpy(x, numbers + (unsigned char)*name, ROOM * sizeof *x);
    return x;
}

/* Numbers of size 1, sums of n of them that wander as far as 65 while float keeps 2^−24 of that; a
 * path that narrows its activations has 2^−9 a factor. */
static void near(const ml_kernels *k, const char *what, const float *got, const float *want,
                 int64_t n)
{
    bool narrows = strstr(k->backend, "-bf16") || strstr(k->backend, "-amx");
    double bound = (narrows ? 1e-2 : 4e-6) * (1 + sqrt((double)n));
    for (int64_t i = 0; i < ROOM; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= bound))
            fail_msg("%s (%s): element %lld is %.9g, the reference says %.9g", what, k->backend,
                     (long long)i, (double)got[i], (double)want[i]);
}

static void weight_products(const ml_kernels *k, int64_t T, const ml_weight *w, float beta)
{
    const ml_kernels *ref = ml_kernels_reference();
    float *x = fresh("x"), *got = fresh("y"), *want = fresh("y"), *again = fresh("y");
    int64_t ldx = w->cols + GAP, ldy = w->rows + GAP;
    k->weight_forward(k, T, x, ldx, w, beta, got, ldy);
    k->weight_forward(k, T, x, ldx, w, beta, again, ldy);
    ref->weight_forward(ref, T, x, ldx, w, beta, want, ldy);
    near(k, "x·Wᵀ", got, want, w->cols);
    assert_memory_equal(got, again, ROOM * sizeof *got);
    k->weight_backward(k, T, x, ldy, w, beta, got, ldx);
    ref->weight_backward(ref, T, x, ldy, w, beta, want, ldx);
    near(k, "dy·W", got, want, 2 * w->rows + w->cols);
    ml_memory_free(x);
    ml_memory_free(got);
    ml_memory_free(want);
    ml_memory_free(again);
}

static void plain_products(const ml_kernels *k)
{
    const ml_kernels *ref = ml_kernels_reference();
    float *a = fresh("a"), *b = fresh("b"), *got = fresh("c"), *want = fresh("c");
    enum { M = 37, N = 8, L = 65, LD = 70 };
    for (int which = 0; which < 8; which++) {
        bool ta = which & 1, tb = which & 2;
        float beta = which & 4 ? 1.0f : 0.0f;
        k->gemm(k, ta, tb, M, N, L, 0.5f, a, LD, b, LD, beta, got, LD);
        ref->gemm(ref, ta, tb, M, N, L, 0.5f, a, LD, b, LD, beta, want, LD);
        near(k, "gemm", got, want, L);
    }
    ml_memory_free(a);
    ml_memory_free(b);
    ml_memory_free(got);
    ml_memory_free(want);
}

static void path_is_right(const char *path, ml_dtype dtype)
{
    ml_kernels_options options = options_of(path, dtype);
    ml_kernels *k;
    if (ml_kernels_create(&k, &options) != ML_OK) {
        print_message("skipped: %s\n", ml_error_text());
        return;
    }
    assert_string_equal(k->backend, path);
    float *full = fresh("w");
    uint16_t *fp32_to_bf16 = ml_memory_alloc(ROOM, sizeof *fp32_to_bf16, ML_MEM_OTHER, "narrow");
    assert_non_null(fp32_to_bf16);
    k->fp32_to_bf16(ROOM, full, fp32_to_bf16);
    for (size_t s = 0; s < COUNT(shapes); s++) {
        ml_weight w = shapes[s];
        w.dtype = dtype;
        w.data = dtype == ML_BF16 ? (const void *)fp32_to_bf16 : (const void *)full;
        for (size_t t = 0; t < COUNT(tokens) && tokens[t] * (w.rows + GAP) <= ROOM; t++)
            for (int add = 0; add < 2; add++) weight_products(k, tokens[t], &w, (float)add);
    }
    plain_products(k);
    ml_memory_free(full);
    ml_memory_free(fp32_to_bf16);
    ml_kernels_destroy(k);
}

static void every_path_is_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(backends); i++) {
        path_is_right(backends[i], ML_FP32);
        path_is_right(backends[i], ML_BF16);
    }
}

/* Any codes under factors near 1/100, so that weights are of the size of 1. */
static uint8_t *fresh_blocks(const ml_block_format *f, int64_t count)
{
    uint8_t *blocks = ml_memory_alloc(count, (size_t)f->bytes, ML_MEM_OTHER, "blocks");
    assert_non_null(blocks);
    for (int64_t i = 0; i < count * f->bytes; i++)
        blocks[i] = (uint8_t)ml_random_u64(ml_random_key_make(5, f->name), 0, (uint64_t)i);
    for (int64_t i = 0; i < count; i++) {
        uint8_t *block = blocks + i * f->bytes;
        if (f->dtype == ML_MXFP4) block[0] = (uint8_t)(120 + i % 7);
        for (int j = 0; j < 2; j++)
            if (f->scales[j] >= 0) block[f->scales[j] + 1] = (uint8_t)(0x10 + i % 2 * 0x80);
    }
    return blocks;
}

/* Blocks are decoded as they are multiplied: every format with every instruction set, rows of
 * several parts of the depth, in both directions. */
static void every_block_format_is_right(void **state)
{
    (void)state;
    static const char *const vector_paths[] = {"ref", "generic", "avx2", "avx512"};
    static const int64_t sizes[][2] = {{37, 256}, {70, 1024}};
    for (size_t v = 0; v < COUNT(vector_paths); v++)
        for (int d = ML_Q8_0; d < ML_DTYPES; d++) {
            const ml_block_format *f = ml_block_format_of((ml_dtype)d);
            ml_kernels_options options = options_of("native", (ml_dtype)d);
            options.vector_path = vector_paths[v];
            ml_kernels *k;
            if (ml_kernels_create(&k, &options) != ML_OK) break;
            for (size_t s = 0; s < COUNT(sizes); s++) {
                int64_t count = sizes[s][0] * sizes[s][1] / f->weights;
                uint8_t *blocks = fresh_blocks(f, count);
                const ml_weight w = {blocks, (ml_dtype)d, sizes[s][0], sizes[s][1]};
                for (int64_t T = 1; T <= 29; T += T < 5 ? 1 : 12)
                    if (T * (w.cols + GAP) <= ROOM)
                        for (int add = 0; add < 2; add++) weight_products(k, T, &w, (float)add);
                ml_memory_free(blocks);
            }
            ml_kernels_destroy(k);
        }
}

/* Panels of blocks as bf16: numbers that bf16 holds exactly give the reference's sums; every
 * format, several panels in both directions, chunks of tokens and a rest; a matrix in bf16 beside
 * them. */
static void blocks_in_bf16(const char *path)
{
    static const ml_weight declared[] = {{.rows = 1100, .cols = 1280}};
    static const int64_t sizes[][2] = {{37, 256}, {1100, 512}, {40, 1280}};
    for (int v = 0; v < 2; v++)
        for (int d = ML_BF16; d < ML_DTYPES; d++) {
            ml_kernels_options options = {.backend = path,
                                          .vector_path = v ? "ref" : NULL,
                                          .weight_dtype = d == ML_BF16 ? ML_Q8_0 : (ml_dtype)d,
                                          .tokens = 200,
                                          .shapes = declared,
                                          .nshapes = 1};
            const ml_block_format *f = ml_block_format_of((ml_dtype)d);
            ml_kernels *k;
            if (ml_kernels_create(&k, &options) != ML_OK) {
                print_message("skipped: %s\n", ml_error_text());
                return;
            }
            assert_string_equal(k->backend, path);
            for (size_t s = 0; s < COUNT(sizes); s++) {
                int64_t count = sizes[s][0] * sizes[s][1] / f->weights;
                uint8_t *blocks = fresh_blocks(f, count);
                for (int64_t i = 0; d == ML_BF16 && i < count; i++)
                    ((uint16_t *)(void *)blocks)[i] = ml_bf16_from_float((float)(i % 37) / 32);
                const ml_weight w = {blocks, (ml_dtype)d, sizes[s][0], sizes[s][1]};
                for (size_t t = 0; t < COUNT(tokens); t++)
                    for (int add = 0; add < 2; add++)
                        if (tokens[t] * (ml_max(w.rows, w.cols) + GAP) <= ROOM &&
                            (!s || (!v && tokens[t] >= 7)))
                            weight_products(k, tokens[t], &w, (float)add);
                ml_memory_free(blocks);
            }
            ml_kernels_destroy(k);
        }
}

static void blocks_are_multiplied_in_bf16(void **state)
{
    (void)state;
    blocks_in_bf16("native-bf16");
    blocks_in_bf16("native-amx");
}

/* Backward over so many rows, activations are narrowed a part of the depth at a time. */
static void vocabulary_in_bf16(const char *path)
{
    enum { ROWS = 16500, COLS = 64 };
    static const ml_weight declared[] = {{.rows = ROWS, .cols = COLS}};
    const ml_block_format *f = ml_block_format_of(ML_Q8_0);
    ml_kernels_options options = {
        .backend = path, .weight_dtype = ML_Q8_0, .tokens = 200, .shapes = declared, .nshapes = 1};
    ml_kernels *k;
    if (ml_kernels_create(&k, &options) != ML_OK) {
        print_message("skipped: %s\n", ml_error_text());
        return;
    }
    uint8_t *blocks = fresh_blocks(f, ROWS * COLS / f->weights);
    const ml_weight w = {blocks, ML_Q8_0, ROWS, COLS};
    for (int64_t T = 7; T * (ROWS + GAP) <= ROOM; T += 9)
        for (int add = 0; add < 2; add++) weight_products(k, T, &w, (float)add);
    ml_memory_free(blocks);
    ml_kernels_destroy(k);
}

static void a_vocabulary_of_blocks_is_multiplied_in_bf16(void **state)
{
    (void)state;
    vocabulary_in_bf16("native-bf16");
    vocabulary_in_bf16("native-amx");
}

/* Blocks go through the project's own products and the reference alone; exactly, not through bf16.
 */
static void libraries_do_not_take_blocks(void **state)
{
    (void)state;
    ml_kernels_options options = options_of("blas", ML_Q4_K);
    ml_kernels *k;
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "with q4_k weights"));
    options = options_of("onednn-bf16", ML_Q4_K);
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_null(strstr(ml_error_text(), ", onednn-bf16"));
    options = options_of("native-bf16", ML_Q4_K);
    options.exact = true;
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_null(strstr(ml_error_text(), ", native-bf16"));
}

/* More rows than the scratch memory is made for run in rounds, and a row has the same bits beside
 * however many others. */
static void rows_do_not_depend_on_their_number(void **state)
{
    (void)state;
    static const char *const paths[] = {"native", "native-bf16", "native-amx"};
    enum { ROWS = 70, COLS = 1000, MADE_FOR = 40 };
    float *x = fresh("x"), *many = fresh("y"), *few = fresh("y");
    uint16_t *weights = ml_memory_alloc(ROWS * COLS, sizeof *weights, ML_MEM_OTHER, "weights");
    assert_non_null(weights);
    for (int64_t i = 0; i < ROWS * COLS; i++) weights[i] = ml_bf16_from_float(x[i]);
    const ml_weight w = {weights, ML_BF16, ROWS, COLS};
    for (size_t i = 0; i < COUNT(paths); i++) {
        ml_kernels_options options = options_of(paths[i], ML_BF16);
        options.tokens = MADE_FOR;
        ml_kernels *k;
        if (ml_kernels_create(&k, &options) != ML_OK) continue;
        for (int64_t T = 5; T < 200; T += 31) {
            k->weight_forward(k, 200, x, COLS, &w, 0, many, ROWS);
            k->weight_forward(k, T, x, COLS, &w, 0, few, ROWS);
            assert_memory_equal(many, few, (size_t)(T * ROWS) * sizeof *few);
            k->weight_backward(k, 200, x, ROWS, &w, 0, many, COLS);
            k->weight_backward(k, T, x, ROWS, &w, 0, few, COLS);
            assert_memory_equal(many, few, (size_t)(T * COLS) * sizeof *few);
        }
        ml_kernels_destroy(k);
    }
    ml_memory_free(weights);
    ml_memory_free(x);
    ml_memory_free(many);
    ml_memory_free(few);
}

/* With beta 0 the old content is never read, nor is what an earlier, larger weight left in the
 * scratch memory. */
static void old_content_is_not_read(void **state)
{
    (void)state;
    enum { ROWS = 37, COLS = 65, LARGE_ROWS = 64, LARGE_COLS = 96 };
    static uint16_t narrow[ROWS * COLS], narrow_nan[LARGE_ROWS * LARGE_COLS];
    static float wide_nan[LARGE_ROWS * LARGE_COLS];
    for (int64_t i = 0; i < LARGE_ROWS * LARGE_COLS; i++) {
        wide_nan[i] = NAN;
        narrow_nan[i] = ml_bf16_from_float(NAN);
    }
    float *wide = fresh("w"), *x = fresh("x"), *y = fresh("y");
    for (int64_t i = 0; i < ROWS * COLS; i++) narrow[i] = ml_bf16_from_float(wide[i]);
    const ml_weight weights[] = {{wide, ML_FP32, ROWS, COLS}, {narrow, ML_BF16, ROWS, COLS}},
                    large[] = {{wide_nan, ML_FP32, LARGE_ROWS, LARGE_COLS},
                               {narrow_nan, ML_BF16, LARGE_ROWS, LARGE_COLS}};
    for (size_t i = 0; i < 2 * COUNT(backends); i++)
        for (int64_t T = 1; T < 100; T += 49) {
            const ml_weight *w = &weights[i % 2];
            ml_kernels_options options = options_of(backends[i / 2], w->dtype);
            ml_kernels *k;
            if (ml_kernels_create(&k, &options) != ML_OK) continue;
            k->weight_forward(k, T, x, LARGE_COLS, &large[i % 2], 0, y, LARGE_ROWS);
            for (int64_t j = 0; j < ROOM; j++) y[j] = NAN;
            k->weight_forward(k, T, x, COLS, w, 0, y, ROWS);
            for (int64_t j = 0; j < T * ROWS; j++) assert_true(y[j] == y[j]);
            k->weight_backward(k, T, x, LARGE_ROWS, &large[i % 2], 0, y, LARGE_COLS);
            for (int64_t j = 0; j < ROOM; j++) y[j] = NAN;
            k->weight_backward(k, T, x, ROWS, w, 0, y, COLS);
            for (int64_t j = 0; j < T * COLS; j++) assert_true(y[j] == y[j]);
            ml_kernels_destroy(k);
        }
    ml_memory_free(wide);
    ml_memory_free(x);
    ml_memory_free(y);
}

/* A weight larger than any that the options named is slow, but right. */
static void undeclared_weights_are_right(void **state)
{
    (void)state;
    static const ml_weight small = {.rows = 8, .cols = 8};
    for (size_t i = 0; i < COUNT(backends); i++)
        for (ml_dtype dtype = ML_FP32; dtype <= ML_BF16; dtype++) {
            ml_kernels_options options = options_of(backends[i], dtype);
            ml_kernels *k;
            options.shapes = &small;
            options.nshapes = 1;
            if (ml_kernels_create(&k, &options) != ML_OK) continue;
            float *w = fresh("w"), *place = fresh("place");
            uint16_t *fp32_to_bf16 = (uint16_t *)(void *)place;
            k->fp32_to_bf16(37 * 65, w, fp32_to_bf16);
            const void *data = dtype == ML_BF16 ? (const void *)fp32_to_bf16 : (const void *)w;
            ml_weight weight = {data, dtype, 37, 65}, wide = {data, dtype, 3, 600};
            weight_products(k, 129, &weight, 1);
            weight_products(k, 129, &wide, 0);
            ml_memory_free(w);
            ml_memory_free(place);
            ml_kernels_destroy(k);
        }
}

static void auto_measures_what_can_run(void **state)
{
    (void)state;
    static const ml_weight large[] = {{.rows = 2304, .cols = 768}, {.rows = 768, .cols = 3072}};
    for (ml_dtype dtype = ML_FP32; dtype <= ML_BF16; dtype++) {
        ml_kernels_options options = {
            .weight_dtype = dtype, .tokens = 2048, .shapes = large, .nshapes = 2};
        ml_kernels *k;
        const ml_kernels_rate *rates;
        assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
        int64_t count = ml_kernels_rates(k, &rates, NULL);
        assert_true(count >= 2);
        for (int64_t i = 0; i < count; i++)
            assert_true(rates[i].forward.least > 0 && rates[i].backward.least > 0);
        ml_kernels_destroy(k);
    }
}

static void unknown_paths_are_refused(void **state)
{
    (void)state;
    ml_kernels *k;
    ml_kernels_options options = options_of("blass", ML_BF16);
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "\"blass\""));
    assert_non_null(strstr(ml_error_text(), "native, blas"));
    options = options_of("auto", ML_BF16);
    options.vector_path = "sse9";
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "generic"));
    options = options_of("onednn-bf16", ML_FP32); /* needs bf16 weights */
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
}

static void environment_overrides_the_options(void **state)
{
    (void)state;
    ml_kernels *k;
    ml_kernels_options options = options_of("blas", ML_BF16);
    options.vector_path = "generic";
    setenv("MPILORA_PRODUCT_PATH", "native", 1);
    setenv("MPILORA_VECTOR_PATH", "ref", 1);
    assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
    assert_string_equal(k->backend, "native");
    assert_string_equal(k->vector_path, "ref");
    ml_kernels_destroy(k);
    setenv("MPILORA_PRODUCT_PATH", "nothing", 1);
    assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
    unsetenv("MPILORA_PRODUCT_PATH");
    unsetenv("MPILORA_VECTOR_PATH");
}

/* What is predicted is what is taken, and nothing more is taken later. */
static void workspace_is_as_predicted(void **state)
{
    (void)state;
    static const char *const forced[] = {NULL,          "native",        "blas",
                                         "onednn",      "native-bf16",   "native-amx",
                                         "onednn-bf16", "onednn-matmul", "ref"};
    for (size_t i = 0; i < COUNT(forced); i++)
        for (ml_dtype dtype = ML_FP32; dtype <= ML_BF16; dtype++) {
            ml_kernels *k;
            ml_kernels_options options = options_of(forced[i], dtype);
            options.heads = 4;
            options.kv_heads = 2;
            options.head_dim = 24;
            int64_t before = ml_memory_current(ML_MEM_WORKSPACE),
                    other = ml_memory_current(ML_MEM_OTHER);
            if (ml_kernels_create(&k, &options) != ML_OK) continue;
            assert_int_equal(ml_memory_current(ML_MEM_WORKSPACE) - before,
                             ml_kernels_workspace_bytes(&options, omp_get_max_threads()));
            assert_int_equal(ml_memory_current(ML_MEM_OTHER), other);
            int64_t allocations = ml_memory_allocations();
            float x[65] = {1}, y[37], w[37 * 65] = {0};
            ml_weight weight = {w, dtype, 37, 65};
            k->weight_forward(k, 1, x, 65, &weight, 0, y, 37);
            assert_int_equal(ml_memory_allocations(), allocations);
            ml_kernels_destroy(k);
            assert_int_equal(ml_memory_current(ML_MEM_WORKSPACE), before);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_is_right),
        cmocka_unit_test(every_block_format_is_right),
        cmocka_unit_test(blocks_are_multiplied_in_bf16),
        cmocka_unit_test(a_vocabulary_of_blocks_is_multiplied_in_bf16),
        cmocka_unit_test(libraries_do_not_take_blocks),
        cmocka_unit_test(rows_do_not_depend_on_their_number),
        cmocka_unit_test(old_content_is_not_read),
        cmocka_unit_test(undeclared_weights_are_right),
        cmocka_unit_test(auto_measures_what_can_run),
        cmocka_unit_test(unknown_paths_are_refused),
        cmocka_unit_test(environment_overrides_the_options),
        cmocka_unit_test(workspace_is_as_predicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
