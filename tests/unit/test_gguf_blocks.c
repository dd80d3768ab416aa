/* GGUF's blocks: every quantised type against values of the gguf package
 * (tests/interop/check_gguf.py --golden), scales that are no numbers, parts of rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "store/formats/gguf/gguf.h"

typedef struct golden {
    int type;
    int halves[2]; /* where the block has its scales; −1: none */
    struct {
        int at;
        float value;
    } chosen[12];
    double sum;
} golden;

static const golden goldens[] = {
    {8,
     {0, -1},
     {{0, 0x1.3dfe000000000p+0F},
      {1, -0x1.0ec4000000000p+0F},
      {15, 0x1.5408000000000p+0F},
      {16, -0x1.2e40000000000p-5F},
      {31, 0x1.6a12000000000p+0F}},
     9.211639404296875},
    {2,
     {0, -1},
     {{0, -0x1.2e40000000000p-5F},
      {1, 0x1.9300000000000p-6F},
      {15, 0x1.9300000000000p-5F},
      {16, -0x1.9300000000000p-6F},
      {31, -0x1.9300000000000p-6F}},
     -0.012298583984375},
    {3,
     {0, 2},
     {{0, 0x1.9718000000000p-3F},
      {1, 0x1.64b8000000000p-3F},
      {15, 0x1.d480000000000p-7F},
      {16, 0x1.b3c0000000000p-6F},
      {31, 0x1.b3c0000000000p-6F}},
     3.569061279296875},
    {6,
     {0, -1},
     {{0, 0x1.4770000000000p-3F},
      {1, -0x1.2e40000000000p-4F},
      {15, 0x1.c560000000000p-4F},
      {16, 0x1.9300000000000p-7F},
      {31, 0x1.9300000000000p-7F}},
     0.36895751953125},
    {7,
     {0, 2},
     {{0, 0x1.5614000000000p-2F},
      {1, 0x1.171c000000000p-2F},
      {15, 0x1.b048000000000p-3F},
      {16, 0x1.7bdc000000000p-2F},
      {31, 0x1.68d0000000000p-4F}},
     7.14794921875},
    {10,
     {80, 82},
     {{0, -0x1.e540000000000p-4F},
      {1, -0x1.39d4000000000p+0F},
      {15, 0x1.fa58000000000p-1F},
      {16, 0x0p+0F},
      {31, 0x0p+0F},
      {32, 0x1.6da0000000000p-2F},
      {63, 0x1.ce30000000000p-1F},
      {64, 0x1.03bf000000000p+2F},
      {100, 0x1.c09e000000000p+1F},
      {129, -0x1.3650000000000p-2F},
      {200, 0x1.e40e000000000p+1F},
      {255, -0x1.51f8000000000p-1F}},
     196.546875},
    {11,
     {108, -1},
     {{0, 0x1.33f8000000000p+3F},
      {1, 0x1.33f8000000000p+1F},
      {15, 0x1.33f8000000000p+3F},
      {16, 0x1.ecc0000000000p+0F},
      {31, -0x1.7190000000000p+2F},
      {32, -0x1.80f6000000000p+2F},
      {63, 0x1.cdf4000000000p+1F},
      {64, -0x1.435e000000000p+3F},
      {100, -0x1.2c45000000000p+3F},
      {129, -0x1.ecc0000000000p-1F},
      {200, 0x0p+0F},
      {255, 0x1.152c000000000p+3F}},
     -122.58599853515625},
    {12,
     {0, 2},
     {{0, 0x1.87a0000000000p+1F},
      {1, 0x1.0d03800000000p+2F},
      {15, 0x1.ea72000000000p+0F},
      {16, 0x1.56d3000000000p+1F},
      {31, 0x1.56d3000000000p+1F},
      {32, 0x1.ac2a800000000p+1F},
      {63, 0x1.af4b000000000p+0F},
      {64, 0x1.277a000000000p+0F},
      {100, 0x1.0394000000000p-2F},
      {129, 0x1.89ab000000000p+0F},
      {200, -0x1.69c8000000000p-3F},
      {255, 0x1.6d00800000000p+1F}},
     530.0877380371094},
    {13,
     {0, 2},
     {{0, 0x1.e89e000000000p+2F},
      {1, 0x1.88d8000000000p+0F},
      {15, 0x1.256a000000000p+2F},
      {16, 0x1.e93a000000000p+1F},
      {31, 0x1.0d03800000000p+2F},
      {32, 0x1.1cec400000000p+2F},
      {63, 0x1.4057c00000000p+2F},
      {64, 0x1.9858000000000p-1F},
      {100, 0x1.a985400000000p+2F},
      {129, 0x1.3183000000000p+0F},
      {200, -0x1.9794000000000p-2F},
      {255, 0x1.c482000000000p-1F}},
     1208.3792419433594},
    {14,
     {208, -1},
     {{0, -0x1.4d26400000000p+9F},
      {1, -0x1.7cbe000000000p+6F},
      {15, 0x1.7cbe000000000p+9F},
      {16, -0x1.1e53ec0000000p+9F},
      {31, 0x1.11e0f80000000p+9F},
      {32, 0x1.3d49000000000p+8F},
      {63, -0x1.bc33000000000p+4F},
      {64, -0x1.0c5ed00000000p+9F},
      {100, -0x1.15f47c0000000p+9F},
      {129, -0x1.a70c000000000p+5F},
      {200, 0x0p+0F},
      {255, 0x1.ebcac00000000p+5F}},
     -5424.0338134765625},
    {20,
     {0, -1},
     {{0, -0x1.b8c8000000000p-2F},
      {1, 0x1.3ad8000000000p-2F},
      {15, 0x1.4dbc000000000p-1F},
      {16, -0x1.1510000000000p-2F},
      {31, -0x1.1510000000000p-2F}},
     0.02459716796875},
    {23,
     {0, -1},
     {{0, -0x1.3ad8000000000p-2F},
      {1, 0x1.b8c8000000000p-2F},
      {15, 0x1.8fda000000000p+0F},
      {16, -0x1.b27c000000000p-1F},
      {31, 0x1.1510000000000p-2F},
      {32, -0x1.9754400000000p+3F},
      {63, -0x1.c0a7000000000p+2F},
      {64, 0x1.4770000000000p-3F},
      {100, -0x1.f49a000000000p+1F},
      {129, 0x1.c757c00000000p+3F},
      {200, 0x1.0f8d800000000p+3F},
      {255, -0x1.5a54000000000p+0F}},
     -28.225250244140625},
    {39,
     {-1, -1},
     {{0, 0x1p+94F},
      {1, 0x1.8000000000000p+94F},
      {15, -0x1p+92F},
      {16, 0x0p+0F},
      {31, 0x1.8000000000000p+95F}},
     -4.951760157141521e+28},
};

/* 0.0123 + at / 1000 in half precision. */
static uint16_t scale_at(int at)
{
    switch (at) {
    case 0:
        return 0x224c;
    case 2:
        return 0x2352;
    case 80:
        return 0x2de8;
    case 82:
        return 0x2e09;
    case 108:
        return 0x2fb3;
    default:
        return 0x330d;
    }
}

static void blocks_widen_as_gguf_says(void **state)
{
    (void)state;
    for (size_t g = 0; g < sizeof goldens / sizeof *goldens; g++) {
        const golden *want = &goldens[g];
        const ml_block_format *type = ml_block_format_numbered(want->type);
        uint8_t block[256];
        uint64_t random = 12345;
        float out[256];
        double sum = 0.0;
        for (int64_t i = 0; i < type->bytes; i++) {
            random = (random * 1103515245 + 12345) & 0x7fffffff;
            block[i] = (uint8_t)(random >> 16);
        }
        for (int h = 0; h < 2; h++) {
            int at = want->halves[h];
            if (at < 0) continue;
            block[at] = (uint8_t)scale_at(at);
            block[at + 1] = (uint8_t)(scale_at(at) >> 8);
        }
        type->decode(block, out);
        for (int i = 0; i < 12 && (i == 0 || want->chosen[i].at > 0); i++)
            if (out[want->chosen[i].at] != want->chosen[i].value)
                fail_msg("%s: value %d is %a, expected %a", type->name, want->chosen[i].at,
                         (double)out[want->chosen[i].at], (double)want->chosen[i].value);
        for (int64_t i = 0; i < type->weights; i++) sum += (double)out[i];
        assert_true(fabs(sum - want->sum) < 1e-3);
    }
    assert_null(ml_block_format_numbered(17));
    assert_string_equal(gguf_type_name(17), "IQ2_XS");
    assert_string_equal(gguf_type_name(99), "unknown");
}

/* A factor that is no finite number is found in its block; every other block passes. */
static void bad_scales_are_found(void **state)
{
    (void)state;
    for (size_t g = 0; g < sizeof goldens / sizeof *goldens; g++) {
        const ml_block_format *type = ml_block_format_numbered(goldens[g].type);
        uint8_t blocks[3][ML_BLOCK_BYTES_MOST] = {{0}}, packed[3 * ML_BLOCK_BYTES_MOST];
        for (int h = 0; h < 2; h++) {
            int at = goldens[g].halves[h];
            if (at < 0 && (h > 0 || type->number != 39)) continue;
            memset(blocks, 0, sizeof blocks);
            if (at < 0)
                blocks[2][0] = 255; /* NaN of E8M0 */
            else
                blocks[2][at + 1] = h ? 0xfc : 0x7e; /* −Inf, NaN */
            for (int i = 0; i < 3; i++)
                memcpy(packed + i * type->bytes, blocks[i], (size_t)type->bytes);
            assert_int_equal(ml_block_find_bad(type, packed, 3), 2);
            assert_int_equal(ml_block_find_bad(type, packed, 2), -1);
        }
    }
}

/* Any part of an array of blocks, across their borders. */
static void parts_of_rows_decode(void **state)
{
    (void)state;
    uint8_t blocks[4 * 24];
    float whole[128], some[128];
    for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)(i % 24 % 2 ? 0x11 : i);
    ml_dtype_decode(ML_Q5_1, blocks, 0, 128, whole);
    for (int64_t first = 0; first < 128; first += 7)
        for (int64_t count = 1; first + count <= 128; count += 13) {
            ml_dtype_decode(ML_Q5_1, blocks, first, count, some);
            assert_memory_equal(some, whole + first, (size_t)count * sizeof *some);
        }
    assert_int_equal(ml_dtype_bytes(ML_Q5_1, 128), sizeof blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_widen_as_gguf_says),
        cmocka_unit_test(bad_scales_are_found),
        cmocka_unit_test(parts_of_rows_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
