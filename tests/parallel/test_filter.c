/* loss.filter: on every tp grid the gradient of a model whose probabilities are peaked stays near
 * the whole one, by what its rows have lost, though most of the head's backward is left out; where
 * nothing is small nothing changes. */
#include "fixture.h"

#include "mpilora/grid.h"

enum { VOCAB = 2500 };

/* With logits that many times as far apart. */
static void create(fixture *f, const char *backend, float peak, const ml_grid *grid)
{
    const fixture_options options = {.family = &ml_family_llama,
                                     .targets =
                                         ML_TARGET_Q | ML_TARGET_V | ML_TARGET_UP | ML_TARGET_DOWN,
                                     .untied = true,
                                     .vocab = VOCAB,
                                     .backend = backend};
    fixture_create(f, &options, grid, ml_grid_tp(grid), ml_grid_tp_rank(grid));
    for (int64_t i = 0; i < ml_model_slots(f->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(f->model, i);
        float *w = slot->data;
        for (int64_t j = 0; strstr(slot->name, "head") && j < slot->count; j++) w[j] *= peak;
    }
}

/* What of the gradient is off, as a share of its size, over the grid. */
static double error_of(fixture *whole, fixture *part, const ml_grid *grid)
{
    (void)ml_parameters_reduce(&whole->parameters, grid);
    (void)ml_parameters_reduce(&part->parameters, grid);
    double size = ml_parameters_gradient_norm(&whole->parameters, grid, whole->kernels);
    for (int64_t i = 0; i < part->parameters.local; i++)
        part->parameters.gradient[i] -= whole->parameters.gradient[i];
    return ml_parameters_gradient_norm(&part->parameters, grid, part->kernels) / size;
}

/* The probability that a row loses is of the order of the error of its gradient: rows whose loss is
 * not small have a gradient of that size, and this batch has no others. */
static void compare_filter(const ml_grid *grid, const char *backend, double least)
{
    fixture whole, part;
    create(&whole, backend, 40.0F, grid);
    create(&part, backend, 40.0F, grid);
    ml_model_set_filter(part.model, least);
    assert_true(fixture_loss(&whole, true, 0.0) == fixture_loss(&part, true, 0.0));
    const ml_filtered f = ml_model_take_filtered(part.model);
    double share = (double)f.zeros / (double)f.blocks, error = error_of(&whole, &part, grid);
    if (!(share > 0.2 && share < 1.0 && f.lost < VOCAB * least && error <= 3.0 * f.lost + 1e-6))
        fail_msg("tp %d, %s, least %g: %g of the blocks left out, a row has lost %g, error %g",
                 ml_grid_tp(grid), backend, least, share, f.lost, error);
    assert_int_equal(ml_model_take_filtered(part.model).blocks, 0);
    fixture_destroy(&whole);
    fixture_destroy(&part);
}

/* Probabilities of the order of 1 / VOCAB, all of them above the least that counts. */
static void compare_flat(const ml_grid *grid)
{
    fixture whole, part;
    create(&whole, "native", 1.0F, grid);
    create(&part, "native", 1.0F, grid);
    ml_model_set_filter(part.model, 0x1p-24);
    assert_true(fixture_loss(&whole, true, 0.0) == fixture_loss(&part, true, 0.0));
    const ml_filtered f = ml_model_take_filtered(part.model);
    assert_true(f.blocks > 0 && f.zeros == 0 && f.lost == 0.0);
    assert_true(error_of(&whole, &part, grid) < 1e-6);
    fixture_destroy(&whole);
    fixture_destroy(&part);
}

static void gradients_stay_near(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (double least = 0x1p-8; least >= 0x1p-20; least *= 0x1p-4) {
            compare_filter(grid, "native", least);
            compare_filter(grid, "blas", least);
        }
        compare_flat(grid);
        ml_grid_destroy(grid);
    }
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_stay_near)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
