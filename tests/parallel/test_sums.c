/* Sums of floats over the groups of a grid through memory that a node's ranks share: the bits of an
 * addition in the order of ranks on every one of them, as MPI's where two are added; accounted to
 * the byte; and MPI's own where there can be no such memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "mpilora/grid.h"

enum { FLOATS = 700001, TIMES = 3000 };
static const int64_t sizes[] = {0, 1, 3, 1024, 1025, 4099, 32768, 65537, 262145, FLOATS};
enum { SIZES = sizeof sizes / sizeof *sizes };
static float *x, *y;

static float addend(int rank, int64_t i)
{
    uint32_t bits = (uint32_t)i * 2654435761U + (uint32_t)rank * 40503U;
    bits ^= bits >> 15;
    return ((float)(bits % 20011U) - 10005.0F) * (float)(1U << (bits / 65536U % 21U));
}

static void fill(float *to, int rank, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = addend(rank, i);
}

/* World ranks of a group, in its order. */
static int world_rank(const ml_grid *grid, ml_group group, int member)
{
    if (group == ML_GROUP_TP) return ml_grid_rank_at(grid, 0, ml_grid_dp_rank(grid), member);
    if (group == ML_GROUP_DP) return ml_grid_rank_at(grid, 0, member, ml_grid_tp_rank(grid));
    return member;
}

static void check_order(const ml_grid *grid, ml_group group, int64_t n)
{
    int size = ml_grid_group_size(grid, group);
    for (int64_t i = 0; i < n; i++) {
        float sum = addend(world_rank(grid, group, 0), i);
        for (int m = 1; m < size; m++) sum += addend(world_rank(grid, group, m), i);
        if (memcmp(&sum, &x[i], sizeof sum) != 0)
            fail_msg("group %d of %d, %lld floats, [%lld]: %.9g, expected %.9g", (int)group, size,
                     (long long)n, (long long)i, (double)x[i], (double)sum);
    }
}

/* Neighbours first: of members [first, first + count), a power of two of them, or three. */
static float tree_of(const ml_grid *grid, ml_group group, int first, int count, int64_t i)
{
    if (count == 1) return addend(world_rank(grid, group, first), i);
    int left = count == 3 ? 2 : count / 2;
    return tree_of(grid, group, first, left, i) +
           tree_of(grid, group, first + left, count - left, i);
}

static void check_ordered(const ml_grid *grid, ml_group group, int64_t n)
{
    fill(x, ml_grid_rank(grid), n);
    ml_grid_sum_ordered(grid, group, x, n);
    for (int64_t i = 0; i < n; i++) {
        float sum = tree_of(grid, group, 0, ml_grid_group_size(grid, group), i);
        if (memcmp(&sum, &x[i], sizeof sum) != 0)
            fail_msg("group %d, %lld floats, [%lld]: %.9g, a tree gives %.9g", (int)group,
                     (long long)n, (long long)i, (double)x[i], (double)sum);
    }
}

/* Every rank of the group has rank 0's bytes. */
static void check_same(const ml_grid *grid, ml_group group, int64_t n)
{
    memcpy(y, x, (size_t)n * sizeof *x);
    ml_grid_broadcast(grid, group, 0, y, n * (int64_t)sizeof *x);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
}

static void check_halves(const ml_grid *grid, ml_group group, int64_t n)
{
    int size = ml_grid_group_size(grid, group), rank = ml_grid_group_rank(grid, group);
    int64_t first = ml_part_start(n, size, rank), end = first + ml_part_count(n, size, rank);
    fill(x, ml_grid_rank(grid), n);
    ml_grid_reduce_scatter_float(grid, group, x, n);
    for (int64_t i = 0; i < n; i++)
        if (i < first || i >= end) x[i] = NAN;
    ml_grid_allgather_float(grid, group, x, n);
    check_order(grid, group, n);
}

static const ml_group groups[] = {ML_GROUP_WORLD, ML_GROUP_TP, ML_GROUP_DP, ML_GROUP_STAGE};

static void check_grid(const ml_grid *grid)
{
    for (int s = 0; s < SIZES; s++)
        for (int g = 0; g < 4; g++) {
            int64_t n = sizes[s], before = ml_grid_summed_bytes(grid, groups[g]);
            fill(x, ml_grid_rank(grid), n);
            ml_grid_sum_float(grid, groups[g], x, n);
            check_order(grid, groups[g], n);
            assert_int_equal(ml_grid_summed_bytes(grid, groups[g]) - before,
                             ml_grid_group_size(grid, groups[g]) > 1 ? 4 * n : 0);
            check_halves(grid, groups[g], n);
        }
}

static void sums_are_exact_and_alike(void **state)
{
    (void)state;
    int ranks = ml_grid_world_size();
    for (int tp = 1; tp <= ranks; tp *= 2) {
        ml_grid *grid;
        int64_t before = ml_memory_current(ML_MEM_COMMUNICATION);
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        assert_int_equal(ml_grid_shares_sums(grid, ML_GROUP_WORLD), ranks > 1);
        assert_int_equal(ml_grid_shares_sums(grid, ML_GROUP_TP), tp > 1);
        assert_int_equal(ml_grid_sums_bytes(ranks) > 0, ranks > 1);
        int64_t held = ml_memory_current(ML_MEM_COMMUNICATION) - before;
        assert_in_range(held - ml_grid_sums_bytes(ranks), 0, 4096);
        check_grid(grid);
        for (int copies = 1; copies <= tp; copies *= 2) {
            ml_grid_group_heads(grid, copies);
            assert_int_equal(ml_grid_shares_sums(grid, ML_GROUP_HEAD_TP), copies > 1);
            for (int64_t n = 1; n <= 4099; n += 2049) {
                for (int64_t i = 0; i < n; i++) x[i] = (float)i;
                ml_grid_sum_float(grid, ML_GROUP_HEAD_TP, x, n);
                ml_grid_sum_float(grid, ML_GROUP_HEAD, x, n);
                for (int64_t i = 0; i < n; i++)
                    assert_true(x[i] == (float)(i * copies * copies * (ranks / tp)));
            }
        }
        ml_grid_destroy(grid);
        assert_int_equal(ml_memory_current(ML_MEM_COMMUNICATION), before);
    }
}

/* The same, of vectors in memory that the other ranks map. */
static void mapped_vectors_give_the_same(void **state)
{
    (void)state;
    ml_shareable block;
    float *plain = x;
    ml_memory_share(true);
    x = ml_memory_alloc_shareable(FLOATS + 16, sizeof *x, ML_MEM_OTHER, "a vector");
    assert_non_null(x);
    assert_true(ml_memory_find_shareable(x, &block));
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        check_grid(grid);
        ml_grid_destroy(grid);
    }
    ml_memory_free(x);
    assert_false(ml_memory_find_shareable(x, &block));
    x = plain;
}

/* Of each other rank's vector one's own part, and that rank's part of the sum, where it is mapped:
 * from SEGMENT_LONG to SEGMENT_MAPPED floats. */
static void what_is_mapped_is_counted(void **state)
{
    (void)state;
    assert_int_equal(ml_grid_mapped_bytes(0, 1 << 20), 0);
    assert_int_equal(ml_grid_mapped_bytes(1, 1 << 20), 0);
    assert_int_equal(ml_grid_mapped_bytes(2, 1 << 20), 4 << 20);
    assert_int_equal(ml_grid_mapped_bytes(4, 1 << 20), 6 << 20);
    assert_int_equal(ml_grid_mapped_bytes(2, (1 << 17) - 1), 0);
    assert_int_equal(ml_grid_mapped_bytes(2, 1 << 17), 1 << 19);
    assert_int_equal(ml_grid_mapped_bytes(2, (1 << 24) + 1), 0);
    assert_int_equal(ml_grid_mapped_bytes(33, 1 << 20), 0);
}

/* The same tree in shared memory and by messages. */
static void ordered_sums_are_trees(void **state)
{
    (void)state;
    for (int tp = 1; tp <= ml_grid_world_size(); tp *= 2) {
        ml_grid *grid;
        assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
        for (int by_mpi = 0; by_mpi < 2; by_mpi++) {
            ml_grid_sum_by_mpi(grid, by_mpi);
            for (int s = 0; s < SIZES; s++) {
                check_ordered(grid, ML_GROUP_TP, sizes[s]);
                check_ordered(grid, ML_GROUP_DP, sizes[s]);
            }
        }
        ml_grid_sum_by_mpi(grid, false);
        ml_grid_destroy(grid);
    }
}

/* Of two ranks a sum has one order only. */
static void two_ranks_sum_as_mpi_does(void **state)
{
    (void)state;
    ml_grid *grid;
    int tp = ml_grid_world_size() > 1 ? 2 : 1;
    assert_int_equal(ml_grid_create(&grid, tp), ML_OK);
    for (int s = 0; s < SIZES; s++) {
        int64_t n = sizes[s];
        fill(x, ml_grid_rank(grid), n);
        fill(y, ml_grid_rank(grid), n);
        ml_grid_sum_float(grid, ML_GROUP_TP, x, n);
        ml_grid_sum_by_mpi(grid, true);
        assert_false(ml_grid_shares_sums(grid, ML_GROUP_TP));
        ml_grid_sum_float(grid, ML_GROUP_TP, y, n);
        ml_grid_sum_by_mpi(grid, false);
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
    }
    ml_grid_destroy(grid);
}

static float with_payload(uint32_t payload)
{
    float nan;
    uint32_t bits = 0x7fc00000U | payload;
    memcpy(&nan, &bits, sizeof nan);
    return nan;
}

/* Ranks bring NaN of their own, infinities of both signs; vectors begin anywhere. */
static void what_is_not_finite_goes_through(void **state)
{
    (void)state;
    ml_grid *grid;
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    int rank = ml_grid_rank(grid), size = ml_grid_size(grid);
    for (int s = 1; s < SIZES - 1; s++) {
        int64_t n = sizes[s];
        float *from = x + rank; /* other alignments on other ranks */
        for (int64_t i = 0; i < n; i++)
            from[i] = i % 4 == 0   ? with_payload((uint32_t)(rank + 1))
                      : i % 4 == 1 ? (rank == size - 1 ? INFINITY : 1.0F)
                      : i % 4 == 2 ? (rank == 0 ? INFINITY : -INFINITY)
                                   : (rank == 0 ? with_payload(77) : 1.0F);
        ml_grid_sum_float(grid, ML_GROUP_WORLD, from, n);
        for (int64_t i = 0; i < n; i++) {
            bool nan = i % 4 == 0 || i % 4 == 3 || (i % 4 == 2 && size > 1);
            if (nan ? !isnan(from[i]) : from[i] != INFINITY)
                fail_msg("%lld floats, [%lld]: %g", (long long)n, (long long)i, (double)from[i]);
        }
        memmove(x, from, (size_t)n * sizeof *x);
        check_same(grid, ML_GROUP_WORLD, n);
    }
    ml_grid_destroy(grid);
}

/* Tp and dp in turn, as a step has them, thousands of times, between other collectives. */
static void groups_take_turns(void **state)
{
    (void)state;
    ml_grid *grid;
    assert_int_equal(ml_grid_create(&grid, ml_grid_world_size() > 1 ? 2 : 1), ML_OK);
    float tp = (float)ml_grid_tp(grid), dp = (float)ml_grid_dp(grid);
    for (int time = 0; time < TIMES; time++) {
        int64_t n = 1 + (int64_t)time * 7919 % (time % 50 == 0 ? 70000 : 1500);
        for (int64_t i = 0; i < n; i++) x[i] = (float)((i + time) % 1000);
        ml_grid_sum_float(grid, time % 3 == 0 ? ML_GROUP_DP : ML_GROUP_TP, x, n);
        ml_grid_sum_float(grid, time % 3 == 0 ? ML_GROUP_TP : ML_GROUP_DP, x, n);
        if (time % 4 == 0) ml_grid_sum_float(grid, ML_GROUP_TP, x, n);
        float factor = tp * dp * (time % 4 == 0 ? tp : 1.0F);
        for (int64_t i = 0; i < n; i++)
            if (x[i] != factor * (float)((i + time) % 1000))
                fail_msg("time %d, [%lld] of %lld: %g", time, (long long)i, (long long)n,
                         (double)x[i]);
    }
    ml_grid_destroy(grid);
}

static void check_mpi_sums(void)
{
    ml_grid *grid;
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    assert_false(ml_grid_shares_sums(grid, ML_GROUP_WORLD));
    for (int64_t i = 0; i < 5000; i++) x[i] = (float)i;
    ml_grid_sum_float(grid, ML_GROUP_WORLD, x, 5000);
    for (int64_t i = 0; i < 5000; i++) assert_true(x[i] == (float)(i * ml_grid_size(grid)));
    ml_grid_destroy(grid);
}

static void mpi_sums_where_it_has_to(void **state)
{
    (void)state;
    struct rlimit before, small;
    ml_grid *grid;
    setenv("MPILORA_SUMS", "mpi", 1);
    assert_int_equal(ml_grid_sums_bytes(4), 0);
    check_mpi_sums();
    setenv("MPILORA_SUMS", "fast", 1);
    assert_int_equal(ml_grid_create(&grid, 1), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "MPILORA_SUMS: 'fast', expected auto"));
    unsetenv("MPILORA_SUMS");

    /* One rank that cannot make a file of that size is enough. */
    setenv("MPILORA_SHARED_MEMORY", "file", 1);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 4096;
    if (ml_grid_world_rank() == 0) setrlimit(RLIMIT_FSIZE, &small);
    check_mpi_sums();
    if (ml_grid_world_rank() == 0) setrlimit(RLIMIT_FSIZE, &before);

    setenv("MPILORA_SHARED_MEMORY", "window", 1);
    assert_int_equal(ml_grid_create(&grid, 1), ML_OK);
    assert_int_equal(ml_grid_shares_sums(grid, ML_GROUP_WORLD), ml_grid_size(grid) > 1);
    check_grid(grid);
    ml_grid_destroy(grid);
    unsetenv("MPILORA_SHARED_MEMORY");
}

int main(int argc, char **argv)
{
    if (ml_grid_start(&argc, &argv) != ML_OK) return 1;
    ml_log_enable(ml_grid_world_rank() == 0);
    x = calloc(FLOATS + 16, sizeof *x);
    y = calloc(FLOATS + 16, sizeof *y);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_exact_and_alike),
        cmocka_unit_test(mapped_vectors_give_the_same),
        cmocka_unit_test(what_is_mapped_is_counted),
        cmocka_unit_test(ordered_sums_are_trees),
        cmocka_unit_test(two_ranks_sum_as_mpi_does),
        cmocka_unit_test(what_is_not_finite_goes_through),
        cmocka_unit_test(groups_take_turns),
        cmocka_unit_test(mpi_sums_where_it_has_to),
    };
    int failed = !x || !y || cmocka_run_group_tests(tests, NULL, NULL);
    free(x);
    free(y);
    ml_grid_stop();
    return failed;
}
