/* Singular values by all ranks against LAPACK's dgesvd on one: shapes that leave ranks without a
 * part, failures on one rank, memory beside the plan, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "analyze/lapack.h"
#include "analyze/singular_values.h"

static ml_grid *grid;

static double *numbers(int64_t n)
{
    double *x = ml_memory_alloc(n, sizeof *x, ML_MEM_OTHER, "test");
    assert_non_null(x);
    return x;
}

typedef struct matrix {
    int64_t rows, cols, rank; /* rank 0: full */
} matrix;

/* Entry of a matrix that every rank knows. */
static float entry(const matrix *m, int64_t i, int64_t j)
{
    ml_random_key key = ml_random_key_make(11, "matrix");
    if (m->rank == 0) return (float)ml_random_normal(key, 1, (uint64_t)(i * m->cols + j));
    double sum = 0.0;
    for (int64_t k = 0; k < m->rank; k++)
        sum += ldexp(sin((double)(3 * i + 7 * k + 1)) * cos((double)(5 * j + 2 * k)), (int)-k);
    return (float)sum;
}

static ml_status read_rows(void *context, int64_t first, int64_t count, float *out)
{
    const matrix *m = context;
    assert_true(first >= 0 && count > 0 && first + count <= m->rows);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < m->cols; j++) out[i * m->cols + j] = entry(m, first + i, j);
    return ML_OK;
}

static void check_matrix(matrix m)
{
    int64_t k = ml_min(m.rows, m.cols);
    double *found = numbers(k), *expected = numbers(k), *a = numbers(m.rows * m.cols);
    char what[64];
    ml_svd_plan plan;
    snprintf(what, sizeof what, "%d x %d of rank %d", (int)m.rows, (int)m.cols, (int)m.rank);
    ml_svd_plan_make(&plan, m.rows, m.cols, ml_grid_size(grid));
    if (ml_singular_values(found, &plan, grid, read_rows, &m) != ML_OK)
        fail_msg("%s: %s", what, ml_error_text());
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < m.cols; j++) a[i * m.cols + j] = entry(&m, i, j);
    assert_int_equal(lapack_svd(m.cols, m.rows, a, expected, NULL, NULL), ML_OK);
    for (int64_t i = 0; i < k; i++)
        if (!(fabs(found[i] - expected[i]) <= 1e-10 * expected[0]))
            fail_msg("%s: number %d is %.17g, expected %.17g", what, (int)i, found[i], expected[i]);
    ml_memory_free(found);
    ml_memory_free(expected);
    ml_memory_free(a);
}

/* Also such as leave ranks without a part, or with parts of very different sizes. */
static void test_singular_values(void **state)
{
    (void)state;
    const matrix shapes[] = {{1, 1, 0},    {1, 2, 0},    {2, 1, 0},     {2, 2, 0},   {3, 17, 0},
                             {15, 16, 0},  {16, 16, 0},  {16, 1, 0},    {33, 17, 0}, {64, 64, 0},
                             {65, 130, 0}, {130, 65, 0}, {129, 129, 0}, {96, 80, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_matrix(shapes[i]);
}

static ml_status fail_on_one(void *context, int64_t first, int64_t count, float *out)
{
    ml_status st = read_rows(context, first, count, out);
    return first == 0 ? ml_fail(ML_INPUT, "a row that cannot be read") : st;
}

static void test_failing_reader(void **state)
{
    (void)state;
    matrix m = {96, 96, 0};
    double sigma[96];
    ml_svd_plan plan;
    ml_svd_plan_make(&plan, m.rows, m.cols, ml_grid_size(grid));
    assert_int_equal(ml_singular_values(sigma, &plan, grid, fail_on_one, &m), ML_INPUT);
    assert_non_null(strstr(ml_error_text(), "a row that cannot be read")); /* and whose */
    check_matrix(m); /* and nothing is left behind that would be in the way */
}

static void test_plan(void **state)
{
    (void)state;
    ml_svd_plan p;
    const struct {
        int ranks, rows, cols;
    } grids[] = {{1, 1, 1}, {2, 1, 2}, {3, 1, 3},  {4, 2, 2}, {5, 2, 2},
                 {6, 2, 3}, {7, 2, 3}, {16, 4, 4}, {64, 8, 8}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        ml_svd_plan_make(&p, 12288, 12288, grids[i].ranks);
        assert_int_equal(p.process_rows, grids[i].rows);
        assert_int_equal(p.process_cols, grids[i].cols);
        assert_int_equal(p.block, 64);
        assert_true(p.matrix_bytes * grids[i].rows * grids[i].cols >= INT64_C(8) * 12288 * 12288);
        assert_true(p.bytes < INT64_C(8) * 12288 * 12288 / (grids[i].rows * grids[i].cols) * 3 / 2);
    }
    ml_svd_plan_make(&p, 20, 3000, 64); /* a block of 8 for each of two */
    assert_int_equal(p.process_rows * p.process_cols, 4);
    assert_int_equal(p.block, 10);
}

static void test_refusals(void **state)
{
    (void)state;
    ml_svd_plan p;
    ml_svd_plan_make(&p, 12288, 12288, ml_grid_size(grid));
    assert_int_equal(ml_svd_check(&p, grid, INT64_C(1) << 50), ML_OK);
    assert_int_equal(ml_svd_check(&p, grid, INT64_C(1) << 30), ML_RESOURCE);
    assert_non_null(strstr(ml_error_text(), "12288 × 12288"));
    assert_non_null(strstr(ml_error_text(), "the node has 1024.0 MiB"));
    ml_svd_plan_make(&p, 300000, 300000, ml_grid_size(grid));
    assert_int_equal(ml_svd_check(&p, grid, INT64_C(1) << 60), ML_RESOURCE);
    assert_non_null(strstr(ml_error_text(), "start more ranks"));
    assert_int_equal(svd_info_status(0, 5), ML_OK);
    assert_int_equal(svd_info_status(-3, 5), ML_INTERNAL);
    assert_int_equal(svd_info_status(2, 5), ML_NUMERIC);
    assert_int_equal(svd_info_status(6, 5), ML_INTERNAL);
    assert_non_null(strstr(ml_error_text(), "different singular values"));
}

/* First of all, so that the peak is this one's: what is allocated is what was planned. */
static void test_memory(void **state)
{
    (void)state;
    matrix m = {320, 256, 0};
    double *sigma = numbers(256);
    int64_t before = ml_memory_peak_total(), now = 0, held;
    ml_svd_plan plan;
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) now += ml_memory_current((ml_category)c);
    ml_svd_plan_make(&plan, m.rows, m.cols, ml_grid_size(grid));
    assert_int_equal(ml_singular_values(sigma, &plan, grid, read_rows, &m), ML_OK);
    held = ml_memory_peak_total() - now;
    assert_true(before - now < plan.matrix_bytes / 2);
    assert_true(held <= plan.bytes);
    ml_grid_max_int64(grid, ML_GROUP_WORLD, &held, 1);
    assert_true(held >= plan.bytes - plan.work_bytes);
    ml_memory_free(sigma);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory), cmocka_unit_test(test_plan), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_singular_values), cmocka_unit_test(test_failing_reader)};
    if (ml_grid_start(&argc, &argv) != ML_OK || ml_grid_create(&grid, 1) != ML_OK) return 1;
    ml_log_enable(false);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_destroy(grid);
    ml_grid_stop();
    return failed;
}
