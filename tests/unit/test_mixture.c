/* The order of a mixture: each part's places follow each other, shares are kept at every cycle's
 * end, and a position's answer does not depend on what was asked before. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "data/mixture.h"

enum { PARTS = 4, CYCLES = 5, POSITIONS = CYCLES * ML_MIXTURE_CYCLE };
static const double weight[PARTS] = {7.0, 2.5, 0.01, 0.49};

static void check_order(bool shuffle)
{
    ml_mixture *m = NULL;
    int64_t next[PARTS] = {0}, part, place, same = 0;
    int64_t *parts = calloc(POSITIONS, sizeof *parts);
    assert_non_null(parts);
    assert_int_equal(
        ml_mixture_create(&m, PARTS, weight, shuffle, ml_random_key_make(3, "mixture")), ML_OK);
    for (int64_t p = 0; p < POSITIONS; p++) {
        ml_mixture_at(m, p, &part, &place);
        assert_true(part >= 0 && part < PARTS);
        assert_int_equal(place, next[part]);
        next[part]++;
        parts[p] = part;
        same += p > 0 && parts[p - 1] == part;
        if ((p + 1) % ML_MIXTURE_CYCLE) continue;
        for (int k = 0; k < PARTS; k++)
            assert_true(fabs((double)next[k] - (double)(p + 1) * weight[k] / 10.0) <= 1.0);
    }
    for (int64_t p = POSITIONS - 1; p >= 0; p -= 1237) {
        ml_mixture_at(m, p, &part, &place);
        assert_int_equal(part, parts[p]);
    }
    /* Chance puts equal ones beside each other with Σ share² = 0.555; evenly spread, the parts of
     * 30 % stand alone, so that of ten pairs four are equal. */
    double found = (double)same / (double)POSITIONS;
    assert_true(shuffle ? fabs(found - 0.555) < 0.02 : fabs(found - 0.4) < 0.02);
    ml_mixture_destroy(m);
    free(parts);
}

static void test_even(void **state)
{
    (void)state;
    check_order(false);
}

static void test_shuffled(void **state)
{
    (void)state;
    check_order(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_even),
                                       cmocka_unit_test(test_shuffled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
