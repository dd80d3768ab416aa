/* What src/kernels/narrow/ does around its instructions, which narrow.h simulates: both sets
 * against the reference at sizes below, on and above each tile, panel and part of the depth. All
 * that a product must not read is NaN, and all that it must not write is looked at.
 *
 * The reference has the same numbers in bf16, so that only the sums' roundings differ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>

#include "kernels/narrow.h"
#include "mpilora/blocks.h"
#include "mpilora/kernels.h"

static const struct {
    const char *name; /* of the table's path */
    const ml_narrow_set *set;
} sets[] = {{"native-bf16", &ml_narrow_set_avx512bf16}, {"native-amx", &ml_narrow_set_amx}};
static const float betas[] = {0, 1, 0.5f};
#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { GAP = 5, GUARD = 64, TILE = 32 };

/* C[m, n] of A[m, k] and a weight, [n, k] where it is turned, else [k, n]. */
typedef struct operands {
    int64_t m, n, k;
    ml_dtype dtype;
    bool turned;
    int64_t lda, ldb, ldc;
    float *a;       /* [m][lda] */
    void *b;        /* the weight in rows of ldb */
    float *old;     /* [m and a tile][ldc]: C before */
    float *product; /* [m][n]: the reference's A·op(B) */
} operands;

/* How a product runs: with so many rows of A narrowed at a time, by so many threads. */
typedef struct manner {
    float beta;
    int64_t rows;
    int threads;
} manner;

/* ---- numbers -------------------------------------------------------------------------------- */

static void *fresh(int64_t count, size_t size)
{
    void *x = ml_memory_alloc(count, size, ML_MEM_OTHER, "a test's numbers");
    assert_non_null(x);
    return x;
}

/* Normal numbers, the same in every call. */
static void fill(const char *name, int64_t count, float *x)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)ml_random_normal(ml_random_key_make(3, name), 0, (uint64_t)i);
}

static float through_bf16(float x) { return ml_bf16_to_float(ml_bf16_from_float(x)); }

/* Rows of blocks come in whole groups of 32, also where only some of a row are asked for. */
static void decode(ml_dtype dtype, const uint8_t *row, int64_t first, int64_t count, uint16_t *out)
{
    float wide[256];
    assert_true(first % 32 == 0 && count % 32 == 0 && count <= (int64_t)COUNT(wide));
    ml_dtype_decode(dtype, row, first, count, wide);
    for (int64_t i = 0; i < count; i++) out[i] = ml_bf16_from_float(wide[i]);
}

/* Puts the weight's rows of normal numbers into x->b, and what they are in bf16 into `plain`. */
static void make_weight(operands *x, int64_t rows, int64_t cols, int64_t gap, uint16_t *plain)
{
    float *full = fresh(rows * cols, sizeof *full);
    fill("weight", rows * cols, full);
    x->ldb = cols + gap;
    const int64_t bytes = ml_dtype_bytes(x->dtype, x->ldb);
    uint8_t *b = fresh(rows, (size_t)bytes);
    memset(b, 0xff, (size_t)(rows * bytes));
    for (int64_t i = 0; i < rows; i++) {
        uint8_t *row = b + i * bytes;
        if (x->dtype == ML_BF16) {
            for (int64_t j = 0; j < cols; j++)
                plain[i * cols + j] = ml_bf16_from_float(full[i * cols + j]);
            memcpy(row, plain + i * cols, (size_t)cols * sizeof *plain);
            continue;
        }
        const ml_block_format *f = ml_block_format_of(x->dtype);
        for (int64_t j = 0; j < cols; j += f->weights)
            f->quantise(full + i * cols + j, row + j / f->weights * f->bytes);
        for (int64_t j = 0; j < cols; j += 32) decode(x->dtype, row, j, 32, plain + i * cols + j);
    }
    ml_memory_free(full);
    x->b = b;
}

/* Of C and what lies behind it. */
static int64_t numbers_of(const operands *x) { return (x->m + TILE) * x->ldc; }

static operands make(int64_t m, int64_t n, int64_t k, ml_dtype dtype, bool turned, int64_t gap)
{
    const ml_kernels *ref = ml_kernels_reference();
    operands x = {.m = m, .n = n, .k = k, .dtype = dtype, .turned = turned};
    const int64_t rows = turned ? n : k, cols = turned ? k : n;
    uint16_t *plain = fresh(rows * cols, sizeof *plain);
    make_weight(&x, rows, cols, gap, plain);
    x.lda = k + GAP;
    x.ldc = n + GAP;
    x.a = fresh(m * x.lda, sizeof *x.a);
    x.old = fresh(numbers_of(&x), sizeof *x.old);
    x.product = fresh(m * n, sizeof *x.product);
    float *narrowed = fresh(m * x.lda, sizeof *narrowed);
    fill("activations", m * x.lda, x.a);
    fill("old", numbers_of(&x), x.old);
    for (int64_t i = 0; i < m * x.lda; i++) {
        if (i % x.lda >= k) x.a[i] = NAN;
        narrowed[i] = through_bf16(x.a[i]);
    }
    const ml_weight w = {plain, ML_BF16, rows, cols};
    (turned ? ref->weight_forward : ref->weight_backward)(ref, m, narrowed, x.lda, &w, 0, x.product,
                                                          n);
    ml_memory_free(plain);
    ml_memory_free(narrowed);
    return x;
}

static void end(operands *x)
{
    ml_memory_free(x->a);
    ml_memory_free(x->b);
    ml_memory_free(x->old);
    ml_memory_free(x->product);
}

/* ---- one product ---------------------------------------------------------------------------- */

static void is_untouched(const uint8_t *guard)
{
    for (int i = 0; i < GUARD; i++) assert_int_equal(guard[i], 0xff);
}

/* C before a product. */
static void fill_old(const operands *x, const manner *how, float *c)
{
    for (int64_t i = 0; i < numbers_of(x); i++) c[i] = how->beta != 0 ? x->old[i] : NAN;
}

/* Memory that ends with a guard, nothing of it a number. */
static uint8_t *guarded(int64_t bytes)
{
    uint8_t *memory = fresh(bytes + GUARD, 1);
    memset(memory, 0xff, (size_t)(bytes + GUARD));
    return memory;
}

static void end_guarded(uint8_t *memory, int64_t bytes)
{
    is_untouched(memory + bytes);
    ml_memory_free(memory);
}

/* The first `m` rows of C, by a set, in scratch memory that is no larger than it is said to be. */
static void multiply(const ml_narrow_set *set, const operands *x, int64_t m, const manner *how,
                     float *c)
{
    const int64_t rows = ml_round_up(how->rows, TILE),
                  a_bytes = rows * set->depth * (int64_t)sizeof(uint16_t),
                  b_bytes = how->threads * set->part / 2 * set->columns * (int64_t)sizeof(uint32_t),
                  sums_bytes = set->depth <= set->part
                                   ? 0
                                   : how->threads * rows * set->columns * (int64_t)sizeof(float);
    uint8_t *a = guarded(a_bytes), *b = guarded(b_bytes), *sums = guarded(sums_bytes);
    fill_old(x, how, c);
    const ml_narrow_scratch scratch = {(uint16_t *)(void *)a, (uint32_t *)(void *)b,
                                       (float *)(void *)sums, rows, how->threads};
    const ml_narrow_product product = {.m = m,
                                       .n = x->n,
                                       .k = x->k,
                                       .beta = how->beta,
                                       .b_turned = x->turned,
                                       .a = x->a,
                                       .b = x->b,
                                       .b_dtype = x->dtype,
                                       .decode = decode,
                                       .c = c,
                                       .lda = x->lda,
                                       .ldb = x->ldb,
                                       .ldc = x->ldc};
    set->product(&product, &scratch);
    end_guarded(a, a_bytes);
    end_guarded(b, b_bytes);
    end_guarded(sums, sums_bytes);
}

/* Sums in fp32 of k products of size 1; what stands beside C and behind it stays. */
static void is_right(const char *name, const operands *x, const manner *how, const float *c)
{
    const double bound = 2e-6 * (1 + sqrt((double)x->k));
    for (int64_t i = 0; i < x->m + TILE; i++)
        for (int64_t j = 0; j < x->ldc; j++) {
            const bool inside = i < x->m && j < x->n;
            const double old = how->beta != 0 ? (double)x->old[i * x->ldc + j] : (double)NAN,
                         got = (double)c[i * x->ldc + j];
            double want = inside ? (double)x->product[i * x->n + j] : old;
            if (inside && how->beta != 0) want += (double)how->beta * old;
            if (!(fabs(got - want) <= (inside ? bound : 0)) && !(isnan(want) && isnan(got)))
                fail_msg("%s, %s, %lld × %lld × %lld%s, beta %g, %lld rows at a time, %d threads: "
                         "row %lld, column %lld is %.9g, the reference says %.9g",
                         name, ml_dtype_name(x->dtype), (long long)x->m, (long long)x->n,
                         (long long)x->k, x->turned ? " turned" : "", (double)how->beta,
                         (long long)how->rows, how->threads, (long long)i, (long long)j, got, want);
        }
}

/* By both sets, with every beta, in rounds and by two threads. Only beta changes the bits. */
static void products_are_right(int64_t m, int64_t n, int64_t k, ml_dtype dtype, bool turned)
{
    operands x = make(m, n, k, dtype, turned, dtype == ML_BF16 ? GAP : 0);
    const int64_t numbers = numbers_of(&x);
    float *first = fresh(numbers, sizeof *first), *c = fresh(numbers, sizeof *c);
    for (size_t s = 0; s < COUNT(sets); s++)
        for (size_t i = 0; i < COUNT(betas); i++) {
            const manner plain = {betas[i], m, 1},
                         others[] = {{betas[i], m, 2}, {betas[i], m / 2, 1}, {betas[i], m / 3, 2}};
            multiply(sets[s].set, &x, m, &plain, first);
            is_right(sets[s].name, &x, &plain, first);
            for (size_t j = 0; m >= 3 && j < COUNT(others); j++) {
                multiply(sets[s].set, &x, m, &others[j], c);
                is_right(sets[s].name, &x, &others[j], c);
                assert_memory_equal(first, c, (size_t)numbers * sizeof *c);
            }
        }
    ml_memory_free(first);
    ml_memory_free(c);
    end(&x);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void both_sets_can_run(void **state)
{
    (void)state;
    for (size_t s = 0; s < COUNT(sets); s++) assert_true(sets[s].set->available());
}

/* Tiles have 14, 16 and 32 rows, panels 32 columns, lines of the depth 32 numbers. */
static void edges_are_right(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 13, 14, 15, 16, 17, 29, 31, 32, 33, 48, 65},
                         columns[] = {1, 16, 31, 32, 33, 65}, depths[] = {0, 1, 2, 31, 32, 33, 65};
    for (size_t i = 0; i < COUNT(rows); i++)
        for (size_t j = 0; j < COUNT(columns); j++)
            for (size_t l = 0; l < COUNT(depths); l++)
                for (int turned = 0; turned < 2; turned++)
                    products_are_right(rows[i], columns[j], depths[l], ML_BF16, turned);
}

/* Groups of 64 and 512 columns, parts of 768 and 512 and depths of 768 and 4096, pieces of 256
 * numbers; more rows than are cut for two threads, which start with 2^20 products. */
static void parts_are_right(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{33, 300, 1601}, {20, 64, 3105}, {14, 257, 1536},
                                       {17, 70, 1537},  {230, 65, 97},  {1100, 40, 70},
                                       {34, 40, 4113},  {65, 520, 70},  {5, 1030, 300}};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (int turned = 0; turned < 2; turned++)
            products_are_right(sizes[i][0], sizes[i][1], sizes[i][2], ML_BF16, turned);
}

/* The weight's rows are whole blocks, the other sizes anything. */
static void every_block_format_is_right(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{33, 37, 256}, {15, 70, 1792}, {5, 300, 512}};
    for (int d = ML_Q8_0; d < ML_DTYPES; d++)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            const int64_t m = sizes[i][0], any = sizes[i][1], whole = sizes[i][2];
            products_are_right(m, any, whole, (ml_dtype)d, true);
            products_are_right(m, whole, any, (ml_dtype)d, false);
        }
}

/* An element has the same bits beside however many rows, whether it is added to C and in however
 * many parts of the depth. */
static void rows_do_not_depend_on_their_number(void **state)
{
    (void)state;
    enum { M = 200, N = 70, K = 1601 };
    for (int turned = 0; turned < 2; turned++) {
        operands x = make(M, N, K, ML_BF16, turned, GAP);
        float *many = fresh(numbers_of(&x), sizeof *many),
              *few = fresh(numbers_of(&x), sizeof *few);
        for (size_t s = 0; s < COUNT(sets); s++)
            for (size_t b = 0; b < COUNT(betas); b++) {
                const manner how = {betas[b], M, 2};
                multiply(sets[s].set, &x, M, &how, many);
                for (int64_t m = 1; m < M; m += 11) {
                    multiply(sets[s].set, &x, m, &how, few);
                    for (int64_t i = 0; i < m; i++)
                        assert_memory_equal(many + i * x.ldc, few + i * x.ldc, N * sizeof *few);
                }
            }
        ml_memory_free(many);
        ml_memory_free(few);
        end(&x);
    }
}

/* Through the table, with the decoder of a vector path that this processor has; more rows than the
 * table is made for. */
static void table_is_right(const char *path, int threads, ml_dtype dtype, bool turned)
{
    enum { T = 129, ROWS = 75, COLS = 256, MADE_FOR = 40 };
    const ml_kernels_options options = {
        .backend = path, .vector_path = "avx2", .weight_dtype = ML_BF16, .tokens = MADE_FOR};
    operands x = make(T, turned ? ROWS : COLS, turned ? COLS : ROWS, dtype, turned, 0);
    float *c = fresh(numbers_of(&x), sizeof *c);
    const ml_weight w = {x.b, dtype, ROWS, COLS};
    ml_kernels *k;
    omp_set_num_threads(threads);
    assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
    for (int add = 0; add < 2; add++) {
        const manner how = {(float)add, MADE_FOR, threads};
        fill_old(&x, &how, c);
        (turned ? k->weight_forward : k->weight_backward)(k, T, x.a, x.lda, &w, how.beta, c, x.ldc);
        is_right(path, &x, &how, c);
    }
    ml_kernels_destroy(k);
    ml_memory_free(c);
    end(&x);
}

static void the_table_has_them(void **state)
{
    (void)state;
    const int before = omp_get_max_threads();
    for (size_t s = 0; s < COUNT(sets); s++)
        for (int d = ML_BF16; d < ML_DTYPES; d++)
            for (int i = 0; i < 4; i++) table_is_right(sets[s].name, 1 + i / 2, (ml_dtype)d, i % 2);
    omp_set_num_threads(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sets_can_run),
        cmocka_unit_test(edges_are_right),
        cmocka_unit_test(parts_are_right),
        cmocka_unit_test(every_block_format_is_right),
        cmocka_unit_test(rows_do_not_depend_on_their_number),
        cmocka_unit_test(the_table_has_them),
    };
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        print_message("skipped: this processor has no AVX2, of which the instructions are made\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
