/* base: error text, accounted memory, random numbers, hashes, shards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/wait.h>
#include <unistd.h>

#include "mpilora/base.h"
#include "mpilora/shard.h"

static void error_text_is_kept_and_prefixed(void **state)
{
    (void)state;
    assert_int_equal(ml_fail(ML_INPUT, "row %d", 3), ML_INPUT);
    assert_int_equal(ml_fail_within(ML_INPUT, "file %s", "x"), ML_INPUT);
    assert_string_equal(ml_error_text(), "file x: row 3");
    assert_int_equal(ml_fail(ML_INPUT, "key \"%s\"", "a\nb"), ML_INPUT);
    assert_string_equal(ml_error_text(), "key \"a b\"");
}

static void memory_is_counted(void **state)
{
    (void)state;
    int64_t before = ml_memory_current(ML_MEM_FROZEN);
    char *block = ml_memory_alloc(10 << 20, 1, ML_MEM_FROZEN, "test");
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % 64, 0);
    assert_int_equal(block[12345], 0);
    assert_int_equal(ml_memory_current(ML_MEM_FROZEN) - before, 10 << 20);
    ml_memory_free(block);
    assert_int_equal(ml_memory_current(ML_MEM_FROZEN), before);
    assert_true(ml_memory_peak(ML_MEM_FROZEN) >= 10 << 20);
    assert_null(ml_memory_alloc(INT64_MAX, 8, ML_MEM_OTHER, "too much"));
}

#if defined(__SANITIZE_ADDRESS__)
/* In a process of its own, which is silent about it. */
static bool writing_ends_the_process(volatile char *at)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(STDERR_FILENO);
        *at = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status != 0;
}

/* Blocks are cut out of larger ones, of which the sanitizer knows the ends alone. */
static void a_step_beyond_a_block_is_seen(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 7, 64, 1000, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *block = ml_memory_alloc(sizes[i], 1, ML_MEM_OTHER, "test");
        assert_non_null(block);
        assert_false(writing_ends_the_process(block));
        assert_false(writing_ends_the_process(block + sizes[i] - 1));
        assert_true(writing_ends_the_process(block + sizes[i]));
        ml_memory_free(block);
    }
}
#endif

/* Known answers of Random123's philox4x32-10: counter and key zero, and all ones. */
static void philox_has_its_known_answers(void **state)
{
    (void)state;
    uint32_t out[4];
    ml_random_block((ml_random_key){{0, 0}}, 0, 0, out);
    assert_int_equal(out[0], 0x6627e8d5u);
    assert_int_equal(out[1], 0xe169c58du);
    assert_int_equal(out[2], 0xbc57ac4cu);
    assert_int_equal(out[3], 0x9b00dbd8u);
    ml_random_block((ml_random_key){{0xffffffffu, 0xffffffffu}}, UINT64_MAX, UINT64_MAX, out);
    assert_int_equal(out[0], 0x408f276du);
    assert_int_equal(out[3], 0x6d5451fdu);
}

/* A number is the same wherever a run starts; mean 0 and deviation 1, neighbours apart from one
 * another. */
static void runs_of_normals_agree(void **state)
{
    (void)state;
    enum { COUNT = 40000 };
    static float run[COUNT], whole[32];
    ml_random_key key = ml_random_key_make(7, "numbers");
    ml_random_normals(key, 2, 0, 32, 0.5, whole);
    for (uint64_t first = 0; first < 9; first++) {
        ml_random_normals(key, 2, first, (int64_t)first + 3, 0.5, run);
        for (uint64_t i = 0; i < first + 3; i++) assert_float_equal(run[i], whole[first + i], 0);
    }
    double sum = 0.0, squares = 0.0, neighbours = 0.0;
    ml_random_normals(key, 2, 1, COUNT, 1.0, run);
    for (int i = 0; i < COUNT; i++) {
        sum += (double)run[i];
        squares += (double)run[i] * (double)run[i];
        neighbours += i ? (double)run[i] * (double)run[i - 1] : 0.0;
    }
    assert_true(-0.02 < sum / COUNT && sum / COUNT < 0.02);
    assert_true(0.97 < squares / COUNT && squares / COUNT < 1.03);
    assert_true(-0.02 < neighbours / COUNT && neighbours / COUNT < 0.02);
}

static void sha256_of_abc(void **state)
{
    (void)state;
    char hex[ML_SHA256_HEX];
    ml_sha256_of("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void shards_take_and_put(void **state)
{
    (void)state;
    float global[12], local[6], back[12] = {0};
    for (int i = 0; i < 12; i++) global[i] = (float)i;
    ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 2, .part = {{0, 1}, {4, 2}}}; /* of 6 × 2 */
    ml_shard_take(&rows, 6, 2, global, local);
    assert_float_equal(local[0], 0, 0);
    assert_float_equal(local[2], 8, 0);
    ml_shard_put(&rows, 6, 2, local, back);
    assert_float_equal(back[11], 11, 0);
    assert_float_equal(back[2], 0, 0);
    ml_shard cols = {.dim = ML_SHARD_COLS, .nparts = 1, .part = {{2, 2}}}; /* of 3 × 4 */
    ml_shard_take(&cols, 3, 4, global, local);
    assert_float_equal(local[5], 11, 0);
    assert_int_equal(ml_shard_cols(&cols, 4), 2);
}

static void nearest_word_is_found(void **state)
{
    (void)state;
    const char *words[] = {"rank", "alpha", "dropout", NULL};
    assert_string_equal(ml_nearest_word("rnak", words), "rank");
    assert_null(ml_nearest_word("zzzzzz", words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_text_is_kept_and_prefixed),
        cmocka_unit_test(memory_is_counted),
#if defined(__SANITIZE_ADDRESS__)
        cmocka_unit_test(a_step_beyond_a_block_is_seen),
#endif
        cmocka_unit_test(philox_has_its_known_answers),
        cmocka_unit_test(runs_of_normals_agree),
        cmocka_unit_test(sha256_of_abc),
        cmocka_unit_test(shards_take_and_put),
        cmocka_unit_test(nearest_word_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
