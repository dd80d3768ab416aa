/* The whole model: its gradient against finite differences, and its loss and gradients on every tp
 * × dp grid against one rank. */
#include "model_cases.h"

#include <math.h>

#include "mpilora/grid.h"

static float direction(int64_t i)
{
    return (float)ml_random_normal(ml_random_key_make(9, "direction"), 0, (uint64_t)i);
}

/* (L(p + εv) − L(p − εv)) / 2ε, v random over one tensor of the list; the tensor is as before
 * afterwards. */
static double measured_slope(fixture *f, const ml_parameter *p)
{
    float *value = f->parameters.value + p->offset;
    double size = 0.0, loss[2];
    for (int64_t i = 0; i < p->count; i++) size += (double)direction(i) * (double)direction(i);
    float eps = (float)(2e-2 / sqrt(size));
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < p->count; i++)
            value[i] += (side ? -2.0F : 1.0F) * eps * direction(i);
        loss[side] = fixture_loss(f, true, 0.0);
    }
    for (int64_t i = 0; i < p->count; i++) value[i] += eps * direction(i);
    return (loss[0] - loss[1]) / (2.0 * (double)eps);
}

/* One tensor at a time, so that none hides behind another. */
static void gradient_is_the_derivative(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        fixture f;
        fixture_options options = case_number(c);
        fixture_create(&f, &options, NULL, 1, 0);
        for (int64_t t = 0; t < f.parameters.count; t++) {
            const ml_parameter *p = &f.parameters.items[t];
            double slope = 0.0;
            fixture_loss(&f, true, 0.0);
            for (int64_t i = 0; i < p->count; i++)
                slope += (double)f.parameters.gradient[p->offset + i] * (double)direction(i);
            f.hold =
                options.dora && !strstr(p->name, "magnitude"); /* DoRA's norms count as constants */
            double measured = measured_slope(&f, p);
            f.hold = false;
            if (!(fabs(measured - slope) <= 2e-3 + 1e-2 * fabs(slope)))
                fail_msg("case %d, %s: difference %g, gradient %g", c, p->name, measured, slope);
        }
        fixture_destroy(&f);
    }
}

/* Every dp replica sees the same batch, so the sum over dp is dp times the gradient: divided again
 * here. */
static void compare_grid(const ml_grid *grid, int c, ml_activation_mode mode, int64_t chunk)
{
    fixture one, part;
    fixture_options options = case_number(c);
    int tp = ml_grid_tp(grid);
    fixture_create(&one, &options, NULL, 1, 0);
    options.mode = mode;
    options.chunk = chunk;
    fixture_create(&part, &options, grid, tp, ml_grid_tp_rank(grid));
    double expected = fixture_loss(&one, true, 0.1), found = fixture_loss(&part, true, 0.1);
    assert_true(fabs(expected - found) < 1e-6 * fabs(expected) + 1e-6);
    ml_reduction r = ml_parameters_reduce(&part.parameters, grid);
    assert_int_equal(r.payload_bytes, 4 * one.parameters.global);
    assert_int_equal(part.parameters.global, one.parameters.global);
    for (int64_t i = 0; i < part.parameters.local; i++)
        part.parameters.gradient[i] /= (float)ml_grid_dp(grid);
    fixture_compare_gradients(&one, &part, c, tp, 2e-3);
    double norm = ml_parameters_gradient_norm(&part.parameters, grid, part.kernels);
    double alone = sqrt(one.kernels->sum_squares(one.parameters.local, one.parameters.gradient));
    assert_true(fabs(norm - alone) < 1e-5 * alone);
    fixture_destroy(&part);
    fixture_destroy(&one);
}

static void every_grid_gives_the_same(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 0; c < CASES; c++)
            for (ml_activation_mode mode = ML_ACTIVATIONS_FULL; mode <= ML_ACTIVATIONS_CHECKPOINT;
                 mode++)
                for (int64_t chunk = 0; chunk < 10; chunk += 7) compare_grid(grid, c, mode, chunk);
        ml_grid_destroy(grid);
    }
}

/* Initial A is one tensor cut into parts: not scaled by a part's width, not the same on every
 * part; B is zero. */
/* What is computed again is what was computed before: in fp32 the same bits, in bf16 nearly, since
 * it starts from a narrowed input. */
static void modes_change_nothing(void **state)
{
    (void)state;
    for (int c = 0; c < 2 * CASES; c++) {
        fixture kept, again;
        fixture_options options = case_number(c % CASES);
        options.dtype = c < CASES ? ML_FP32 : ML_BF16;
        options.chunk = 6;
        fixture_create(&kept, &options, NULL, 1, 0);
        double loss = fixture_loss(&kept, true, 0.1);
        for (ml_activation_mode mode = ML_ACTIVATIONS_SELECTIVE; mode <= ML_ACTIVATIONS_CHECKPOINT;
             mode++) {
            options.mode = mode;
            fixture_create(&again, &options, NULL, 1, 0);
            assert_true(fixture_loss(&again, true, 0.1) == loss);
            double sum = 0, off = 0;
            for (int64_t i = 0; i < kept.parameters.local; i++) {
                double a = (double)kept.parameters.gradient[i],
                       b = (double)again.parameters.gradient[i];
                sum += a * a;
                off += (a - b) * (a - b);
            }
            if (!(off <= (options.dtype == ML_FP32 ? 0.0 : 1e-4 * sum)))
                fail_msg("case %d, %s: gradients differ by %g of their size", c,
                         ml_activation_mode_name(mode), sqrt(off / sum));
            fixture_destroy(&again);
        }
        fixture_destroy(&kept);
    }
}

static void initial_values_are_one_tensor(void **state)
{
    (void)state;
    fixture_options options = case_number(6);
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        fixture one, part;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        fixture_create(&one, &options, NULL, 1, 0);
        fixture_create(&part, &options, grid, tp, ml_grid_tp_rank(grid));
        ml_peft_initialise(one.peft);
        ml_peft_initialise(part.peft);
        for (int64_t t = 0; t < one.parameters.count; t++) {
            const ml_parameter *whole = &one.parameters.items[t], *mine = &part.parameters.items[t];
            float expected[2048];
            double bound = 1.0 / sqrt((double)whole->cols), most = 0.0;
            assert_true(mine->count <= 2048);
            ml_shard_take(&mine->shard, whole->rows, whole->cols,
                          one.parameters.value + whole->offset, expected);
            assert_memory_equal(expected, part.parameters.value + mine->offset,
                                (size_t)mine->count * sizeof *expected);
            for (int64_t i = 0; i < whole->count; i++)
                most = fmax(most, fabs((double)one.parameters.value[whole->offset + i]));
            bool is_b = strstr(whole->name, "lora_B") != NULL;
            assert_true(is_b ? most == 0.0 : most <= bound && most > 0.8 * bound);
        }
        fixture_destroy(&part);
        fixture_destroy(&one);
        ml_grid_destroy(grid);
    }
}

/* DoRA starts as the base: its magnitudes are the norms of W's rows. */
static void magnitudes_start_as_norms(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        double loss[2];
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 22; c < 24; c++) {
            for (int dora = 0; dora < 2; dora++) {
                fixture f;
                fixture_options options = case_number(c);
                options.dora = dora;
                fixture_create(&f, &options, grid, tp, ml_grid_tp_rank(grid));
                ml_peft_initialise(f.peft);
                loss[dora] = fixture_loss(&f, false, 0.0);
                fixture_destroy(&f);
            }
            assert_true(fabs(loss[1] - loss[0]) < 1e-6 * loss[0]);
        }
        ml_grid_destroy(grid);
    }
}

/* Two sequences that begin with the virtual tokens, or with these words. */
static double loss_behind(fixture *f, const int32_t begin[3])
{
    enum { FIRST = 9, TOKENS = 21 };
    int32_t token[TOKENS], target[TOKENS];
    int64_t row[TOKENS], target_start[TOKENS + 1];
    const int64_t start[] = {0, FIRST, TOKENS};
    ml_batch batch = {.tokens = TOKENS,
                      .token = token,
                      .sequences = {.count = 2, .start = start},
                      .row = row,
                      .targets = {target_start, target, 0}};
    double loss;
    for (int32_t t = 0; t < TOKENS; t++) {
        int32_t place = t < FIRST ? t : t - FIRST;
        token[t] = place < 3 ? begin[place] : (t * 7 + 3) % 37;
        target_start[batch.rows] = batch.rows;
        if (place < 3) continue;
        row[batch.rows] = t;
        target[batch.rows++] = (t * 11 + 5) % 37;
    }
    target_start[batch.rows] = batch.rows;
    ml_model_loss(f->model, &batch, false, 1.0, 0.0, &loss);
    return loss / (double)batch.rows;
}

/* Virtual tokens that start as words are to the model what these words are, whatever a method
 * trains of them. */
static void virtual_tokens_start_as_words(void **state)
{
    (void)state;
    static const int32_t words[] = {31, 4, 17}, virtual[] = {-1, -2, -3};
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int c = 0; c < CASES; c++) {
            fixture f;
            fixture_options options = case_number(c);
            if (!ml_method_has_prefix(options.method)) continue;
            fixture_create(&f, &options, grid, tp, ml_grid_tp_rank(grid));
            double expected = loss_behind(&f, words), before = loss_behind(&f, virtual);
            ml_peft_start_virtual(f.peft, words);
            double found = loss_behind(&f, virtual);
            if (!(fabs(found - expected) < 1e-6 * expected && fabs(before - expected) > 1e-3))
                fail_msg(
                    "case %d, tp %d: loss %.9g with these words, %.9g as virtual tokens, %g before",
                    c, tp, expected, found, before);
            fixture_destroy(&f);
        }
        ml_grid_destroy(grid);
    }
}

/* What is collected for adapter.h5 holds every rank's part. */
static void collected_adapter_is_whole(void **state)
{
    (void)state;
    fixture_options options = case_number(1);
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        fixture one, part;
        ml_adapter adapter;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        fixture_create(&one, &options, NULL, 1, 0);
        fixture_create(&part, &options, grid, tp, ml_grid_tp_rank(grid));
        assert_int_equal(ml_peft_collect(part.peft, grid, "", &adapter), ML_OK);
        for (int64_t i = 0; i < adapter.count; i++) {
            const ml_adapter_pair *pair = &adapter.pairs[i];
            char name[96];
            for (int64_t t = 0; t < one.parameters.count; t++) {
                const ml_parameter *p = &one.parameters.items[t];
                snprintf(name, sizeof name, "%s.lora_A", pair->module);
                if (!strcmp(p->name, name))
                    assert_memory_equal(pair->a, one.parameters.value + p->offset,
                                        (size_t)p->count * sizeof(float));
                snprintf(name, sizeof name, "%s.lora_B", pair->module);
                if (!strcmp(p->name, name))
                    assert_memory_equal(pair->b, one.parameters.value + p->offset,
                                        (size_t)p->count * sizeof(float));
            }
        }
        assert_int_equal(adapter.count, ml_grid_rank(grid) == 0 ? one.parameters.count / 2 : 0);
        ml_adapter_destroy(&adapter);
        fixture_destroy(&part);
        fixture_destroy(&one);
        ml_grid_destroy(grid);
    }
}

/* A rank holds 1/tp of every matrix, embedding and head included. */
static void tp_divides_the_weights(void **state)
{
    (void)state;
    ml_model_spec spec = fixture_spec(&ml_family_llama);
    spec.vocab = 36;
    ml_model *one, *half, *bad;
    assert_int_equal(ml_model_create(&one, &spec, NULL, 1, 0, ML_BF16), ML_OK);
    assert_int_equal(ml_model_create(&half, &spec, NULL, 2, 1, ML_BF16), ML_OK);
    for (int64_t i = 0; i < ml_model_slots(one); i++) {
        const ml_model_slot *whole = ml_model_slot_at(one, i), *part = ml_model_slot_at(half, i);
        if (!whole->vector) assert_int_equal(2 * part->count, whole->count);
    }
    assert_int_equal(ml_model_create(&bad, &spec, NULL, 3, 0, ML_BF16), ML_USAGE);
    ml_model_destroy(one);
    ml_model_destroy(half);
}

/* What is kept in 8 bits, of which backward takes little, where nothing of `up` trains; it is the
 * same but for that where that is kept in bf16, as selective mode has it. */
static void eight_bits_change_little(void **state)
{
    (void)state;
    static const ml_family *const families[] = {&ml_family_gpt2, &ml_family_llama};
    enum { WIDTH = 64 };
    for (int i = 0; i < 2; i++) {
        fixture full, selective;
        fixture_options options = {.family = families[i],
                                   .targets = ML_TARGET_Q | ML_TARGET_V,
                                   .width = WIDTH,
                                   .dtype = ML_BF16};
        fixture_create(&full, &options, NULL, 1, 0);
        options.mode = ML_ACTIVATIONS_SELECTIVE;
        fixture_create(&selective, &options, NULL, 1, 0);
        assert_true(fixture_loss(&full, true, 0.0) == fixture_loss(&selective, true, 0.0));
        double sum = 0.0, off = 0.0;
        for (int64_t j = 0; j < full.parameters.local; j++) {
            double a = (double)full.parameters.gradient[j],
                   b = (double)selective.parameters.gradient[j];
            sum += b * b;
            off += (a - b) * (a - b);
        }
        if (!(off > 0.0 && off < 1e-4 * sum))
            fail_msg("%s: gradients differ by %g of their size", families[i]->title,
                     sqrt(off / sum));
        fixture_destroy(&selective);
        fixture_destroy(&full);
    }
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_is_the_derivative),
        cmocka_unit_test(every_grid_gives_the_same),
        cmocka_unit_test(initial_values_are_one_tensor),
        cmocka_unit_test(collected_adapter_is_whole),
        cmocka_unit_test(magnitudes_start_as_norms),
        cmocka_unit_test(tp_divides_the_weights),
        cmocka_unit_test(modes_change_nothing),
        cmocka_unit_test(eight_bits_change_little),
        cmocka_unit_test(virtual_tokens_start_as_words),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
