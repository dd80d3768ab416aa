/* Fewer key/value heads than ranks of tp: several ranks hold the same head. The loss, the
 * gradients, their norm and what AdamW makes of them, against one rank; and that copies stay the
 * same bits. */
#include "fixture.h"

#include "mpilora/grid.h"

static const unsigned llama_all = ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V | ML_TARGET_O |
                                  ML_TARGET_GATE | ML_TARGET_UP | ML_TARGET_DOWN;

enum { CASES = 16, KEY_HEADS = 2 };

static fixture_options case_number(int c)
{
    const fixture_options cases[CASES] = {
        {.family = &ml_family_llama, .targets = llama_all},
        {.family = &ml_family_llama, .targets = ML_TARGET_Q | ML_TARGET_V, .dropout = 0.25},
        {.family = &ml_family_llama, .targets = llama_all, .dora = true},
        {.family = &ml_family_llama, .targets = ML_TARGET_Q | ML_TARGET_O},
        {.family = &ml_family_llama, .method = ML_METHOD_FULL},
        {.family = &ml_family_llama, .method = ML_METHOD_TOP},
        {.family = &ml_family_qwen2, .method = ML_METHOD_BITFIT},
        {.family = &ml_family_qwen3, .method = ML_METHOD_FULL},
        {.family = &ml_family_olmo2, .method = ML_METHOD_FULL},
        {.family = &ml_family_cohere, .method = ML_METHOD_FULL},
        {.family = &ml_family_phi3,
         .targets = ML_TARGET_QKV | ML_TARGET_O | ML_TARGET_GATE_UP | ML_TARGET_DOWN,
         .dropout = 0.25},
        {.family = &ml_family_phi3, .targets = ML_TARGET_QKV, .dora = true},
        {.family = &ml_family_falcon, .targets = ML_TARGET_QKV | ML_TARGET_V},
        {.family = &ml_family_falcon, .method = ML_METHOD_FULL},
        {.family = &ml_family_llama, .method = ML_METHOD_PREFIX_KV},
        {.family = &ml_family_qwen3,
         .method = ML_METHOD_LORA_PREFIX_KV,
         .targets = ML_TARGET_Q | ML_TARGET_K},
    };
    return cases[c];
}

/* Parts of `buffer` that are not what the first rank that holds them has. */
static int64_t differing_copies(const fixture *f, const ml_grid *grid, const float *buffer)
{
    int64_t differing = 0;
    for (ml_stretch s = {0}; ml_parameters_next_stretch(&f->parameters, &s);) {
        if (!s.copied) continue;
        size_t bytes = (size_t)s.count * sizeof(float);
        float *first = ml_memory_alloc(s.count, sizeof *first, ML_MEM_OTHER, "test");
        assert_non_null(first);
        memcpy(first, buffer + s.first, bytes);
        ml_grid_broadcast(grid, ML_GROUP_HEAD, 0, first, (int64_t)bytes);
        differing += memcmp(first, buffer + s.first, bytes) != 0;
        ml_memory_free(first);
    }
    return differing;
}

/* Whole numbers of floats that the ranks of a tp group hold, of all tensors: once, and again. */
static void check_counts(const fixture *one, const fixture *part, const ml_grid *grid, int kv_heads)
{
    int64_t held[2] = {0, part->parameters.replicated};
    const ml_parameters *p = &part->parameters;
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);)
        if (!s.spare) held[0] += s.count;
    ml_grid_sum_int64(grid, ML_GROUP_TP, held, 1);
    assert_int_equal(held[0] + held[1], one->parameters.global);
    assert_int_equal(p->global, one->parameters.global);
    int copies = ml_grid_tp(grid) > kv_heads ? ml_grid_tp(grid) / kv_heads : 1;
    assert_int_equal(p->copies, p->copied > 0 ? copies : 1);
}

static void compare_values(const fixture *one, const fixture *part, int number, int tp)
{
    for (int64_t t = 0; t < one->parameters.count; t++) {
        const ml_parameter *whole = &one->parameters.items[t], *mine = &part->parameters.items[t];
        float *expected = ml_memory_alloc(mine->count, sizeof *expected, ML_MEM_OTHER, "test");
        assert_non_null(expected);
        ml_shard_take(&mine->shard, whole->rows, whole->cols, one->parameters.value + whole->offset,
                      expected);
        for (int64_t i = 0; i < mine->count; i++) {
            double found = (double)part->parameters.value[mine->offset + i];
            if (!(fabs((double)expected[i] - found) <= 1e-5))
                fail_msg("case %d, tp %d, %s[%d] after steps: one rank %g, this grid %g", number,
                         tp, whole->name, (int)i, (double)expected[i], found);
        }
        ml_memory_free(expected);
    }
}

/* Every dp replica sees the same batch, so that the sum over dp is dp times the gradient. */
static void step(fixture *f, const ml_grid *grid, int64_t number)
{
    const ml_adamw adamw = {.lr = 0.01,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-3,
                            .grad_scale = 1.0 / (double)(grid ? ml_grid_dp(grid) : 1),
                            .t = number};
    fixture_loss(f, true, 0.0);
    if (grid) ml_parameters_reduce(&f->parameters, grid);
    ml_parameters_update(&f->parameters, grid, f->kernels, &adamw);
}

static void compare(const ml_grid *grid, int c, int64_t kv_heads, ml_activation_mode mode)
{
    fixture one, part;
    fixture_options options = case_number(c);
    int tp = ml_grid_tp(grid);
    options.kv_heads = kv_heads;
    fixture_create(&one, &options, NULL, 1, 0);
    options.mode = mode;
    fixture_create(&part, &options, grid, tp, ml_grid_tp_rank(grid));
    check_counts(&one, &part, grid, (int)kv_heads);
    double expected = fixture_loss(&one, true, 0.1), found = fixture_loss(&part, true, 0.1);
    if (!(fabs(expected - found) < 1e-6 * fabs(expected) + 1e-6))
        fail_msg("case %d, tp %d, %d key/value heads: loss %.9g, one rank has %.9g", c, tp,
                 (int)kv_heads, found, expected);
    ml_reduction r = ml_parameters_reduce(&part.parameters, grid);
    assert_int_equal(r.payload_bytes, 4 * one.parameters.global);
    assert_int_equal(differing_copies(&part, grid, part.parameters.gradient), 0);
    for (int64_t i = 0; i < part.parameters.local; i++)
        part.parameters.gradient[i] /= (float)ml_grid_dp(grid);
    /* Without its rotation a key's bias would change nothing: what is left of sums of one head's
     * queries is small against them. */
    fixture_compare_gradients(&one, &part, c, tp, 1e-2);
    double norm = ml_parameters_gradient_norm(&part.parameters, grid, part.kernels),
           alone = sqrt(one.kernels->sum_squares(one.parameters.local, one.parameters.gradient));
    if (!(fabs(norm - alone) < 1e-5 * alone))
        fail_msg("case %d, tp %d, %d key/value heads: norm %.9g, one rank has %.9g", c, tp,
                 (int)kv_heads, norm, alone);
    for (int64_t i = 1; i <= 2; i++) {
        step(&one, NULL, i);
        step(&part, grid, i);
    }
    compare_values(&one, &part, c, tp);
    assert_int_equal(differing_copies(&part, grid, part.parameters.value), 0);
    fixture_destroy(&part);
    fixture_destroy(&one);
}

static void copied_heads_change_nothing(void **state)
{
    (void)state;
    for (int tp = ml_grid_world_size() > 1 ? 2 : 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 0; c < CASES; c++)
            for (int64_t kv_heads = 1; kv_heads <= KEY_HEADS; kv_heads++)
                compare(grid, c, kv_heads, c % 2 ? ML_ACTIVATIONS_FULL : ML_ACTIVATIONS_CHECKPOINT);
        ml_grid_destroy(grid);
    }
}

/* The norm, and where two steps lead, with moments that the replicas divide among them. */
static void copies_go_with_divided_moments(void **state)
{
    (void)state;
    for (int tp = ml_grid_world_size() > 1 ? 2 : 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 0; c < CASES; c++) {
            fixture whole, divided;
            fixture_options options = case_number(c);
            options.kv_heads = 1 + c % KEY_HEADS;
            fixture_create(&whole, &options, grid, tp, ml_grid_tp_rank(grid));
            options.piece = 100;
            fixture_create(&divided, &options, grid, tp, ml_grid_tp_rank(grid));
            for (int64_t i = 1; i <= 2; i++) {
                step(&whole, grid, i);
                step(&divided, grid, i);
                double norm = ml_parameters_gradient_norm(&whole.parameters, grid, whole.kernels),
                       same = ml_parameters_gradient_norm(&divided.parameters, grid, whole.kernels);
                assert_true(fabs(norm - same) <= 1e-5 * norm);
            }
            assert_int_equal(differing_copies(&divided, grid, divided.parameters.value), 0);
            for (int64_t i = 0; i < whole.parameters.local; i++)
                assert_true(
                    fabs((double)(whole.parameters.value[i] - divided.parameters.value[i])) < 1e-5);
            fixture_destroy(&divided);
            fixture_destroy(&whole);
        }
        ml_grid_destroy(grid);
    }
}

/* Of tp 1 to 12, those that a model with so many heads can be divided by. */
static void tp_goes_where_heads_allow(void **state)
{
    (void)state;
    const struct {
        int64_t heads, kv_heads;
        unsigned good; /* bit tp */
        int bad;
        const char *advice;
    } cases[] = {
        {9, 3, 1U << 1 | 1U << 3 | 1U << 9, 2, "choose 1, 3 or 9"},
        {8, 1, 1U << 1 | 1U << 2 | 1U << 4 | 1U << 8, 3, "choose 1, 2, 4 or 8"},
        {8, 2, 1U << 1 | 1U << 2 | 1U << 4 | 1U << 8, 5, "choose 1, 2, 4 or 8"},
        {12, 4, 1U << 1 | 1U << 2 | 1U << 4 | 1U << 12, 6, "choose 1, 2, 4 or 12"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_model_spec spec = fixture_spec(&ml_family_llama);
        ml_model *model;
        spec.heads = cases[i].heads;
        spec.kv_heads = cases[i].kv_heads;
        for (int tp = 1; tp <= 12; tp++)
            assert_int_equal(ml_model_can_divide(&spec, tp), cases[i].good >> tp & 1U);
        assert_int_equal(ml_model_create(&model, &spec, NULL, cases[i].bad, 0, ML_FP32), ML_USAGE);
        assert_non_null(strstr(ml_error_text(), cases[i].advice));
    }
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copied_heads_change_nothing),
        cmocka_unit_test(copies_go_with_divided_moments),
        cmocka_unit_test(tp_goes_where_heads_allow),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
