/* Several prompts keep all stages of a pipeline busy, by the clock: passes that sleep instead of
 * computing, as long as they have rows, go through a real model's stages in groups. What all take
 * together is a stage's own work and the others' first pass, not the work of all stages one after
 * the other; and the continuations are those of the model in one piece. */
#include <time.h>

#include "fixture.h"

#include "mpilora/generate.h"

enum { REQUESTS = 8, PROMPT = 3, NEW = 5 };
static const double LENGTH = 0.004; /* seconds of a row */

/* In the first layer of a stage: its rows so far, and those of the longest pass. */
typedef struct sleeper {
    int64_t rows, most;
} sleeper;

static void sleep_for_rows(void *self, const ml_pass *pass, float *y)
{
    sleeper *own = self;
    const struct timespec length = {0, (long)(1e9 * LENGTH * (double)pass->tokens)};
    (void)y;
    own->rows += pass->tokens;
    own->most = ml_max(own->most, pass->tokens);
    nanosleep(&length, NULL);
}

static void generate(ml_model *model, int32_t out[REQUESTS][NEW])
{
    int32_t prompt[REQUESTS][PROMPT];
    ml_request request[REQUESTS];
    const ml_generation g = {.max_new = NEW, .beams = 1, .length_penalty = 1.0, .top_p = 1.0};
    for (int i = 0; i < REQUESTS; i++) {
        for (int j = 0; j < PROMPT; j++) prompt[i][j] = (5 * i * i + 11 * j + 1) % 37;
        request[i] =
            (ml_request){.prompt = prompt[i], .length = PROMPT, .number = i, .out = out[i]};
    }
    assert_int_equal(ml_generate_tokens(model, &g, REQUESTS, request, REQUESTS, NULL), ML_OK);
    for (int i = 0; i < REQUESTS; i++) assert_int_equal(request[i].count, NEW);
}

static void stages_are_busy(void **state)
{
    enum { TRIES = 40 }; /* at most; the shortest counts, since others may work here, too */
    static int32_t alone[REQUESTS][NEW], found[REQUESTS][NEW];
    int pp = ml_grid_world_size();
    double expected = 0.0, least = INFINITY;
    fixture_options options = {
        .family = &ml_family_llama, .targets = ML_TARGET_Q | ML_TARGET_V, .layers = 4};
    fixture whole, part;
    sleeper own;
    ml_grid *grid;
    int64_t first, end, most[2];
    (void)state;
    assert_int_equal(ml_grid_create_shape(&grid, (ml_grid_shape){1, 1, pp}), ML_OK);
    fixture_create(&whole, &options, NULL, 1, 0);
    options.in_flight = 1;
    fixture_create(&part, &options, grid, 1, 0);
    ml_model_stage_layers(part.model, &first, &end);
    ml_model_layer(part.model, first)->o.hook =
        (ml_linear_hook){.self = &own, .after_forward = sleep_for_rows};
    generate(whole.model, alone);
    for (int i = 0; i < TRIES && least >= 1.15 * expected; i++) {
        own = (sleeper){0};
        assert_int_equal(ml_grid_agree(grid, ML_OK), ML_OK);
        double since = ml_seconds();
        generate(part.model, found);
        double seconds = ml_seconds() - since;
        ml_grid_max_double(grid, ML_GROUP_WORLD, &seconds, 1);
        least = fmin(least, seconds);
        most[0] = own.rows;
        most[1] = own.most;
        ml_grid_max_int64(grid, ML_GROUP_WORLD, most, 2);
        expected = LENGTH * (double)(most[0] + (pp - 1) * most[1]);
        assert_memory_equal(found, alone, sizeof alone);
    }
    if (least < 0.95 * LENGTH * (double)most[0] || least > 1.15 * expected)
        fail_msg("%d stages: %.4f s, expected %.4f; in turn it would be %.4f", pp, least, expected,
                 pp * LENGTH * (double)most[0]);
    if (ml_grid_rank(grid) == 0)
        print_message("%d stages: %.4f s, %.4f expected, %.4f in turn\n", pp, least, expected,
                      pp * LENGTH * (double)most[0]);
    fixture_destroy(&whole);
    fixture_destroy(&part);
    ml_grid_destroy(grid);
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_are_busy),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
