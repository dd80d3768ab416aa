/* Products with activations of 8 bits: every instruction set against the reference, on random
 * blocks of every format and on blocks of extremes, for rows and tokens that fill no vector; what
 * rounding makes of activations; and the product that a table of kernels has with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "kernels/rounded.h"
#include "mpilora/blocks.h"

static const ml_dtype formats[] = {ML_Q8_0, ML_Q4_0, ML_Q4_1, ML_Q5_0,   ML_Q5_1,
                                   ML_Q4_K, ML_Q5_K, ML_Q6_K, ML_IQ4_NL, ML_MXFP4};
static const int64_t tokens[] = {1, 2, 3, 4, 6, 21};
static const int64_t all_rows[] = {1, 19};
#define COUNT(x) (sizeof(x) / sizeof *(x))
enum { T_MOST = 21, ROWS_MOST = 20, COLS_MOST = 1280, GAP = 3 };

static uint64_t draw(uint64_t i) { return ml_random_u64(ml_random_key_make(7, "blocks"), 0, i); }

/* Random bytes with factors that are finite: of any sign, some of them zero or subnormal. Every
 * eighth block has nearly everywhere else the same byte: the least and largest codes there are. */
static void fill_blocks(const ml_block_format *f, int64_t count, uint8_t *blocks)
{
    static const uint8_t extremes[] = {0x00, 0xff, 0x80, 0x7f, 0x81};
    for (int64_t i = 0; i < count; i++) {
        uint8_t *block = blocks + i * f->bytes;
        for (int64_t j = 0; j < f->bytes; j++) {
            uint64_t number = draw((uint64_t)(i * f->bytes + j));
            block[j] = i % 8 == 3 && j % 16 != 9 ? extremes[i / 8 % 5] : (uint8_t)number;
        }
        if (f->dtype == ML_MXFP4) block[0] = (uint8_t)(i % 7 == 1 ? i % 3 : 118 + i % 13);
        for (int j = 0; j < 2; j++)
            if (f->scales[j] >= 0)
                block[f->scales[j] + 1] =
                    (uint8_t)(i % 5 == 2 ? i % 4 : 0x1c + i % 31 + i % 2 * 128);
    }
}

static void fill_activations(int64_t T, int64_t ldx, float *x)
{
    for (int64_t i = 0; i < T * ldx; i++)
        x[i] = (float)ml_random_normal(ml_random_key_make(8, "activations"), 0, (uint64_t)i) *
               (float)(i / 97 % 5 == 0 ? 100.0 : 1.0);
    for (int64_t i = 0; i < 64; i++) x[i] = 0; /* blocks that are nothing */
}

typedef struct room {
    uint8_t blocks[ROWS_MOST * COLS_MOST * 2];
    float x[T_MOST * (COLS_MOST + GAP)], got[T_MOST * (ROWS_MOST + GAP)],
        want[T_MOST * (ROWS_MOST + GAP)];
    _Alignas(64) char rows[T_MOST * COLS_MOST * 4];
} room;
static room r;

/* What the error of a sum in fp32 may be a part of: sums of codes with their bias, which the row's
 * largest weight stands for. */
static double size_of_sum(const ml_rounded *x, const ml_weight *w, int64_t t, int64_t row)
{
    float piece[32];
    double sum = 0, most = 0;
    for (int64_t at = 0; at < w->cols; at += 32) {
        ml_dtype_decode(w->dtype, w->data, row * w->cols + at, 32, piece);
        for (int i = 0; i < 32; i++) most = fmax(most, fabs((double)piece[i]));
        for (int i = 0; i < 32; i++) sum += fabs((double)x->code[t * x->cols + at + i]);
    }
    double scale = 0;
    for (int64_t g = 0; g < x->groups; g++)
        scale = fmax(scale, fabs((double)x->scale[t * x->groups + g]));
    return sum * most * scale;
}

static void compare(const ml_rounded_set *set, int64_t T, const ml_weight *w, float beta)
{
    const ml_rounded x = ml_rounded_lay_out(T, w->cols, r.rows);
    int64_t ldx = w->cols + GAP, ldy = w->rows + GAP;
    for (int64_t i = 0; i < T * ldy; i++) r.got[i] = r.want[i] = (float)(i % 13);
    set->round(w->dtype, 0, T, r.x, ldx, &x);
    set->multiply(T, &x, w, beta, r.got, ldy);
    ml_rounded_set_reference.multiply(T, &x, w, beta, r.want, ldy);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < ldy; i++) {
            double got = (double)r.got[t * ldy + i], want = (double)r.want[t * ldy + i];
            double bound = i < w->rows ? 4e-6 * (13 + size_of_sum(&x, w, t, i)) : 0;
            if (!(fabs(got - want) <= bound))
                fail_msg("%s, %s, %lld x %lld, token %lld of %lld, row %lld: %.9g, expected %.9g",
                         set->name, ml_dtype_name(w->dtype), (long long)w->rows, (long long)w->cols,
                         (long long)t, (long long)T, (long long)i, got, want);
        }
}

static void products_of(const ml_rounded_set *set, ml_dtype dtype)
{
    const ml_block_format *f = ml_block_format_of(dtype);
    const int64_t all_cols[] = {f->weights, f->weights == 32 ? 1056 : 1280};
    for (size_t c = 0; c < COUNT(all_cols); c++) {
        fill_activations(T_MOST, all_cols[c] + GAP, r.x);
        for (size_t n = 0; n < COUNT(all_rows); n++) {
            const ml_weight w = {r.blocks, dtype, all_rows[n], all_cols[c]};
            fill_blocks(f, w.rows * w.cols / f->weights, r.blocks);
            for (size_t t = 0; t < COUNT(tokens); t++) compare(set, tokens[t], &w, (float)(t % 2));
        }
    }
}

static void products_are_right(void **state)
{
    (void)state;
    for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++)
        for (size_t f = 0; (*set)->available() && f < COUNT(formats); f++)
            products_of(*set, formats[f]);
}

/* So large that threads share the rows, which are no multiple of anything. */
static void threads_share_rows(void **state)
{
    enum { ROWS = 331, COLS = 256, T = 9 };
    (void)state;
    static uint8_t blocks[ROWS * COLS * 2];
    static float got[T * ROWS], want[T * ROWS];
    int threads = omp_get_max_threads();
    fill_activations(T, COLS, r.x);
    for (size_t f = 0; f < COUNT(formats); f++) {
        const ml_block_format *format = ml_block_format_of(formats[f]);
        const ml_weight w = {blocks, formats[f], ROWS, COLS};
        const ml_rounded x = ml_rounded_lay_out(T, COLS, r.rows);
        fill_blocks(format, ROWS * COLS / format->weights, blocks);
        for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++)
            for (int64_t n = 1; (*set)->available() && n <= T; n += 4) {
                (*set)->round(formats[f], 0, n, r.x, COLS, &x);
                omp_set_num_threads(1);
                (*set)->multiply(n, &x, &w, 0, want, ROWS);
                omp_set_num_threads(3);
                (*set)->multiply(n, &x, &w, 0, got, ROWS);
                assert_memory_equal(got, want, (size_t)(n * ROWS) * sizeof *got);
            }
    }
    omp_set_num_threads(threads);
}

/* Few rows with K formats: a block's sum is one of integers, and lanes are the same eight. */
static void vector_sets_have_the_same_bits(void **state)
{
    enum { ROWS = 19, COLS = 1280 };
    (void)state;
    static const ml_dtype kinds[] = {ML_Q4_K, ML_Q5_K, ML_Q6_K};
    if (!ml_rounded_sets[0]->available() || ml_rounded_sets[0] == &ml_rounded_set_generic) skip();
    fill_activations(4, COLS, r.x);
    for (size_t kind = 0; kind < COUNT(kinds); kind++)
        for (int64_t T = 1; T <= 4; T++) {
            const ml_block_format *format = ml_block_format_of(kinds[kind]);
            const ml_weight w = {r.blocks, kinds[kind], ROWS, COLS};
            const ml_rounded x = ml_rounded_lay_out(T, COLS, r.rows);
            float *const to[] = {r.got, r.want};
            fill_blocks(format, ROWS * COLS / format->weights, r.blocks);
            for (int i = 0; i < 2; i++) { /* AVX-512 VNNI, AVX2 */
                ml_rounded_sets[i]->round(w.dtype, 0, T, r.x, COLS, &x);
                ml_rounded_sets[i]->multiply(T, &x, &w, 0, to[i], ROWS);
            }
            assert_memory_equal(r.got, r.want, (size_t)(T * ROWS) * sizeof *r.got);
        }
}

/* Activations as they are, in three digits: sums in double of the decoded weights and of x itself,
 * to what fp32 holds of the largest weight and number of a block; the same bits with any vectors
 * and any number of threads. */
static void fine_products_of(const ml_rounded_set *set, ml_dtype dtype, int64_t T, float beta,
                             float *got)
{
    enum { ROWS = 19, COLS = 1280, LDX = COLS + GAP, LDY = ROWS + GAP };
    const ml_block_format *f = ml_block_format_of(dtype);
    const ml_weight w = {r.blocks, dtype, ROWS, COLS};
    const ml_fine x = ml_fine_lay_out(T, COLS, r.rows);
    float piece[32];
    assert_true(T * ml_fine_row_bytes(COLS) <= (int64_t)sizeof r.rows);
    fill_blocks(f, ROWS * COLS / f->weights, r.blocks);
    for (int64_t i = 0; i < T * LDY; i++) got[i] = (float)(i % 13);
    set->fine->round(dtype, T, r.x, LDX, &x);
    set->fine->multiply(T, &x, &w, beta, got, LDY);
    for (int64_t t = 0; t < T; t++)
        for (int64_t row = 0; row < LDY; row++) {
            double want = (double)((t * LDY + row) % 13), size = 13;
            if (row < ROWS && beta == 0) want = 0;
            for (int64_t at = 0; row < ROWS && at < COLS; at += 32) {
                double most_w = 0, most_x = 0;
                ml_dtype_decode(dtype, w.data, row * COLS + at, 32, piece);
                for (int i = 0; i < 32; i++) {
                    const double factor = (double)r.x[t * LDX + at + i];
                    want += (double)piece[i] * factor;
                    most_w = fmax(most_w, fabs((double)piece[i]));
                    most_x = fmax(most_x, fabs(factor));
                }
                size += 32 * most_w * most_x;
            }
            const double bound = row < ROWS ? size / (1 << 22) : 0;
            if (!(fabs((double)got[t * LDY + row] - want) <= bound))
                fail_msg("%s, %s, token %lld of %lld, row %lld: %.9g, expected %.9g", set->name,
                         ml_dtype_name(dtype), (long long)t, (long long)T, (long long)row,
                         (double)got[t * LDY + row], want);
        }
}

static void fine_products_are_those_of_fp32(void **state)
{
    (void)state;
    int threads = omp_get_max_threads();
    fill_activations(2, 1280 + GAP, r.x);
    for (size_t f = 0; f < COUNT(formats); f++)
        for (int64_t T = 1; T <= ML_FINE_TOKENS; T++) {
            const ml_rounded_set *first = NULL;
            if (formats[f] == ML_Q8_0 || formats[f] == ML_IQ4_NL) continue;
            for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++) {
                if (!(*set)->available() || !(*set)->fine || !(*set)->fine->multiply) continue;
                omp_set_num_threads(first ? 3 : 1);
                fine_products_of(*set, formats[f], T, (float)(f % 2), first ? r.got : r.want);
                if (first) assert_memory_equal(r.got, r.want, (size_t)(T * 22) * sizeof *r.got);
                first = *set;
            }
        }
    omp_set_num_threads(threads);
}

static void fine_rows_that_are_not_finite_stay_so(void **state)
{
    (void)state;
    const ml_weight w = {r.blocks, ML_Q4_0, 20, 64};
    fill_blocks(ml_block_format_of(w.dtype), 40, r.blocks);
    for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++)
        for (int bad = 0; bad < 2; bad++) {
            if (!(*set)->available() || !(*set)->fine || !(*set)->fine->multiply) continue;
            const ml_fine x = ml_fine_lay_out(2, 64, r.rows);
            fill_activations(2, 64, r.x);
            for (int i = 0; i < 32; i++) r.x[i] = i == 7 ? 1e-44F : 0; /* nearly nothing */
            r.x[32] = 1e35F;
            r.x[64 + 50] = bad ? NAN : INFINITY;
            (*set)->fine->round(w.dtype, 2, r.x, 64, &x);
            (*set)->fine->multiply(2, &x, &w, 0, r.got, 20);
            for (int64_t i = 0; i < 40; i++) assert_true(isfinite(r.got[i]) == (i < 20));
        }
}

/* The codes of the reference but where x lies half-way; never further away than half a step. */
static void rounding_is_ggmls(void **state)
{
    enum { COLS = 512 };
    (void)state;
    static const ml_dtype kinds[] = {ML_Q8_0, ML_Q6_K};
    static char other[T_MOST * COLS_MOST * 4];
    fill_activations(2, COLS, r.x);
    r.x[COLS + 5] = 1e-42F; /* a block of one subnormal number, one of the largest */
    for (int i = 0; i < 32; i++) r.x[COLS + i] = i == 5 ? 1e-42F : 0;
    for (int i = 256; i < 512; i++) r.x[COLS + i] = i % 2 ? 3e38F : -3e38F;
    for (size_t kind = 0; kind < COUNT(kinds); kind++)
        for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++) {
            if (!(*set)->available()) continue;
            const ml_rounded got = ml_rounded_lay_out(2, COLS, r.rows),
                             want = ml_rounded_lay_out(2, COLS, other);
            (*set)->round(kinds[kind], 0, 2, r.x, COLS, &got);
            ml_rounded_set_reference.round(kinds[kind], 0, 2, r.x, COLS, &want);
            assert_memory_equal(got.scale, want.scale, 2 * COLS / 32 * sizeof *got.scale);
            for (int64_t i = 0; i < 2 * COLS; i++) {
                double step = fabs((double)got.scale[i / 32]);
                assert_true(abs(got.code[i] - want.code[i]) <= 1 && got.code[i] >= -127);
                double error = (double)r.x[i] - (double)got.scale[i / 32] * got.code[i];
                if (step > 1e-40 && !(fabs(error) <= step * 0.50001))
                    fail_msg("%s: %g became %g", (*set)->name, (double)r.x[i],
                             (double)got.scale[i / 32] * got.code[i]);
            }
        }
}

static void what_is_not_finite_stays_so(void **state)
{
    (void)state;
    const ml_weight w = {r.blocks, ML_Q5_K, 20, 512};
    fill_blocks(ml_block_format_of(w.dtype), 40, r.blocks);
    for (const ml_rounded_set *const *set = ml_rounded_sets; *set; set++)
        for (int bad = 0; (*set)->available() && bad < 2; bad++) {
            const ml_rounded x = ml_rounded_lay_out(6, 512, r.rows);
            fill_activations(6, 512, r.x);
            r.x[2 * 512 + 300] = bad ? NAN : -INFINITY;
            (*set)->round(w.dtype, 0, 6, r.x, 512, &x);
            (*set)->multiply(6, &x, &w, 0, r.got, 20);
            for (int64_t i = 0; i < 6 * 20; i++) assert_true(isfinite(r.got[i]) == (i / 20 != 2));
        }
}

/* More rows of x than are rounded at a time, a matrix that is in no blocks, one wider than the
 * options said; and the bytes that were asked for. */
static void tables_round(void **state)
{
    enum { T = 600, COLS = 64, ROWS = 5 };
    (void)state;
    static float x[T * 4 * COLS], got[T * ROWS], want[T * ROWS], plain[ROWS * COLS];
    static uint8_t blocks[ROWS * 4 * COLS * 2];
    const ml_weight shape = {NULL, ML_Q8_0, ROWS, COLS};
    const ml_kernels_options options = {.backend = "native",
                                        .weight_dtype = ML_Q8_0,
                                        .rounded = true,
                                        .tokens = T,
                                        .shapes = &shape,
                                        .nshapes = 1};
    ml_kernels *k = NULL;
    const ml_kernels *ref = ml_kernels_reference();
    fill_activations(T, 4 * COLS, x);
    fill_blocks(ml_block_format_of(ML_Q8_0), ROWS * 4 * COLS / 32, blocks);
    for (int i = 0; i < ROWS * COLS; i++) plain[i] = (float)(i % 7) / 4;
    int64_t before = ml_memory_current(ML_MEM_WORKSPACE);
    assert_int_equal(ml_kernels_create(&k, &options), ML_OK);
    assert_int_equal(ml_memory_current(ML_MEM_WORKSPACE) - before,
                     ml_kernels_workspace_bytes(&options, omp_get_max_threads()));
    const ml_weight in_blocks = {blocks, ML_Q8_0, ROWS, COLS}, wide = {blocks, ML_Q8_0, ROWS, 256},
                    whole = {plain, ML_FP32, ROWS, COLS};
    const ml_weight *const all[] = {&in_blocks, &wide, &whole};
    for (int i = 0; i < 3; i++) {
        double largest = 0, error = 0;
        k->weight_forward(k, T, x, 256, all[i], 0, got, ROWS);
        ref->weight_forward(ref, T, x, 256, all[i], 0, want, ROWS);
        for (int j = 0; j < T * ROWS; j++) {
            largest = fmax(largest, fabs((double)want[j]));
            error = fmax(error, fabs((double)want[j] - (double)got[j]));
        }
        if (i < 2) assert_true(error > 1e-5 * largest && error < 2e-2 * largest);
        if (i == 2) assert_true(error < 1e-5 * largest);
    }
    ml_kernels_destroy(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_are_right),
                                       cmocka_unit_test(threads_share_rows),
                                       cmocka_unit_test(vector_sets_have_the_same_bits),
                                       cmocka_unit_test(fine_products_are_those_of_fp32),
                                       cmocka_unit_test(fine_rows_that_are_not_finite_stay_so),
                                       cmocka_unit_test(rounding_is_ggmls),
                                       cmocka_unit_test(what_is_not_finite_stays_so),
                                       cmocka_unit_test(tables_round)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
