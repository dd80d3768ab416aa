/* Quantisers: the bytes of the gguf package, the errors of ggml's search
 * (tests/interop/make_quantise_golden.py makes these values), fp16 for every number, and what no
 * block can hold. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mpilora/base.h"
#include "mpilora/blocks.h"

enum { WHOLE = 256, BLOCKS = 512, COUNT = WHOLE * BLOCKS };

static uint64_t state_of_numbers;

static uint32_t next_number(void)
{
    state_of_numbers = (state_of_numbers * 1103515245U + 12345U) % (1U << 31);
    return (uint32_t)(state_of_numbers >> 15);
}

/* As numbers() of the script: every operation is exact or rounded once. */
static float *make_numbers(void)
{
    float *x = malloc(COUNT * sizeof *x);
    assert_non_null(x);
    state_of_numbers = 12345;
    for (int i = 0; i < BLOCKS; i++) {
        float *row = x + WHOLE * i;
        for (int j = 0; j < WHOLE; j++) {
            double sum = next_number();
            sum += next_number();
            sum += next_number();
            row[j] = (float)((sum - 98304) / 65536) * ldexpf(1, i % 16 - 14);
        }
        if (i % 16 == 3) memset(row + 128, 0, 128 * sizeof *row);
        if (i % 16 == 5) row[i % 256] *= 64;
        float first = row[0];
        for (int j = 0; j < WHOLE; j++) {
            if (i % 16 == 7) row[j] = first;
            if (i % 16 == 9) row[j] += first * 8;
        }
    }
    return x;
}

static const struct {
    const char *name, *sha256;
} exact[] = {
    {"Q8_0", "39ec888c83b9c9788d7f6f36e60a7f7f99a1ce3007b3b610220c770ca0261641"},
    {"Q4_0", "5404129118eca6461eef8493f3d7a3e19da5112f63063c7b5ea95e4783643219"},
    {"Q4_1", "6d354f16a026029da591942c88cbd33d3520c6b9e4d3a7af4edc19175581e772"},
    {"Q5_0", "f94b62d66c0d1861b2eeebf14101f251d934c44c0eca80ef3968b4c80b4ce2fc"},
    {"Q5_1", "7867e3f272470b8819781479224402f49a57ebb4b204750373293903593857a2"},
    {"MXFP4", "7923c3f401f8f7607f5bbb747ee85686e6dd4a150284c39b41e46b40c57c2bc0"},
};

static const struct {
    const char *name;
    double lost; /* of ggml */
} searched[] = {{"Q4_K", 49.24198220494629},
                {"Q5_K", 12.644187464254985},
                {"Q6_K", 3.0068649296602405},
                {"IQ4_NL", 58.33126123725678}};

static double quantise(const char *name, const float *x, uint8_t *out, char hex[ML_SHA256_HEX])
{
    const ml_block_format *f = ml_block_format_named(name);
    ml_block_error error = {0};
    int64_t count = COUNT / f->weights;
    assert_int_equal(ml_block_quantise(f, x, count, out, &error), -1);
    ml_sha256_of(out, (size_t)(count * f->bytes), hex);
    return error.lost;
}

static void bytes_are_those_of_the_gguf_package(void **state)
{
    (void)state;
    float *x = make_numbers();
    uint8_t *out = malloc(2 * COUNT);
    char hex[ML_SHA256_HEX];
    assert_non_null(out);
    ml_sha256_of(x, COUNT * sizeof *x, hex);
    assert_string_equal(hex, "0f987cf856fd6ec8d49682f12818c2b4eb38f39adff064e4aba92ff20be15adf");
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        quantise(exact[i].name, x, out, hex);
        assert_string_equal(hex, exact[i].sha256);
    }
    free(out);
    free(x);
}

static void errors_are_not_above_those_of_ggml(void **state)
{
    (void)state;
    float *x = make_numbers();
    uint8_t *out = malloc(2 * COUNT);
    char hex[ML_SHA256_HEX];
    assert_non_null(out);
    for (size_t i = 0; i < sizeof searched / sizeof *searched; i++) {
        double lost = quantise(searched[i].name, x, out, hex);
        assert_true(lost <= searched[i].lost * (1 + 1e-9) && lost > 0.9 * searched[i].lost);
    }
    free(out);
    free(x);
}

/* fp16 numbers come back, and what lies between two goes to the nearer, or the even one. */
static void halves_round_to_nearest(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = ml_half_to_float((uint16_t)h), high = ml_half_to_float((uint16_t)(h + 1));
        assert_int_equal(ml_half_from_float(low), h);
        assert_int_equal(ml_half_from_float(-low), h | 0x8000);
        if (h == 0x7bff) high = 65536; /* where Inf begins, as rounding sees it */
        float middle = low + (high - low) / 2;
        assert_int_equal(ml_half_from_float(middle), h % 2 ? h + 1 : h);
        assert_int_equal(ml_half_from_float(nextafterf(middle, 0)), h);
        assert_int_equal(ml_half_from_float(nextafterf(middle, 1e9F)), h + 1);
    }
    assert_int_equal(ml_half_from_float(INFINITY), 0x7c00);
    assert_int_equal(ml_half_from_float(1e20F), 0x7c00);
    assert_true(isnan(ml_half_to_float(ml_half_from_float(NAN))));
}

/* One block of sixteen is odd: the largest number with both signs, one beside a power of two, a
 * least one of 0 or −0. */
static void put_odd_blocks(float *x, int count)
{
    for (int g = 0; g < count / (32 * 16); g++) {
        float *b = x + 32 * (16 * g + 5);
        bool low = g % 6 > 3;
        for (int i = 0; low && i < 32; i++) b[i] = fabsf(b[i]) + 1;
        b[3] = low ? (g % 2 ? 0 : -0.0F) : g % 6 == 0 ? 64 : g % 6 == 1 ? -64 : 0x1.fffffep5F;
        b[9] = low ? -b[3] : g % 6 < 2 ? -b[3] : b[9];
    }
}

/* The format's own function, one block after the other, is the reference: also of zeros with signs,
 * of numbers next to fp32's and fp16's ends, and of counts that lanes do not divide. */
static void bytes_do_not_depend_on_instructions(void **state)
{
    (void)state;
    enum { SOME = 4091 };
    static const float odd[] = {0,      -0.0F,    1e-45F, -1e-45F, 1e-38F,         6e-8F,
                                65504,  -60000,   1,      -1,      0x1.fffffep-3F, 0x1.fffp9F,
                                1e-15F, 9.9e-16F, -0.0F,  0};
    float *x = make_numbers();
    uint8_t *out = malloc(2 * COUNT), block[ML_BLOCK_BYTES_MOST];
    assert_non_null(out);
    for (int i = 0; i < 64 * WHOLE; i++)
        x[i] = odd[(i * 7 + i / 32 * i / 5) % 16] * (i / 512 % 2 ? 1 : 0.01F);
    for (int i = 0; i < 8 * WHOLE; i++) x[i] = i / 64 % 2 ? -0.0F : 0;
    for (int i = 128 * WHOLE; i < 256 * WHOLE; i++) x[i] = sinf((float)i) + 0.001F;
    put_odd_blocks(x + 128 * WHOLE, 128 * WHOLE);
    for (ml_dtype d = ML_Q8_0; d < ML_DTYPES; d++) {
        const ml_block_format *f = ml_block_format_of(d);
        int64_t count = f->weights > 32 ? BLOCKS - 1 : SOME;
        ml_block_error error = {0}, alone = {0};
        assert_int_equal(ml_block_quantise(f, x, count, out, &error), -1);
        for (int64_t i = 0; i < count; i++) {
            f->quantise(x + i * f->weights, block);
            assert_memory_equal(block, out + i * f->bytes, (size_t)f->bytes);
            assert_int_equal(ml_block_quantise(f, x + i * f->weights, 1, block, &alone), -1);
        }
        assert_true(fabs(error.lost - alone.lost) <= 1e-12 * alone.lost);
        assert_true(fabs(error.whole - alone.whole) <= 1e-12 * alone.whole);
    }
    free(out);
    free(x);
}

static void what_blocks_cannot_hold_is_named(void **state)
{
    (void)state;
    static const float wrong[] = {NAN, INFINITY, -INFINITY, 3e38F, -1e10F};
    static float x[4 * WHOLE];
    static uint8_t out[8 * WHOLE];
    for (ml_dtype d = ML_Q8_0; d < ML_DTYPES; d++) {
        const ml_block_format *f = ml_block_format_of(d);
        if (!f->quantise) continue;
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            if (d == ML_MXFP4 && isfinite(wrong[i])) continue; /* its exponents reach that far */
            ml_block_error error = {0};
            int64_t count = 4 * WHOLE / f->weights, bad = count / 2;
            for (int j = 0; j < 4 * WHOLE; j++) x[j] = 0.01F * (float)(j % 37);
            x[bad * f->weights + 5] = wrong[i];
            x[(bad + 1) * f->weights] = wrong[i];
            assert_int_equal(ml_block_quantise(f, x, count, out, &error), bad);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_those_of_the_gguf_package),
        cmocka_unit_test(errors_are_not_above_those_of_ggml),
        cmocka_unit_test(bytes_do_not_depend_on_instructions),
        cmocka_unit_test(halves_round_to_nearest),
        cmocka_unit_test(what_blocks_cannot_hold_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
