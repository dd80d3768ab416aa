/* Memory that the replicas of a node hold together: the same bytes in all of them, counted once,
 * read-only once it is sealed; a way that is closed is an error on every rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "mpilora/grid.h"

static const int64_t sizes[] = {1, 4097, (2 << 20) - 64, (5 << 20) + 123};
static const char *const ways[] = {"file", "window"};

static unsigned char value_at(int64_t i, int tp_rank)
{
    return (unsigned char)(i * 7 + i / 4096 + 31 * tp_rank + 1);
}

static sigjmp_buf back;
static void jump(int signal_number)
{
    (void)signal_number;
    siglongjmp(back, 1);
}

static bool write_is_refused(volatile unsigned char *place)
{
    struct sigaction caught = {.sa_handler = jump}, before;
    volatile bool refused = true;
    sigaction(SIGSEGV, &caught, &before);
    if (!sigsetjmp(back, 1)) {
        *place = 0;
        refused = false;
    }
    sigaction(SIGSEGV, &before, NULL);
    return refused;
}

/* Each rank writes its part; every rank finds all parts. */
static void check_block(const ml_grid *grid, int64_t bytes, bool whole_pages)
{
    ml_shared *shared;
    int members = ml_grid_group_size(grid, ML_GROUP_REPLICA),
        place = ml_grid_group_rank(grid, ML_GROUP_REPLICA), tp_rank = ml_grid_tp_rank(grid);
    if (ml_grid_share(&shared, grid, bytes, bytes, ML_MEM_FROZEN, "a test's block") != ML_OK)
        fail_msg("%s", ml_error_text());
    unsigned char *data = ml_shared_data(shared);
    assert_int_equal((uintptr_t)data % 64, 0);
    int64_t counted = ml_memory_current(ML_MEM_FROZEN);
    ml_grid_sum_int64(grid, ML_GROUP_NODE, &counted, 1);
    assert_int_equal(counted, bytes * ml_grid_group_size(grid, ML_GROUP_NODE) / members);
    assert_int_equal(ml_shared_take_pages(shared, NULL, 0), ML_OK);
    int64_t start = ml_part_start(bytes, members, place),
            count = ml_part_count(bytes, members, place);
    for (int64_t i = start; i < start + count; i++) data[i] = value_at(i, tp_rank);
    ml_shared_seal(shared);
    for (int64_t i = 0; i < bytes; i++)
        if (data[i] != value_at(i, tp_rank))
            fail_msg("byte %d is %d, expected %d", (int)i, data[i], value_at(i, tp_rank));
    if (whole_pages) assert_true(write_is_refused(data + bytes / 2));
    ml_grid_barrier(grid);
    ml_shared_destroy(shared);
    assert_int_equal(ml_memory_current(ML_MEM_FROZEN), 0);
}

static void replicas_hold_one_block(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        assert_int_equal(ml_grid_group_size(grid, ML_GROUP_REPLICA), ml_grid_world_size() / tp);
        assert_int_equal(ml_grid_group_rank(grid, ML_GROUP_REPLICA), ml_grid_dp_rank(grid));
        for (int way = 0; way < 2; way++) {
            setenv("MPILORA_SHARED_MEMORY", ways[way], 1);
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                check_block(grid, sizes[i], way == 0 || sizes[i] > 1 << 20);
        }
        unsetenv("MPILORA_SHARED_MEMORY");
        ml_grid_destroy(grid);
    }
}

/* A file beyond the limit of sizes, a window beyond the room of /dev/shm: refused before a signal
 * could come. */
static void what_cannot_be_made_is_an_error_everywhere(void **state)
{
    (void)state;
    struct rlimit before, small;
    ml_grid *grid;
    ml_shared *shared = NULL;
    const int64_t bytes = (int64_t)1 << 50;
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 1 << 20;
    if (ml_grid_rank(grid) == 0) setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(ml_grid_share(&shared, grid, bytes, bytes, ML_MEM_FROZEN, "a test's block"),
                     ML_RESOURCE);
    if (ml_grid_rank(grid) == 0) setrlimit(RLIMIT_FSIZE, &before);
    assert_null(shared);
    assert_non_null(strstr(ml_error_text(), "a test's block: 1125899906842624 bytes"));
    assert_non_null(strstr(ml_error_text(), "ulimit -f"));
    assert_non_null(strstr(ml_error_text(), "/dev/shm has room for"));
    assert_int_equal(ml_memory_current(ML_MEM_FROZEN), 0);
    ml_grid_destroy(grid);
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    ml_log_enable(ml_grid_world_rank() == 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replicas_hold_one_block),
        cmocka_unit_test(what_cannot_be_made_is_an_error_everywhere)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_grid_stop();
    return failed;
}
