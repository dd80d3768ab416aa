/* The order of a pipeline's operations: every stage does each once, no more are kept than was said,
 * slots are as their formulas, the bubble is (P − 1) of n + P − 1 parts, and nobody waits in a
 * circle, which a play by the messages alone shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "mpilora/base.h"
#include "session/pipeline_order.h"

enum { STAGES = 9, MICROS = 80 };

static void every_operation_has_its_slot(void **state)
{
    (void)state;
    for (int pp = 1; pp <= STAGES; pp++)
        for (int64_t n = 1; n <= 24; n++)
            for (int stage = 0; stage < pp; stage++) {
                pipeline_order order = ml_pipeline_order(pp, stage, n, true);
                pipeline_operation o;
                int64_t done[2] = {0, 0}, most = 0, slot, last = -1;
                while (ml_pipeline_next(&order, &o)) {
                    assert_int_equal(o.micro, done[o.backward]++);
                    most = ml_max(most, done[0] - done[1]);
                    slot = ml_pipeline_slot(pp, stage, &o);
                    assert_true(slot > last);
                    last = slot;
                }
                assert_int_equal(done[0], n);
                assert_int_equal(done[1], n);
                assert_int_equal(most, ml_max(1, ml_min(pp - stage, n)));
                assert_int_equal(order.ahead, most);
                assert_int_equal(last, 2 * (n + pp) - 3 - stage);
            }
}

static void what_does_not_go_back_only_goes_forward(void **state)
{
    (void)state;
    pipeline_order order = ml_pipeline_order(4, 1, 5, false);
    pipeline_operation o;
    for (int64_t i = 0; i < 5; i++) {
        assert_true(ml_pipeline_next(&order, &o));
        assert_true(!o.backward && o.micro == i);
    }
    assert_false(ml_pipeline_next(&order, &o));
}

/* 2(n + P − 1) slots in all, of which a stage works in 2n. */
static void the_bubble_is_as_the_formula_says(void **state)
{
    (void)state;
    const double one[STAGES] = {1, 1, 1, 1, 1, 1, 1, 1, 1},
                 two[STAGES] = {2, 2, 2, 2, 2, 2, 2, 2, 2};
    for (int pp = 1; pp <= STAGES; pp++)
        for (int64_t n = 1; n <= 200; n += n < 20 ? 1 : 60) {
            double slots, seconds;
            const pipeline_lengths equal = {pp, n, 1.0, one, one}, lora = {pp, n, 1.0, one, two};
            assert_int_equal(ml_pipeline_seconds(&equal, &slots), ML_OK);
            assert_int_equal(ml_pipeline_seconds(&lora, &seconds), ML_OK);
            assert_true(fabs(slots - 2.0 * (double)(n + pp - 1)) < 1e-9);
            assert_true(fabs(seconds - 3.0 * (double)(n + pp - 1)) < 1e-9);
            double bubble = (slots - 2.0 * (double)n) / slots;
            assert_true(fabs(bubble - (pp - 1) / (double)(n + pp - 1)) < 1e-9);
        }
}

/* ---- by messages alone --------------------------------------------------------------------- */

/* Operations begin when their message is there, and end when the neighbour has begun with the last
 * one; NaN: not yet. */
typedef struct stage {
    pipeline_order order;
    pipeline_operation next;
    bool more;
    double free, began[2][MICROS], ended[2][MICROS];
} stage;

static bool go_on(stage *all, const pipeline_lengths *l, int s)
{
    stage *own = &all[s];
    if (!own->more) return false;
    bool back = own->next.backward;
    int64_t i = own->next.micro;
    int from = s + (back ? 1 : -1), to = s + (back ? -1 : 1);
    double begin = own->free, end;
    if (from >= 0 && from < l->pp) begin = fmax(begin, all[from].ended[back][i]);
    if (from >= 0 && from < l->pp && isnan(all[from].ended[back][i])) return false;
    own->began[back][i] = begin;
    end = begin + (back ? l->backward : l->forward)[s];
    if (to >= 0 && to < l->pp && i > 0) {
        if (isnan(all[to].began[back][i - 1])) return false;
        end = fmax(end, all[to].began[back][i - 1]);
    }
    own->ended[back][i] = own->free = end;
    own->more = ml_pipeline_next(&own->order, &own->next);
    return true;
}

static double play(const pipeline_lengths *l)
{
    static stage all[STAGES];
    bool moved = true;
    double end = 0.0;
    for (int s = 0; s < l->pp; s++) {
        all[s] = (stage){.order = ml_pipeline_order(l->pp, s, l->count, true)};
        all[s].more = ml_pipeline_next(&all[s].order, &all[s].next);
        for (int i = 0; i < MICROS; i++)
            for (int back = 0; back < 2; back++)
                all[s].began[back][i] = all[s].ended[back][i] = NAN;
    }
    while (moved) {
        moved = false;
        for (int s = 0; s < l->pp; s++) moved = go_on(all, l, s) || moved;
    }
    for (int s = 0; s < l->pp; s++) {
        assert_false(all[s].more);
        end = fmax(end, all[s].free);
    }
    return end;
}

/* Of stages that are not equal, too. */
static void nobody_waits_in_a_circle(void **state)
{
    (void)state;
    unsigned random = 12345;
    for (int pp = 2; pp <= STAGES; pp++)
        for (int64_t n = 1; n <= MICROS; n += n < 20 ? 1 : 15) {
            double forward[STAGES], backward[STAGES], most = 0.0, sum = 0.0, seconds;
            for (int s = 0; s < pp; s++) {
                random = random * 1664525u + 1013904223u;
                forward[s] = 1.0 + (random >> 16) / 131072.0;
                backward[s] = 1.7 * forward[s] - 0.2 * s;
                most = fmax(most, forward[s] + backward[s]);
                sum += forward[s] + backward[s];
            }
            const pipeline_lengths l = {pp, n, 1.0, forward, backward};
            assert_int_equal(ml_pipeline_seconds(&l, &seconds), ML_OK);
            double bound = (double)(n - 1) * most + sum;
            assert_true(seconds <= bound * (1.0 + 1e-12) && seconds >= (double)n * most);
            if (n <= 8 * pp) assert_true(fabs(seconds - play(&l)) < 1e-9 * seconds);
        }
}

/* Where the first stages have nothing to go back for, they run ahead of the others. */
static void stages_that_do_not_go_back_wait_for_no_gradient(void **state)
{
    (void)state;
    const double forward[] = {1.0, 1.0, 1.0}, backward[] = {0.0, 0.0, 2.0};
    const pipeline_lengths l = {3, 10, 1.0, forward, backward},
                           part = {3, 10, 0.5, forward, backward};
    double seconds;
    assert_int_equal(ml_pipeline_seconds(&l, &seconds), ML_OK);
    assert_true(fabs(seconds - (2.0 + 10 * 3.0)) < 1e-9);
    assert_int_equal(ml_pipeline_seconds(&part, &seconds), ML_OK);
    assert_true(fabs(seconds - (2.0 + 9.5 * 3.0)) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_has_its_slot),
        cmocka_unit_test(what_does_not_go_back_only_goes_forward),
        cmocka_unit_test(the_bubble_is_as_the_formula_says),
        cmocka_unit_test(nobody_waits_in_a_circle),
        cmocka_unit_test(stages_that_do_not_go_back_wait_for_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
