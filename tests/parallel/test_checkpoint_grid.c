/* checkpoints: what any grid wrote any grid reads, the same bytes on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../checkpoint_case.h"

static char directory[64];
static char first_hash[ML_SHA256_HEX];

static void make_directory(const ml_grid *grid)
{
    snprintf(directory, sizeof directory, "/tmp/mpilora-grid-XXXXXX");
    if (ml_grid_rank(grid) == 0) assert_non_null(mkdtemp(directory));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, directory, sizeof directory);
}

static void remove_directory(const ml_grid *grid)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ml_grid_barrier(grid);
    if (ml_grid_rank(grid) == 0) assert_int_equal(system(command), 0);
}

/* Moments divided over the replicas in pieces of so many floats; 0: whole. */
static ml_parameters parameters_with(const ml_grid *grid, int64_t piece)
{
    ml_parameters p = case_list(grid);
    if (piece) ml_parameters_divide_moments(&p, ml_grid_dp(grid), ml_grid_dp_rank(grid), piece);
    assert_int_equal(ml_parameters_allocate(&p, true), ML_OK);
    return p;
}

/* As case_fill does, this rank's share of the moments. */
static void fill_shares(ml_parameters *p, const ml_grid *grid)
{
    ml_parameters whole = case_parameters(grid);
    case_fill(&whole, false);
    ml_parameters_put(p, p->value, 0, whole.value, p->local);
    ml_parameters_put(p, p->moment1, 0, whole.moment1, p->local);
    ml_parameters_put(p, p->moment2, 0, whole.moment2, p->local);
    ml_parameters_destroy(&whole);
}

static void check_values(const ml_parameters *p, const ml_grid *grid, int64_t piece)
{
    if (p->dp == 1) {
        assert_int_equal(case_differences(p), 0);
        return;
    }
    ml_parameters expected = parameters_with(grid, piece);
    fill_shares(&expected, grid);
    assert_memory_equal(p->value, expected.value, (size_t)p->local * sizeof(float));
    assert_memory_equal(p->moment1, expected.moment1, (size_t)p->held * sizeof(float));
    assert_memory_equal(p->moment2, expected.moment2, (size_t)p->held * sizeof(float));
    ml_parameters_destroy(&expected);
}

static void save_with(int tp, bool full, int64_t file_bytes, int64_t piece)
{
    ml_grid *grid;
    ml_run_directory *run;
    ml_checkpoint_state state = case_state(4);
    state.full = full;
    state.file_bytes = file_bytes;
    assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
    make_directory(grid);
    ml_parameters p = parameters_with(grid, piece);
    if (p.dp > 1)
        fill_shares(&p, grid);
    else
        case_fill(&p, ml_grid_dp_rank(grid) != 0); /* only replica 0's copy counts */
    assert_int_equal(ml_run_directory_open(&run, directory, false, grid), ML_OK);
    assert_int_equal(ml_checkpoint_save(run, grid, &p, &state, 2, NULL), ML_OK);
    ml_run_directory_close(run);
    ml_parameters_destroy(&p);
    ml_grid_destroy(grid);
}

static void load_with(int tp, int64_t piece)
{
    ml_grid *grid;
    ml_run_directory *run;
    ml_checkpoint_state state = case_state(0);
    bool found;
    assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
    ml_parameters p = parameters_with(grid, piece);
    assert_int_equal(ml_run_directory_open(&run, directory, false, grid), ML_OK);
    assert_int_equal(ml_checkpoint_find(run, grid, &state, &found), ML_OK);
    assert_true(found);
    assert_int_equal(state.progress.step, 4);
    assert_int_equal(ml_checkpoint_load(run, grid, &p), ML_OK);
    check_values(&p, grid, piece);
    ml_run_directory_close(run);
    remove_directory(grid);
    ml_parameters_destroy(&p);
    ml_grid_destroy(grid);
}

/* Each tp rank has written files of its own, and no file is without a writer. */
static void check_writers(int tp)
{
    char path[128];
    for (int i = 0; i < 2 * tp && ml_grid_world_rank() == 0; i++) {
        snprintf(path, sizeof path, "%s/checkpoints/step-00000004/state-%04d.h5", directory, i);
        assert_int_equal(access(path, R_OK) == 0, i < tp);
    }
}

static void compare_state_file(void)
{
    char path[128], hash[ML_SHA256_HEX];
    if (ml_grid_world_rank() != 0) return;
    snprintf(path, sizeof path, "%s/checkpoints/step-00000004/state.h5", directory);
    assert_int_equal(ml_sha256_of_file(path, hash), ML_OK);
    if (first_hash[0]) assert_string_equal(hash, first_hash);
    memcpy(first_hash, hash, sizeof hash);
}

static void any_grid_reads_any_other(void **state)
{
    (void)state;
    int size = ml_grid_world_size();
    for (int saved = 1; saved <= size; saved *= 2) {
        for (int loaded = 1; loaded <= size; loaded *= 2) {
            save_with(saved, false, 0, 0);
            compare_state_file();
            load_with(loaded, 0);
            save_with(saved, true, 0, 0);
            check_writers(saved);
            load_with(loaded, 0);
            for (int64_t bytes = 8; bytes <= 800; bytes *= 3) { /* tensors cut over several files */
                save_with(saved, true, bytes, 0);
                load_with(loaded, 0);
            }
        }
    }
}

static void divided_moments_are_read_whole_and_whole_ones_divided(void **state)
{
    static const int64_t piece[] = {0, 5, 64, 1 << 20};
    (void)state;
    int size = ml_grid_world_size();
    for (int saved = 0; saved < 4; saved++) {
        for (int loaded = 0; loaded < 4; loaded++) {
            if (saved == 0 && loaded == 0) continue;
            save_with(1, false, 0, piece[saved]);
            compare_state_file();
            load_with(size, piece[loaded]);
            save_with(size > 1 ? size / 2 : 1, true, 200, piece[saved]);
            load_with(1, piece[loaded]);
        }
    }
}

/* A writer that fails in the middle leaves nobody waiting. */
static void a_failed_save_of_divided_moments_ends(void **state)
{
    (void)state;
    ml_grid *grid;
    ml_run_directory *run;
    ml_checkpoint_state description = case_state(4);
    description.full = true;
    description.file_bytes = 100;
    char path[128];
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    make_directory(grid);
    ml_parameters p = parameters_with(grid, 64);
    assert_int_equal(ml_run_directory_open(&run, directory, false, grid), ML_OK);
    snprintf(path, sizeof path, "%s/checkpoints/step-00000004/state-0003.h5", directory);
    if (ml_grid_rank(grid) ==
        0) { /* where the fourth file would be is a folder that is not empty */
        char command[192];
        snprintf(command, sizeof command, "mkdir -p %s/in-the-way", path);
        assert_int_equal(system(command), 0);
    }
    ml_grid_barrier(grid);
    assert_int_equal(ml_checkpoint_save(run, grid, &p, &description, 2, NULL), ML_RESOURCE);
    ml_run_directory_close(run);
    remove_directory(grid);
    ml_parameters_destroy(&p);
    ml_grid_destroy(grid);
}

static void all_ranks_see_a_failure(void **state)
{
    (void)state;
    ml_grid *grid;
    ml_run_directory *run, *second = NULL;
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    make_directory(grid);
    assert_int_equal(ml_run_directory_open(&run, directory, false, grid), ML_OK);
    assert_int_equal(ml_run_directory_open(&second, directory, false, grid), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "run.dir of another run of this job"));
    ml_run_directory_close(run);
    remove_directory(grid);
    ml_grid_destroy(grid);
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    ml_log_enable(ml_grid_world_rank() == 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grid_reads_any_other),
        cmocka_unit_test(divided_moments_are_read_whole_and_whole_ones_divided),
        cmocka_unit_test(a_failed_save_of_divided_moments_ends),
        cmocka_unit_test(all_ranks_see_a_failure)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
