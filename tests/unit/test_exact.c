/* Exact sums: no order, and no division among those who add, changes a bit; one rounding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mpilora/exact.h"

enum { N = 4096 };

/* Floats of every size from 2^-100 to 2^20, of both signs. */
static void draw(float *x, int64_t n)
{
    uint64_t state = 12345;
    for (int64_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        x[i] = ldexpf((float)((int32_t)(state >> 32)), (int)(state % 121) - 131);
    }
}

static ml_fixed sum_of(const float *x, int64_t from, int64_t end, int64_t step)
{
    ml_fixed sum = {0, 0};
    for (int64_t i = from; i != end; i += step) {
        float one = x[i];
        assert_int_equal(ml_fixed_take(1, &one, &sum), 0);
        assert_true(one == 0.0F);
    }
    return sum;
}

static void assert_same(ml_fixed a, ml_fixed b) { assert_true(a.low == b.low && a.high == b.high); }

static void test_order(void **state)
{
    static float x[N];
    (void)state;
    draw(x, N);
    const ml_fixed all = sum_of(x, 0, N, 1);
    assert_same(all, sum_of(x, N - 1, -1, -1));
    for (int64_t cut = 1; cut < N; cut += 97)
        assert_same(all, ml_fixed_add(sum_of(x, cut, N, 1), sum_of(x, 0, cut, 1)));
    float forward = 0.0F, backward = 0.0F; /* which the same floats do to a sum of floats */
    for (int i = 0; i < N; i++) forward += x[i];
    for (int i = N - 1; i >= 0; i--) backward += x[i];
    assert_true(forward != backward);
}

/* What is not below the last bit comes back as it was. */
static void test_values(void **state)
{
    static const float values[] = {1.0F,       -1.0F,    0.1F,           -3.7e-9F, 1.6e7F,
                                   -1.6e7F,    0x1p-66F, 0x1.fffffep23F, 0x1p-90F, -0x1p-90F,
                                   0x1.8p-89F, 0.0F,     5.5e-4F};
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        ml_fixed sum = {0, 0};
        float x = values[i];
        assert_int_equal(ml_fixed_take(1, &x, &sum), 0);
        assert_true(ml_fixed_to_float(sum) == values[i]);
    }
    float low[] = {0x1p-91F, -0x1p-91F, 0x1p-149F};
    ml_fixed sum[3] = {{0, 0}};
    assert_int_equal(ml_fixed_take(3, low, sum), 0);
    for (int i = 0; i < 3; i++) assert_true(sum[i].low == 0 && sum[i].high == 0);
}

/* To nearest, ties to even, with all that lies below. */
static void test_rounding(void **state)
{
    static const struct {
        float a, b, c, sum;
    } cases[] = {{1.0F, 0x1p-24F, 0.0F, 1.0F},
                 {1.0F, 0x1p-24F, 0x1p-90F, 0x1.000002p0F},
                 {0x1.000002p0F, 0x1p-24F, 0.0F, 0x1.000004p0F},
                 {-1.0F, -0x1p-24F, -0x1p-90F, -0x1.000002p0F},
                 {1.0F, 0x1p-24F, -0x1p-90F, 1.0F},
                 {0x1p23F, -0x1p23F, 0x1p-60F, 0x1p-60F}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const float x[] = {cases[i].a, cases[i].b, cases[i].c};
        assert_true(ml_fixed_to_float(sum_of(x, 0, 3, 1)) == cases[i].sum);
    }
}

static void test_refused(void **state)
{
    float x[] = {NAN, INFINITY, -INFINITY, 0x1p24F, -0x1p24F, 1.0F};
    ml_fixed sum[6] = {{0, 0}};
    (void)state;
    assert_int_equal(ml_fixed_take(6, x, sum), 5);
    for (int i = 0; i < 5; i++) assert_true(isnan(x[i]));
    assert_true(x[5] == 0.0F && ml_fixed_to_float(sum[5]) == 1.0F);
    float most = 0x1.fffffep23F; /* sums have an end, too */
    ml_fixed full = {0, 0};
    assert_int_equal(ml_fixed_take(1, &most, &full), 0);
    most = 1.0F;
    assert_int_equal(ml_fixed_take(1, &most, &full), 1);
    assert_true(isnan(most));
}

/* ---- doubles ------------------------------------------------------------------------------- */

static double exact(const double *x, int64_t n)
{
    ml_exact sum = {{0}, 0};
    for (int64_t i = 0; i < n; i++) ml_exact_add(&sum, x[i]);
    return ml_exact_to_double(&sum);
}

static void test_doubles(void **state)
{
    static const double tie[] = {1.0, 0x1p-53}, above[] = {1.0, 0x1p-53, 0x1p-1000},
                        gone[] = {1e300, 3.0, -1e300}, minus[] = {-5.0, 2.5, -1e-300, 1e-300},
                        least[] = {0x1p-1074, 0x1p-1074}, most[] = {0x1.fffffffffffffp1022, 1.0},
                        nothing[] = {2.5, -2.5}, bad[] = {1.0, NAN};
    (void)state;
    assert_true(exact(tie, 2) == 1.0);
    assert_true(exact(above, 3) == 1.0 + 0x1p-52);
    assert_true(exact(gone, 3) == 3.0);
    assert_true(exact(minus, 4) == -2.5);
    assert_true(exact(least, 2) == 0x1p-1073);
    assert_true(exact(most, 2) == 0x1.fffffffffffffp1022);
    assert_true(exact(nothing, 2) == 0.0);
    assert_true(isnan(exact(bad, 2)));
}

/* Two halves, settled and added digit by digit, are the whole. */
static void test_halves(void **state)
{
    static float x[N];
    ml_exact all = {{0}, 0}, half[2] = {{{0}, 0}};
    (void)state;
    draw(x, N);
    ml_exact_add_squares(&all, N, x);
    for (int i = 0; i < N; i++) {
        ml_exact_add(&all, -(double)x[i]);
        ml_exact_add(&half[i % 2], -(double)x[i]);
        ml_exact_add_squares(&half[(i + 1) % 2], 1, &x[i]);
    }
    for (int h = 0; h < 2; h++) ml_exact_settle(&half[h]);
    for (int i = 0; i < ML_EXACT_DIGITS; i++) half[0].digit[i] += half[1].digit[i];
    assert_true(ml_exact_to_double(&all) == ml_exact_to_double(&half[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),    cmocka_unit_test(test_values),
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_doubles),  cmocka_unit_test(test_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
