/* Labelled data sets on several ranks: what one rank of a node has read is what the others find,
 * and predictions that each replica makes of its rows are gathered to the same figures on any grid.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "session/predictions.h"

enum { ROWS = 37, CLASSES = 3 };
static char path[64];
static const char names[] = "[\"no\",\"so\",\"yes\"]";
static ml_grid *grid;

static int32_t truth_of(int64_t row) { return (int32_t)((row * row + row) % CLASSES); }
static int32_t said_of(int64_t row) { return (int32_t)((row * row) % CLASSES); }

static ml_status write_data(void)
{
    ml_status st = ML_OK;
    ml_dataset_writer *writer = NULL;
    ML_TRY(ml_dataset_writer_create(&writer, path, 100, "", 0));
    ML_TRY(ml_dataset_writer_labels(writer, ML_LABEL_CLASS, CLASSES, names));
    for (int64_t row = 0; row < ROWS; row++) {
        const int32_t tokens[] = {(int32_t)row, 1, 2};
        const uint8_t mask[] = {0, 0, 0}, types[] = {0, 0, row % 2 == 1};
        ML_TRY(ml_dataset_writer_add(writer, tokens, mask, 3));
        ML_TRY(ml_dataset_writer_add_types(writer, types));
        ML_TRY(ml_dataset_writer_add_label(writer, (float[]){(float)truth_of(row)}));
    }
    st = ml_dataset_writer_finish(writer);
    writer = NULL;
done:
    ml_dataset_writer_discard(writer);
    return st;
}

static ml_dataset *open_together(void)
{
    ml_dataset *data = NULL;
    ml_status st = ml_grid_world_rank() == 0 ? write_data() : ML_OK;
    assert_int_equal(ml_grid_agree(grid, st), ML_OK);
    if (ml_dataset_open_together(&data, path, grid) != ML_OK) fail_msg("%s", ml_error_text());
    return data;
}

static void every_rank_finds_the_labels(void **state)
{
    (void)state;
    ml_dataset *data = open_together();
    assert_int_equal(ml_dataset_label_kind(data), ML_LABEL_CLASS);
    assert_int_equal(ml_dataset_label_count(data), CLASSES);
    assert_string_equal(ml_dataset_label_names(data), names);
    assert_int_equal(ml_dataset_type_count(data), 2);
    for (int64_t row = 0; row < ROWS; row++) {
        float label;
        uint8_t types[3];
        assert_int_equal(ml_dataset_read_label(data, row, &label), ML_OK);
        assert_int_equal(label, truth_of(row));
        assert_int_equal(ml_dataset_read_types(data, row, 3, types), ML_OK);
        assert_int_equal(types[2], row % 2 == 1);
    }
    ml_dataset_destroy(data);
}

static void predictions_are_gathered(void **state)
{
    (void)state;
    ml_dataset *data = open_together();
    ml_sampler *sampler = NULL;
    predictions p = {0};
    ml_figures figures;
    int64_t right = 0, dp = ml_grid_dp(grid), mine = ml_grid_dp_rank(grid);
    int64_t first = ml_part_start(ROWS, dp, mine);
    assert_int_equal(ml_sampler_create(&sampler, data, 0, &(ml_sampler_order){0}), ML_OK);
    assert_int_equal(predictions_create(&p, data, sampler, 0), ML_OK);
    for (int64_t row = first; row < first + ml_part_count(ROWS, dp, mine); row++) {
        float score[CLASSES] = {0};
        score[said_of(row)] = 1.0F;
        predictions_take(&p, row, 0, score, CLASSES);
    }
    predictions_gather(&p, grid);
    for (int64_t row = 0; row < ROWS; row++) {
        assert_int_equal(p.value[row], said_of(row));
        right += said_of(row) == truth_of(row);
    }
    assert_int_equal(predictions_judge(&p, &figures), ML_OK);
    assert_string_equal(figures.name[0], "accuracy");
    assert_true(figures.value[0] == (double)right / ROWS);
    predictions_destroy(&p);
    ml_sampler_destroy(sampler);
    ml_dataset_destroy(data);
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    ml_log_enable(ml_grid_world_rank() == 0);
    if (ml_grid_create(&grid, 1) != ML_OK) return 1;
    /* CTest runs this with 1, 2 and 4 ranks, at once where it may. */
    snprintf(path, sizeof path, "test_label_ranks-%d.h5", ml_grid_world_size());
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_rank_finds_the_labels),
                                       cmocka_unit_test(predictions_are_gathered)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (ml_grid_world_rank() == 0) unlink(path);
    ml_grid_destroy(grid);
    ml_grid_stop();
    return failed;
}
