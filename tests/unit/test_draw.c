/* What a method draws: any rank's part of a tensor is that part of the whole one, and nothing is
 * written beyond it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "peft/peft_private.h"

enum { ROWS = 9, COLS = 5, GUARD = 64 };
static const float untouched = 7.0f; /* beyond what is drawn, which is less than 1 */

static void check_part(ml_shard shard)
{
    ml_parameter item = {
        .name = "layers.0.attn.q.A", .rows = ROWS, .cols = COLS, .shard.dim = ML_SHARD_WHOLE};
    float whole[ROWS * COLS], expected[ROWS * COLS], drawn[ROWS * COLS + GUARD];
    peft_draw_uniform(&item, 3, whole);
    ml_shard_take(&shard, ROWS, COLS, whole, expected);
    for (int i = 0; i < ROWS * COLS + GUARD; i++) drawn[i] = untouched;
    item.shard = shard;
    peft_draw_uniform(&item, 3, drawn);
    int64_t count = ml_shard_rows(&shard, ROWS) * ml_shard_cols(&shard, COLS);
    assert_memory_equal(drawn, expected, (size_t)count * sizeof *drawn);
    for (int64_t i = count; i < ROWS * COLS + GUARD; i++) assert_true(drawn[i] == untouched);
}

static void parts_are_those_of_the_whole(void **state)
{
    (void)state;
    check_part((ml_shard){.dim = ML_SHARD_WHOLE});
    check_part((ml_shard){.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{3, 4}}});
    check_part((ml_shard){.dim = ML_SHARD_ROWS, .nparts = 3, .part = {{0, 1}, {4, 2}, {8, 1}}});
    check_part((ml_shard){.dim = ML_SHARD_COLS, .nparts = 1, .part = {{2, 3}}});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_are_those_of_the_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
