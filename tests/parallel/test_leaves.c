/* Sums in leaves: loss and gradients have the same bits for every tp. */
#include "model_cases.h"

#include "mpilora/grid.h"

/* The bits that differ from those of one rank, of a tensor's gradient. */
static int64_t differing(const ml_parameter *whole, const float *one, const ml_parameter *mine,
                         const float *part)
{
    int64_t count = 0;
    float *expected = ml_memory_alloc(ml_max(1, mine->count), sizeof *expected, ML_MEM_OTHER, "");
    assert_non_null(expected);
    ml_shard_take(&mine->shard, whole->rows, whole->cols, one, expected);
    for (int64_t i = 0; i < mine->count; i++)
        count += memcmp(&expected[i], &part[i], sizeof *part) != 0;
    ml_memory_free(expected);
    return count;
}

/* What sums over tp in an order of its own: a norm's weight that all heads share. */
static bool is_refused(const fixture_options *o)
{
    const ml_model_spec spec = fixture_spec(o->family);
    bool shared = spec.qk_norm && spec.qk_norm_kind == ML_QK_NORM_HEAD;
    return shared && (o->method == ML_METHOD_FULL || o->method == ML_METHOD_TOP);
}

static void check_refusal(const ml_grid *grid, int c)
{
    const fixture_options o = case_number(c);
    const ml_peft_options options = {
        .method = o.method,
        .sizes = {.top = 1},
        .lora = {.rank = 3, .alpha = 6.0, .dora = o.dora, .targets = o.targets}};
    ml_model_spec spec = fixture_spec(o.family);
    ml_model *model;
    ml_parameters parameters = {0};
    ml_peft *peft = NULL;
    if (ml_family_end(o.family, ML_ROLE_RELATIVE)->module) fixture_relative(&spec, false);
    assert_int_equal(
        ml_model_create(&model, &spec, grid, ml_grid_tp(grid), ml_grid_tp_rank(grid), ML_FP32),
        ML_OK);
    assert_int_equal(ml_model_sum_leaves(model), ML_OK);
    assert_int_equal(ml_peft_attach(&peft, model, &parameters, &options), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "numerics is grid"));
    ml_parameters_destroy(&parameters);
    ml_model_destroy(model);
}

/* Every dp replica sees the same batch: the sum over dp, a power of two, is exactly dp times the
 * gradient. */
static void compare(const ml_grid *grid, int c, int64_t chunk, bool leaves)
{
    fixture one, part;
    fixture_options options = case_number(c);
    int tp = ml_grid_tp(grid);
    int64_t off = 0;
    if (tp > 1 && is_refused(&options)) {
        check_refusal(grid, c);
        return;
    }
    options.leaves = leaves;
    options.chunk = chunk;
    options.dtype = c % 2 ? ML_FP32 : ML_BF16;
    fixture_create(&one, &options, NULL, 1, 0);
    options.mode = c % 3 ? ML_ACTIVATIONS_FULL : ML_ACTIVATIONS_CHECKPOINT;
    options.mode = options.dtype == ML_BF16 ? ML_ACTIVATIONS_FULL : options.mode;
    fixture_create(&part, &options, grid, tp, ml_grid_tp_rank(grid));
    double expected = fixture_loss(&one, true, 0.1), found = fixture_loss(&part, true, 0.1);
    if (leaves && expected != found)
        fail_msg("case %d, tp %d: loss %.17g, one rank has %.17g", c, tp, found, expected);
    (void)ml_parameters_reduce(&part.parameters, grid);
    for (int64_t i = 0; i < part.parameters.local; i++)
        part.parameters.gradient[i] /= (float)ml_grid_dp(grid);
    for (int64_t t = 0; t < one.parameters.count; t++) {
        const ml_parameter *whole = &one.parameters.items[t], *mine = &part.parameters.items[t];
        int64_t n = differing(whole, one.parameters.gradient + whole->offset, mine,
                              part.parameters.gradient + mine->offset);
        if (leaves && n > 0)
            fail_msg("case %d, tp %d, %s: %d of %d numbers of its gradient differ from one rank's",
                     c, tp, whole->name, (int)n, (int)mine->count);
        off += n;
    }
    ml_grid_sum_int64(grid, ML_GROUP_WORLD, &off, 1);
    if (!leaves && tp > 1) assert_true(off > 0); /* the comparison sees another order of sums */
    fixture_destroy(&part);
    fixture_destroy(&one);
}

static void every_tp_has_the_same_bits(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 0; c < CASES; c++) compare(grid, c, c % 2 ? 7 : 0, true);
        compare(grid, 6, 0, false);
        ml_grid_destroy(grid);
    }
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tp_has_the_same_bits),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
