/* Relative terms of attention: the reference against the definition and its gradients against
 * finite differences; every vector path, and products in bf16, against the reference, with
 * distances that all have a row of their own, that share rows in ever longer runs, and that jump.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "attention_paths.h"
#include "mpilora/kernels.h"

enum { HEADS = 3, H = 10, LD = HEADS * H + 3, T_MOST = 330, MOST = 299, ROWS = 2 * MOST + 1 };
#define COUNT(x) (sizeof(x) / sizeof *(x))

static const int64_t starts[] = {0, 1, 8, 72, 330}, few_starts[] = {0, 1, 6};
static const ml_sequences packed = {.count = COUNT(starts) - 1, .start = starts},
                          few = {.count = COUNT(few_starts) - 1, .start = few_starts};

typedef enum kind { EACH, RUNS, JUMPS, KINDS } kind;

/* The row of distance d: its own; its own near by and then one for ever more; every third. */
static int32_t row_of(kind kind, int64_t d)
{
    if (kind == EACH) return (int32_t)(MOST + d);
    if (kind == JUMPS) return (int32_t)((3 * (d + MOST)) % ROWS);
    int64_t size = d < 0 ? -d : d,
            bucket = size < 8 ? size : 8 + (int64_t)(2 * log2((double)size / 8));
    return (int32_t)(MOST + (d < 0 ? -bucket : bucket));
}

enum { Q, K, V, D_O, KEYS, QUERIES, INPUTS, O = INPUTS, LSE, DQ, DK, DV, D_KEYS, D_QUERIES, ALL };
typedef struct tensors {
    float *t[ALL];
} tensors;
enum { ROOM = ROWS * LD };

static tensors fresh(void)
{
    tensors x;
    for (int i = 0; i < ALL; i++) {
        x.t[i] = ml_memory_alloc(ROOM, sizeof(float), ML_MEM_OTHER, "tensor");
        assert_non_null(x.t[i]);
        for (int64_t j = 0; j < ROOM; j++) {
            float number = (float)ml_random_normal(ml_random_key_make(5, "relative"), (uint64_t)i,
                                                   (uint64_t)j);
            x.t[i][j] = inputs_are_narrow ? ml_bf16_to_float(ml_bf16_from_float(number)) : number;
        }
    }
    return x;
}

static void release(tensors *x)
{
    for (int i = 0; i < ALL; i++) ml_memory_free(x->t[i]);
}

static int32_t rows[2 * MOST + 1];

/* terms: bit 0 those of the queries with rows, bit 1 those of the keys. */
static ml_relative relative_of(const tensors *x, kind kind, unsigned terms)
{
    for (int64_t d = -MOST; d <= MOST; d++) rows[MOST + d] = row_of(kind, d);
    return (ml_relative){.rows = ROWS,
                         .most = MOST,
                         .row = rows,
                         .keys = terms & 1U ? x->t[KEYS] : NULL,
                         .queries = terms & 2U ? x->t[QUERIES] : NULL,
                         .ld = LD,
                         .d_keys = terms & 1U ? x->t[D_KEYS] : NULL,
                         .d_queries = terms & 2U ? x->t[D_QUERIES] : NULL};
}

static const ml_attention_shape plain = {
    .heads = HEADS, .kv_heads = HEADS, .head_dim = H, .scale = 0.18f, .both_ways = true};

static void forward(const ml_kernels *k, const ml_relative *r, const ml_sequences *sequences,
                    const tensors *x)
{
    ml_attention_shape s = plain;
    s.relative = r;
    assert_int_equal(ml_attention_check(&s, sequences), ML_OK);
    k->attention_forward(k, &s, sequences, x->t[Q], LD, x->t[K], x->t[V], LD, x->t[O], LD,
                         x->t[LSE]);
}

static void run(const ml_kernels *k, const ml_relative *r, const ml_sequences *sequences,
                const tensors *x)
{
    ml_attention_shape s = plain;
    s.relative = r;
    forward(k, r, sequences, x);
    const ml_attention_kept kept = {.q = x->t[Q],
                                    .key = x->t[K],
                                    .value = x->t[V],
                                    .o = x->t[O],
                                    .ldq = LD,
                                    .ldkv = LD,
                                    .ldo = LD,
                                    .lse = x->t[LSE]};
    k->attention_backward(k, &s, sequences, &kept, x->t[D_O], LD, x->t[DQ], LD, x->t[DK], x->t[DV],
                          LD);
}

static double product(const float *a, const float *b)
{
    double sum = 0;
    for (int c = 0; c < H; c++) sum += (double)a[c] * (double)b[c];
    return sum;
}

static void test_reference_is_the_definition(void **state)
{
    (void)state;
    tensors x = fresh();
    for (int kind = 0; kind < KINDS; kind++) {
        const ml_relative r = relative_of(&x, kind, 3);
        forward(ml_kernels_reference(), &r, &packed, &x);
        for (int64_t s = 0; s < packed.count; s++)
            for (int64_t i = starts[s]; i < starts[s + 1]; i += 7) {
                const int64_t at = 2 * (int64_t)H; /* of the last head */
                double sum = 0, first = 0;
                for (int64_t j = starts[s]; j < starts[s + 1]; j++) {
                    const float *q = x.t[Q] + i * LD + at, *k = x.t[K] + j * LD + at;
                    int64_t row = row_of(kind, i - j) * (int64_t)LD + at;
                    double e =
                        exp((double)plain.scale * (product(q, k) + product(q, x.t[KEYS] + row) +
                                                   product(k, x.t[QUERIES] + row)));
                    sum += e;
                    first += e * (double)x.t[V][j * LD + at];
                }
                assert_true(fabs((double)x.t[O][i * LD + at] - first / sum) < 1e-5);
                assert_true(fabs((double)x.t[LSE][2 * T_MOST + i] - log(sum)) < 1e-5);
            }
    }
    release(&x);
}

static double loss(const ml_relative *r, const tensors *x)
{
    double sum = 0;
    forward(ml_kernels_reference(), r, &few, x);
    for (int64_t i = 0; i < few_starts[2]; i++)
        for (int64_t head = 0; head < HEADS; head++)
            sum += product(x->t[O] + i * LD + head * H, x->t[D_O] + i * LD + head * H);
    return sum;
}

/* Of an input, against the differences of the loss; those of rows that no pair has are zero. */
static void test_gradients(void **state)
{
    (void)state;
    static const int input[] = {Q, K, V, KEYS, QUERIES},
                     gradient[] = {DQ, DK, DV, D_KEYS, D_QUERIES};
    tensors x = fresh();
    const float step = 0.01f;
    for (int kind = 0; kind < KINDS; kind++) {
        const ml_relative r = relative_of(&x, kind, 3);
        run(ml_kernels_reference(), &r, &few, &x);
        for (size_t i = 0; i < COUNT(input); i++)
            for (int64_t at = 0; at < (i < 3 ? 6 : ROWS) * (int64_t)LD; at += i < 3 ? 1 : 5) {
                if (at % LD >= HEADS * H) continue;
                float *place = x.t[input[i]] + at, before = *place;
                *place = before + step;
                double up = loss(&r, &x);
                *place = before - step;
                double down = loss(&r, &x), want = (up - down) / (2 * (double)step);
                *place = before;
                if (!(fabs((double)x.t[gradient[i]][at] - want) < 2e-3 * fmax(1, fabs(want))))
                    fail_msg("gradient %zu, element %lld: %g, the differences say %g", i,
                             (long long)at, (double)x.t[gradient[i]][at], want);
            }
    }
    release(&x);
}

/* Products in bf16 round P and dS. */
static double tolerance_of(const ml_kernels *k, int tensor)
{
    if (!is_narrow(k->backend) || tensor == LSE) return 3e-5;
    return tensor == O ? 5e-3 : 2e-2;
}

static void same(const ml_kernels *k, kind kind, unsigned terms)
{
    tensors got = fresh(), want = fresh(), again = fresh();
    const ml_relative g = relative_of(&got, kind, terms), w = relative_of(&want, kind, terms),
                      a = relative_of(&again, kind, terms);
    run(k, &g, &packed, &got);
    run(k, &a, &packed, &again);
    run(ml_kernels_reference(), &w, &packed, &want);
    for (int i = INPUTS; i < ALL; i++) {
        assert_memory_equal(got.t[i], again.t[i], ROOM * sizeof(float));
        for (int64_t j = 0; j < ROOM; j++)
            if (!(fabs((double)got.t[i][j] - (double)want.t[i][j]) <=
                  tolerance_of(k, i) * fmax(1, fabs((double)want.t[i][j]))))
                fail_msg(
                    "tensor %d (%s, %s, distances %d, terms %u), element %lld: %.9g, the reference "
                    "says %.9g",
                    i, k->vector_path, k->backend, (int)kind, terms, (long long)j,
                    (double)got.t[i][j], (double)want.t[i][j]);
    }
    release(&got);
    release(&want);
    release(&again);
}

/* `declared`: the options speak of relative terms; else the reference stands in. */
static void with(const char *vector_path, const char *backend, bool declared)
{
    const ml_kernels_options options = {.backend = backend,
                                        .vector_path = vector_path,
                                        .weight_dtype = ML_BF16,
                                        .tokens = T_MOST,
                                        .head_dim = H,
                                        .heads = HEADS,
                                        .kv_heads = HEADS,
                                        .relative = declared};
    ml_kernels *k;
    if (ml_kernels_create(&k, &options) != ML_OK) {
        print_message("skipped: %s\n", ml_error_text());
        return;
    }
    inputs_are_narrow = is_narrow(backend);
    for (int kind = 0; kind < KINDS; kind++) same(k, kind, 3);
    same(k, RUNS, 1);
    same(k, RUNS, 2);
    inputs_are_narrow = false;
    ml_kernels_destroy(k);
}

static void test_paths(void **state)
{
    (void)state;
    int before = omp_get_max_threads();
    for (size_t p = 0; p < COUNT(manners); p++) {
        omp_set_num_threads(p == 0 ? 5 : 1);
        with(manners[p].vector_path, manners[p].backend, true);
    }
    omp_set_num_threads(before);
    with("auto", "ref", false);
}

/* Twice the tokens, twice what grows. */
static void test_memory_is_linear(void **state)
{
    (void)state;
    int64_t bytes[3];
    for (int i = 0; i < 3; i++) {
        const ml_kernels_options options = {.backend = "ref",
                                            .vector_path = "auto",
                                            .tokens = (int64_t)1024 << i,
                                            .head_dim = 64,
                                            .heads = 12,
                                            .kv_heads = 12,
                                            .relative = true};
        bytes[i] = ml_kernels_workspace_bytes(&options, 1);
    }
    assert_true(bytes[1] > bytes[0]);
    assert_true(llabs(bytes[2] - bytes[1] - 2 * (bytes[1] - bytes[0])) <= 256);
    assert_true(bytes[2] < 4 << 20);
}

static void test_refused(void **state)
{
    (void)state;
    tensors x = fresh();
    ml_relative r = relative_of(&x, EACH, 3);
    ml_attention_shape s = plain;
    s.relative = &r;
    s.cap = 3;
    assert_int_equal(ml_attention_check(&s, &packed), ML_USAGE);
    s.cap = 0;
    s.both_ways = false;
    assert_int_equal(ml_attention_check(&s, &packed), ML_USAGE);
    s.both_ways = true;
    r.most = 256;
    assert_int_equal(ml_attention_check(&s, &packed), ML_USAGE);
    assert_non_null(strstr(ml_error_text(), "sequence 3 has 258 tokens, expected at most 257"));
    r.most = 257;
    assert_int_equal(ml_attention_check(&s, &packed), ML_OK);
    release(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_is_the_definition), cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_paths), cmocka_unit_test(test_memory_is_linear),
        cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
