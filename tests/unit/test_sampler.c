/* sampler: every epoch is a permutation, a pure function of seed and position; cutting; the bound
 * on tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "mpilora/data.h"

enum { N = 100 };
static ml_dataset *data;

/* Sequence i has i % 7 + 2 tokens, of which only the last is a target. */
static int make_data(void **state)
{
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "test_sampler-%ld.h5", (long)getpid());
    ml_dataset_writer *writer;
    if (ml_dataset_writer_create(&writer, path, 10, "", 0) != ML_OK) return 1;
    for (int i = 0; i < N; i++) {
        int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        uint8_t mask[8] = {0};
        int64_t count = i % 7 + 2;
        mask[count - 1] = 1;
        if (ml_dataset_writer_add(writer, tokens, mask, count) != ML_OK) return 1;
    }
    if (ml_dataset_writer_finish(writer) != ML_OK) return 1;
    ml_status st = ml_dataset_open(&data, path);
    unlink(path);
    return st != ML_OK;
}

static int drop_data(void **state)
{
    (void)state;
    ml_dataset_destroy(data);
    return 0;
}

static ml_sampler *sampler(int64_t max_len, bool shuffle, uint64_t seed)
{
    ml_sampler *s = NULL;
    assert_int_equal(
        ml_sampler_create(&s, data, max_len, &(ml_sampler_order){.shuffle = shuffle, .seed = seed}),
        ML_OK);
    return s;
}

static void file_order_wraps_round(void **state)
{
    (void)state;
    ml_sampler *s = sampler(100, false, 1);
    assert_int_equal(ml_sampler_usable(s), N);
    for (int64_t p = 0; p < 3 * N; p++) assert_int_equal(ml_sampler_at(s, p), p % N);
    ml_sampler_destroy(s);
}

static void an_epoch_is_a_permutation(void **state)
{
    (void)state;
    ml_sampler *s = sampler(100, true, 7);
    int same_place = 0;
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        int seen[N] = {0};
        for (int64_t p = 0; p < N; p++) {
            int64_t i = ml_sampler_at(s, epoch * N + p);
            assert_in_range(i, 0, N - 1);
            assert_int_equal(seen[i]++, 0);
            same_place += i == p;
        }
    }
    assert_in_range(same_place, 0, 20); /* expected 1 an epoch */
    ml_sampler_destroy(s);
}

static void the_order_depends_on_seed_and_position_only(void **state)
{
    (void)state;
    ml_sampler *a = sampler(100, true, 7), *b = sampler(100, true, 7), *c = sampler(100, true, 8);
    int different = 0, repeated = 0;
    for (int64_t p = 3 * N - 1; p >= 0; p--) {
        assert_int_equal(ml_sampler_at(a, 3 * N - 1 - p),
                         ml_sampler_at(b, 3 * N - 1 - p)); /* a also goes back and forth */
        different += ml_sampler_at(a, p) != ml_sampler_at(c, p);
        repeated += ml_sampler_at(a, p) == ml_sampler_at(a, p + N);
    }
    assert_true(different > 2 * N);
    assert_true(repeated < N);
    ml_sampler_destroy(a);
    ml_sampler_destroy(b);
    ml_sampler_destroy(c);
}

static void cutting_skips_sequences_without_a_target(void **state)
{
    (void)state;
    ml_sampler *s = sampler(
        4, true, 1); /* lengths 2 to 8, the last token the only target: 5 and longer lose it */
    int64_t usable = 0;
    for (int i = 0; i < N; i++) usable += i % 7 + 2 <= 4;
    assert_int_equal(ml_sampler_usable(s), usable);
    assert_int_equal(ml_sampler_skipped(s), N - usable);
    assert_int_equal(ml_sampler_cut(s), N - usable);
    for (int64_t p = 0; p < 2 * usable; p++)
        assert_in_range(ml_dataset_length(data, ml_sampler_at(s, p), 0), 2, 4);
    ml_sampler_destroy(s);
    assert_int_equal(
        ml_sampler_create(&s, data, 1, &(ml_sampler_order){.shuffle = true, .seed = 1}), ML_USAGE);
}

static void no_window_has_more_tokens_than_the_bound(void **state)
{
    (void)state;
    ml_sampler *s = sampler(6, false, 1), *shuffled = sampler(6, true, 1);
    assert_int_equal(ml_sampler_most_tokens(s, 1), 6);
    assert_int_equal(ml_sampler_usable(s), 72); /* lengths 2 to 6: 15, 15, 14, 14, 14 of them */
    assert_int_equal(ml_sampler_most_tokens(s, 15), 14 * 6 + 5);
    assert_int_equal(ml_sampler_most_tokens(s, 72), 15 * (2 + 3) + 14 * (4 + 5 + 6));
    assert_int_equal(ml_sampler_most_tokens(shuffled, 15), 15 * 6);
    for (int64_t micro = 1; micro < 2 * N; micro += 13)
        for (int64_t p = 0; p < 3 * N; p++) {
            int64_t tokens = 0, tokens_shuffled = 0;
            for (int64_t q = p; q < p + micro; q++) {
                tokens += ml_dataset_length(data, ml_sampler_at(s, q), 6);
                tokens_shuffled += ml_dataset_length(data, ml_sampler_at(shuffled, q), 6);
            }
            assert_true(tokens <= ml_sampler_most_tokens(s, micro));
            assert_true(tokens_shuffled <= ml_sampler_most_tokens(shuffled, micro));
        }
    ml_sampler_destroy(s);
    ml_sampler_destroy(shuffled);
}

/* Of 1,500 pairs the first thousand chosen answers, their rejected ones, and the rest likewise; an
 * answer that loses its target is left out. */
static void pairs_stand_in_blocks(void **state)
{
    (void)state;
    enum { PAIRS_HERE = 1500, LEFT_OUT = 3 };
    ml_dataset_writer *writer;
    ml_dataset *pairs = NULL;
    ml_sampler *s = NULL;
    const char *path = "test_sampler-pairs.h5";
    assert_int_equal(ml_dataset_writer_create(&writer, path, 10, "", 0), ML_OK);
    ml_dataset_writer_mark_pairs(writer);
    for (int i = 0; i < 2 * PAIRS_HERE; i++) {
        int32_t tokens[] = {1, 2, 3};
        uint8_t mask[] = {0, i != 2 * LEFT_OUT + 1, 1};
        assert_int_equal(ml_dataset_writer_add(writer, tokens, mask, 3), ML_OK);
    }
    assert_int_equal(ml_dataset_writer_finish(writer), ML_OK);
    assert_int_equal(ml_dataset_open(&pairs, path), ML_OK);
    unlink(path);
    const ml_sampler_order order = {.apart = true, .blocks = true};
    assert_int_equal(ml_sampler_create(&s, pairs, 2, &order), ML_OK);
    int64_t at = 0;
    for (int first = 0; first < PAIRS_HERE; first += ML_PAIR_BLOCK)
        for (int side = 0; side < 2; side++)
            for (int k = first; k < first + ML_PAIR_BLOCK && k < PAIRS_HERE; k++)
                if (2 * k + side != 2 * LEFT_OUT + 1)
                    assert_int_equal(ml_sampler_at(s, at++), 2 * k + side);
    assert_int_equal(ml_sampler_usable(s), at);
    assert_false(ml_sampler_alternates(s));
    ml_sampler_destroy(s);
    ml_dataset_destroy(pairs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_order_wraps_round),
        cmocka_unit_test(an_epoch_is_a_permutation),
        cmocka_unit_test(the_order_depends_on_seed_and_position_only),
        cmocka_unit_test(cutting_skips_sequences_without_a_target),
        cmocka_unit_test(no_window_has_more_tokens_than_the_bound),
        cmocka_unit_test(pairs_stand_in_blocks),
    };
    return cmocka_run_group_tests(tests, make_data, drop_data);
}
