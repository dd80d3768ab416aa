/* A pipeline by the clock: micro-batches that sleep instead of computing go through a real model's
 * stages, so that the ranks need no cores of their own. What all take together is the formula's
 * (n + P − 1) parts of the 2n in which each stage works, within a tenth; no stage takes less. */
#include <time.h>

#include "fixture.h"

#include "mpilora/grid.h"
#include "session/pipeline_order.h"

static void sleep_for(double seconds)
{
    const struct timespec length = {0, (long)(1e9 * seconds)};
    nanosleep(&length, NULL);
}

static const double LENGTH = 0.02; /* seconds of an operation */

typedef struct sleeper {
    session s;
    fixture f;
    int64_t packed, finished;
} sleeper;

/* Each operation of a stage that is not the last packs once. */
static ml_status pack(void *of, int64_t i)
{
    sleeper *own = of;
    (void)i;
    own->s.packer.batch = fixture_batch(false, false);
    own->packed++;
    sleep_for(LENGTH);
    return ML_OK;
}

/* Forward and backward in one. */
static ml_status finish(void *of, int64_t i)
{
    sleeper *own = of;
    double loss;
    (void)i;
    own->s.packer.batch = fixture_batch(false, false);
    own->finished++;
    ml_model_loss(own->f.model, &own->s.packer.batch, true, 1.0, 0.0, &loss);
    sleep_for(2.0 * LENGTH);
    return ML_OK;
}

static void start(sleeper *own, ml_grid *grid, int64_t count)
{
    int pp = ml_grid_pp(grid), stage = ml_grid_stage(grid);
    const fixture_options options = {.family = &ml_family_llama,
                                     .targets = ML_TARGET_Q | ML_TARGET_V,
                                     .layers = 4,
                                     .in_flight = ml_pipeline_order(pp, stage, count, true).ahead};
    *own = (sleeper){0};
    fixture_create(&own->f, &options, grid, 1, 0);
    own->s.grid = grid;
    own->s.model = own->f.model;
    own->s.spec = ml_model_get_spec(own->f.model);
    own->s.tokens = FIXTURE_TOKENS;
    for (int way = ML_TO_NEXT; way <= ML_TO_PREVIOUS; way++) {
        own->s.sent[way] = ml_memory_alloc(FIXTURE_TOKENS * own->s.spec->width, sizeof(float),
                                           ML_MEM_COMMUNICATION, "test");
        assert_non_null(own->s.sent[way]);
    }
}

static void stop(sleeper *own)
{
    for (int way = ML_TO_NEXT; way <= ML_TO_PREVIOUS; way++) ml_memory_free(own->s.sent[way]);
    fixture_destroy(&own->f);
}

/* Seconds of all micro-batches, of the rank that sees most. */
static double run(sleeper *own, int64_t count)
{
    const pipeline_work work = {.of = own,
                                .count = count,
                                .backward = true,
                                .batch = &own->s.packer.batch,
                                .pack = pack,
                                .finish = finish};
    assert_int_equal(ml_grid_agree(own->s.grid, ML_OK), ML_OK);
    double since = ml_seconds();
    assert_int_equal(ml_session_pipeline(&own->s, &work), ML_OK);
    double seconds = ml_seconds() - since;
    ml_grid_max_double(own->s.grid, ML_GROUP_WORLD, &seconds, 1);
    return seconds;
}

static void check(ml_grid *grid, int64_t count)
{
    enum { TRIES = 40 }; /* at most; the shortest counts, since others may work here, too */
    int64_t tries = 0;
    sleeper own;
    int pp = ml_grid_pp(grid), stage = ml_grid_stage(grid);
    double expected = (double)(count + pp - 1) * 2.0 * LENGTH, least = INFINITY;
    int64_t a_message = FIXTURE_TOKENS * (int64_t)sizeof(float),
            messages = (stage < pp - 1) + (stage > 0);
    start(&own, grid, count);
    for (; tries < TRIES && least > 1.1 * expected; tries++) {
        int64_t before = ml_grid_piped_bytes(grid);
        least = fmin(least, run(&own, count));
        assert_int_equal(ml_grid_piped_bytes(grid) - before,
                         count * messages * a_message * own.s.spec->width);
    }
    assert_int_equal(own.packed, stage < pp - 1 ? tries * 2 * count : 0);
    assert_int_equal(own.finished, stage == pp - 1 ? tries * count : 0);
    double bubble = 1.0 - (double)count * 2.0 * LENGTH / least,
           formula = (double)(pp - 1) / (double)(count + pp - 1);
    if (least < 0.99 * expected || least > 1.1 * expected)
        fail_msg("%d stages, %d micro-batches: %.4f s, expected %.4f; waiting %.3f of it, expected "
                 "%.3f",
                 pp, (int)count, least, expected, bubble, formula);
    if (ml_grid_rank(grid) == 0)
        print_message("%d stages, %d micro-batches: %.4f s, %.4f by the formula; bubble %.3f, "
                      "%.3f\n",
                      pp, (int)count, least, expected, bubble, formula);
    stop(&own);
}

static void stages_wait_as_long_as_the_formula_says(void **state)
{
    ml_grid *grid;
    (void)state;
    assert_int_equal(ml_grid_create_shape(&grid, (ml_grid_shape){1, 1, ml_grid_world_size()}),
                     ML_OK);
    check(grid, 3);
    check(grid, 8);
    ml_grid_destroy(grid);
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_wait_as_long_as_the_formula_says),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
