/* The project's own product with every instruction set: sizes around each border (register tile,
 * group of columns, block of rows, depth of a part, rows packed at a time), every layout, bf16 and
 * fp32, against sums in double; nothing outside C is touched, no bit depends on the threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "kernels/product.h"

#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { GAP = 3, TOKENS = 150 };

static const char *const vector_paths[] = {"ref", "generic", "avx2", "avx512"};
static const int64_t sizes[][3] = {{1, 1, 1},      {5, 3, 0},     {6, 16, 8},     {7, 17, 9},
                                   {12, 32, 767},  {13, 33, 768}, {96, 64, 769},  {97, 65, 100},
                                   {149, 130, 31}, {151, 70, 40}, {300, 5, 1600}, {5, 300, 1600},
                                   {450, 90, 70}};

/* Small numbers that bf16 holds exactly, no two neighbours alike. */
static float number_at(int64_t i) { return (float)((i * 7919 + i / 64) % 255 - 127) / 128; }

static float *numbers(int64_t n)
{
    float *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, "numbers");
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = number_at(i);
    return x;
}

static double sum_of(const float *a, int64_t along_a, const float *b, int64_t along_b, int64_t k)
{
    double sum = 0;
    for (int64_t l = 0; l < k; l++) sum += (double)a[l * along_a] * (double)b[l * along_b];
    return sum;
}

static void compare(const char *what, const ml_kernels *k, const int64_t *size, int64_t ldc,
                    const float *got, const float *want)
{
    for (int64_t i = 0; i < (size[0] + 1) * ldc; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 2e-6 * (1 + sqrt((double)size[2]))))
            fail_msg("%s (%s, %d threads) %lld × %lld × %lld: element %lld is %.9g, expected %.9g",
                     what, k->vector_path, omp_get_max_threads(), (long long)size[0],
                     (long long)size[1], (long long)size[2], (long long)i, (double)got[i],
                     (double)want[i]);
}

static void plain(const ml_kernels *k, const int64_t *size, bool ta, bool tb, float alpha,
                  float beta)
{
    int64_t m = size[0], n = size[1], depth = size[2], lda = (ta ? m : depth) + GAP,
            ldb = (tb ? depth : n) + GAP, ldc = n + GAP;
    float *a = numbers((ta ? depth : m) * lda + GAP), *b = numbers((tb ? n : depth) * ldb + GAP);
    float *got = numbers((m + 1) * ldc), *want = numbers((m + 1) * ldc);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = sum_of(ta ? a + i : a + i * lda, ta ? lda : 1, tb ? b + j * ldb : b + j,
                                tb ? 1 : ldb, depth);
            want[i * ldc + j] =
                (float)((double)alpha * sum + (double)beta * (double)want[i * ldc + j]);
            if (beta == 0) got[i * ldc + j] = NAN;
        }
    k->gemm(k, ta, tb, m, n, depth, alpha, a, lda, b, ldb, beta, got, ldc);
    compare("gemm", k, size, ldc, got, want);
    ml_memory_free(a);
    ml_memory_free(b);
    ml_memory_free(got);
    ml_memory_free(want);
}

static void weights(const ml_kernels *k, const int64_t *size, bool backward)
{
    int64_t m = size[0], n = size[1], depth = size[2], lda = depth + GAP, ldc = n + GAP;
    if (depth == 0) return;
    ml_weight w = {NULL, ML_BF16, backward ? depth : n, backward ? n : depth};
    float *a = numbers(m * lda), *wide = numbers(n * depth), *got = numbers((m + 1) * ldc),
          *want = numbers((m + 1) * ldc);
    uint16_t *fp32_to_bf16 =
        ml_memory_alloc(n * depth, sizeof *fp32_to_bf16, ML_MEM_OTHER, "numbers");
    assert_non_null(fp32_to_bf16);
    k->fp32_to_bf16(n * depth, wide, fp32_to_bf16);
    w.data = fp32_to_bf16;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            want[i * ldc + j] += (float)sum_of(
                a + i * lda, 1, backward ? wide + j : wide + j * depth, backward ? n : 1, depth);
    (backward ? k->weight_backward : k->weight_forward)(k, m, a, lda, &w, 1, got, ldc);
    compare(backward ? "dy·W" : "x·Wᵀ", k, size, ldc, got, want);
    ml_memory_free(a);
    ml_memory_free(wide);
    ml_memory_free(fp32_to_bf16);
    ml_memory_free(got);
    ml_memory_free(want);
}

/* dY of which block (r, c) is zeros but where (r + 2c) is a multiple of 5; no row has block 2, and
 * rows of W that only zeros meet are no numbers: who multiplies with them is seen. Within two
 * blocks of rows, of which a taller tile has both, the same blocks are zeros. */
static bool is_zeros(int64_t row, int64_t o)
{
    int64_t r = row / (2 * ML_FILTER_ROWS), c = o / ML_FILTER_COLUMNS;
    return c == 2 || (r + 2 * c) % 5 != 0;
}

static bool is_needed(int64_t rows, int64_t o)
{
    bool needed = false;
    for (int64_t row = 0; row < rows; row++) needed = needed || !is_zeros(row, o);
    return needed;
}

static void sparse(const ml_kernels *k, const int64_t *size)
{
    int64_t m = size[0], n = size[1], depth = size[2], ldy = depth + GAP, ldc = n + GAP;
    float *dy = numbers(m * ldy), *w = numbers(depth * n), *got = numbers((m + 1) * ldc),
          *want = numbers((m + 1) * ldc), *first = numbers((m + 1) * ldc);
    const ml_weight weight = {w, ML_FP32, depth, n};
    for (int64_t i = 0; i < m; i++)
        for (int64_t o = 0; o < depth; o++)
            if (is_zeros(i, o)) dy[i * ldy + o] = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = sum_of(dy + i * ldy, 1, w + j, n, depth);
            first[i * ldc + j] = (float)sum;
            want[i * ldc + j] += (float)sum;
        }
    for (int64_t o = 0; o < depth; o++)
        for (int64_t j = 0; j < n && !is_needed(m, o); j++) w[o * n + j] = NAN;
    k->sparse_backward(k, m, dy, ldy, &weight, 1, got, ldc);
    compare("sparse dy·W", k, size, ldc, got, want);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) got[i * ldc + j] = NAN;
    k->sparse_backward(k, m, dy, ldy, &weight, 0, got, ldc);
    compare("sparse dy·W into new rows", k, size, ldc, got, first);
    float *const all[] = {dy, w, got, want, first};
    for (size_t i = 0; i < COUNT(all); i++) ml_memory_free(all[i]);
}

static const int64_t sparse_sizes[][3] = {{1, 1, 1},      {5, 3, 64},      {13, 17, 300},
                                          {12, 64, 1600}, {151, 130, 700}, {300, 70, 833}};

static ml_kernels *kernels(const char *vector_path)
{
    const ml_kernels_options options = {
        .backend = "native", .vector_path = vector_path, .tokens = TOKENS};
    ml_kernels *k = NULL;
    if (ml_kernels_create(&k, &options) != ML_OK) print_message("skipped: %s\n", ml_error_text());
    return k;
}

static void every_size(int threads)
{
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    for (size_t p = 0; p < COUNT(vector_paths); p++) {
        ml_kernels *k = kernels(vector_paths[p]);
        if (!k) continue;
        for (size_t s = 0; s < COUNT(sizes); s++) {
            for (int layout = 0; layout < 4; layout++) {
                plain(k, sizes[s], layout & 1, layout & 2, 1, 0);
                plain(k, sizes[s], layout & 1, layout & 2, 0.5f, 1);
                plain(k, sizes[s], layout & 1, layout & 2, 1, -0.75f);
            }
            weights(k, sizes[s], false);
            weights(k, sizes[s], true);
        }
        for (size_t s = 0; s < COUNT(sparse_sizes); s++) sparse(k, sparse_sizes[s]);
        ml_kernels_destroy(k);
    }
    omp_set_num_threads(before);
}

static void one_thread(void **state)
{
    (void)state;
    every_size(1);
}

static void several_threads(void **state)
{
    (void)state;
    every_size(2);
    every_size(3);
}

/* How the work is divided changes no bit; what cannot be one is refused. */
static void blocking_changes_no_bit(void **state)
{
    (void)state;
    enum { M = 300, N = 200, K = 900 };
    static const char *const ways[] = {"24,64,8,96", "6,32,1,2000", "1,96,64,1", "2052,128,8,6"},
                             *const wrong[] = {"24,64,8",
                                               "24,64,8,96,1",
                                               "0,64,8,96",
                                               "24,40,8,96",
                                               "24,160,8,96",
                                               "a,b,c,d",
                                               "24,64,8,99999999999999999999"};
    int before = omp_get_max_threads();
    float *a = numbers(M * K), *b = numbers(K * N), *c[COUNT(ways)];
    omp_set_num_threads(2);
    for (size_t v = 0; v < COUNT(vector_paths); v++) {
        for (size_t i = 0; i < COUNT(ways); i++) {
            setenv("MPILORA_BLOCKING", ways[i], 1);
            ml_kernels *k = kernels(vector_paths[v]);
            c[i] = numbers(M * N);
            if (k) k->gemm(k, false, false, M, N, K, 1, a, K, b, N, 0, c[i], N);
            assert_memory_equal(c[0], c[i], M * N * sizeof *a);
            ml_kernels_destroy(k);
        }
        for (size_t i = 0; i < COUNT(ways); i++) ml_memory_free(c[i]);
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        const ml_kernels_options options = {.backend = "native", .tokens = TOKENS};
        ml_kernels *k = NULL;
        setenv("MPILORA_BLOCKING", wrong[i], 1);
        assert_int_equal(ml_kernels_create(&k, &options), ML_USAGE);
        assert_non_null(strstr(ml_error_text(), "MPILORA_BLOCKING"));
    }
    unsetenv("MPILORA_BLOCKING");
    omp_set_num_threads(before);
    ml_memory_free(a);
    ml_memory_free(b);
}

static void a_line_of_the_table_fits_its_processor(void **state)
{
    (void)state;
    static const ml_blocking_line lines[] = {{"A/25/1", "avx2", {1, 32, 1, 1}},
                                             {"A/25/17", "", {2, 32, 1, 1}},
                                             {"", "avx512", {3, 32, 1, 1}},
                                             {"", "", {4, 32, 1, 1}}};
    static const struct {
        const char *processor, *vector;
        int64_t line;
    } wanted[] = {{"A/25/1", "avx2", 1},    {"A/25/1", "avx512", 3}, {"A/25/1", "generic", 4},
                  {"A/25/17", "avx512", 2}, {"A/25", "avx2", 4},     {"0x41/0xd40", "generic", 4}};
    for (size_t i = 0; i < COUNT(wanted); i++)
        assert_int_equal(
            ml_blocking_among(lines, wanted[i].processor, wanted[i].vector)->rows_in_l2,
            wanted[i].line);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    enum { M = 300, N = 200, K = 900 };
    int before = omp_get_max_threads();
    float *a = numbers(M * K), *b = numbers(K * N), *c[3];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        ml_kernels *k = kernels("auto");
        assert_non_null(k);
        c[threads - 1] = numbers(M * N);
        k->gemm(k, false, false, M, N, K, 1, a, K, b, N, 0, c[threads - 1], N);
        assert_memory_equal(c[0], c[threads - 1], M * N * sizeof *a);
        ml_kernels_destroy(k);
    }
    omp_set_num_threads(before);
    for (int i = 0; i < 3; i++) ml_memory_free(c[i]);
    ml_memory_free(a);
    ml_memory_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_thread),
                                       cmocka_unit_test(several_threads),
                                       cmocka_unit_test(blocking_changes_no_bit),
                                       cmocka_unit_test(a_line_of_the_table_fits_its_processor),
                                       cmocka_unit_test(threads_change_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
