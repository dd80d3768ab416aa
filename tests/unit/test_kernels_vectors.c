/* Every vector path against the reference table, on odd sizes; twice the same bits; what NaN
 * does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "mpilora/kernels.h"

enum { T_MOST = 130, N_MOST = 660, ROOM = T_MOST * N_MOST };

static const char *const vector_paths[] = {"generic", "avx2", "avx512"};
static const int64_t tokens[] = {1, 7, 129}, widths[] = {1, 5, 16, 67, 640};
#define COUNT(x) (sizeof(x) / sizeof *(x))

/* Normal numbers times size, made once; each name starts at another place. */
static float *fresh(const char *name, double size)
{
    static float numbers[ROOM + 1024];
    if (numbers[0] == 0)
        for (int64_t i = 0; i < ROOM + 1024; i++)
            numbers[i] = (float)ml_random_normal(ml_random_key_make(11, "numbers"), 0, (uint64_t)i);
    float *x = ml_memory_alloc(ROOM, sizeof *x, ML_MEM_OTHER, name);
    assert_non_null(x);
    const float *from = numbers + (unsigned char)name[0] + 3 * (unsigned char)name[1];
    for (int64_t i = 0; i < ROOM; i++) x[i] = (float)size * from[i];
    return x;
}

static float *copy_of(const float *x)
{
    float *y = ml_memory_alloc(ROOM, sizeof *y, ML_MEM_OTHER, "a copy");
    assert_non_null(y);
    memcpy(y, x, ROOM * sizeof *y);
    return y;
}

/* got against want, element by element: within `bound` of max(1, |want|). Compares the whole
 * memory, so that a write beyond a row is seen. */
static void near(const char *what, const ml_kernels *k, const float *got, const float *want,
                 int64_t n, double bound)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= bound * fmax(1, fabs((double)want[i]))))
            fail_msg("%s (%s): element %lld is %.9g, the reference says %.9g", what, k->vector_path,
                     (long long)i, (double)got[i], (double)want[i]);
}

/* A pair of equal buffers: one for the path, one for the reference. */
typedef struct pair {
    float *got, *want;
} pair;

static pair pair_of(const char *name, double size)
{
    float *x = fresh(name, size);
    return (pair){x, copy_of(x)};
}

static void compare(const char *what, const ml_kernels *k, pair p, double bound)
{
    near(what, k, p.got, p.want, ROOM, bound);
}

static void release(pair p)
{
    ml_memory_free(p.got);
    ml_memory_free(p.want);
}

static void norms(const ml_kernels *k, int64_t T, int64_t d)
{
    const ml_kernels *ref = ml_kernels_reference();
    float *x = fresh("x", 1), *w = fresh("w", 1), *b = fresh("b", 1), *dy = fresh("dy", 1);
    pair y = pair_of("y", 1), mean = pair_of("mean", 1), rstd = pair_of("rstd", 1),
         dw = pair_of("dw", 1), db = pair_of("db", 1);
    for (int64_t i = 0; i < ROOM; i++) x[i] += 1;
    k->layernorm_forward(T, d, x, w, b, 0.1f, y.got, mean.got, rstd.got);
    ref->layernorm_forward(T, d, x, w, b, 0.1f, y.want, mean.want, rstd.want);
    compare("layernorm y", k, y, 4e-6);
    compare("layernorm mean", k, mean, 4e-6); /* a sanitized build sums a row in one lane */
    compare("layernorm rstd", k, rstd, 4e-6);
    for (int add = 0; add < 2; add++) {
        k->layernorm_backward(T, d, x, w, mean.want, rstd.want, dy, y.got, add, dw.got, db.got);
        ref->layernorm_backward(T, d, x, w, mean.want, rstd.want, dy, y.want, add, dw.want,
                                db.want);
        compare("layernorm dx", k, y, 1e-5);
        compare("layernorm dw", k, dw, 1e-5);
        compare("layernorm db", k, db, 1e-5);
    }
    k->layernorm_forward(T, d, x, w, NULL, 0.1f, y.got, mean.got, rstd.got);
    ref->layernorm_forward(T, d, x, w, NULL, 0.1f, y.want, mean.want, rstd.want);
    compare("layernorm y, no bias", k, y, 4e-6);
    for (int one = 0; one < 2; one++) {
        k->rmsnorm_forward(T, d, x, w, one, 0.1f, y.got, rstd.got);
        ref->rmsnorm_forward(T, d, x, w, one, 0.1f, y.want, rstd.want);
        compare("rmsnorm y", k, y, 4e-6);
        memset(dw.got, 0, ROOM * sizeof *dw.got);
        memset(dw.want, 0, ROOM * sizeof *dw.want);
        k->rmsnorm_backward(T, d, x, w, one, rstd.want, dy, y.got, true, dw.got);
        ref->rmsnorm_backward(T, d, x, w, one, rstd.want, dy, y.want, true, dw.want);
        compare("rmsnorm dx", k, y, 1e-5);
        compare("rmsnorm dw", k, dw, 1e-5);
    }
    float *const single[] = {x, w, b, dy};
    for (size_t i = 0; i < COUNT(single); i++) ml_memory_free(single[i]);
    pair const pairs[] = {y, mean, rstd, dw, db};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
}

static void start_both(pair to, const float *from, int64_t n)
{
    memcpy(to.got, from, sizeof *from * (size_t)n);
    memcpy(to.want, from, sizeof *from * (size_t)n);
}

/* Rows of d as heads of at most 1024, in place, in every kind. */
static void head_norms(const ml_kernels *k, int64_t T, int64_t d)
{
    const ml_kernels *ref = ml_kernels_reference();
    const int64_t h = ml_min(d > 8 ? d / 2 : d, 1024);
    float *x = fresh("x", 2), *w = fresh("w", 1), *b = fresh("b", 1), *dy = fresh("dy", 1);
    for (int kind = 0; kind < 8; kind++) {
        pair y = pair_of("y", 1), dw = pair_of("dw", 1), db = pair_of("db", 1);
        const ml_headnorm n = {d / h,    h,    kind & 1, !(kind & 1),
                               kind & 2, 0.1f, w,        kind & 4 ? b : NULL};
        float *sum_got = kind & 4 ? db.got : NULL, *sum_want = kind & 4 ? db.want : NULL;
        start_both(y, x, T * d);
        k->headnorm_forward(&n, T, y.got, d);
        ref->headnorm_forward(&n, T, y.want, d);
        compare("headnorm y", k, y, 4e-6);
        start_both(y, dy, T * d);
        k->headnorm_backward(&n, T, x, d, y.got, d, dw.got, sum_got);
        ref->headnorm_backward(&n, T, x, d, y.want, d, dw.want, sum_want);
        compare("headnorm dx", k, y, 1e-5);
        compare("headnorm dw", k, dw, 1e-5);
        compare("headnorm db", k, db, 1e-5);
        pair const pairs[] = {y, dw, db};
        for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
    }
    float *const single[] = {x, w, b, dy};
    for (size_t i = 0; i < COUNT(single); i++) ml_memory_free(single[i]);
}

static void wide_norms(const ml_kernels *k, int64_t T, int64_t n)
{
    const ml_kernels *ref = ml_kernels_reference();
    int64_t ld = n + 3;
    float *x = fresh("x", 1), *w = fresh("w", 1), *dy = fresh("dy", 1), *rstd = fresh("rstd", 1),
          *average = fresh("average", 1);
    pair sum = pair_of("sum", 1), y = pair_of("y", 1), dw = pair_of("dw", 1);
    k->wide_squares(T, n, x, ld, sum.got);
    ref->wide_squares(T, n, x, ld, sum.want);
    compare("wide squares", k, sum, 4e-6);
    start_both(y, x, T * ld);
    k->wide_forward(T, n, y.got, ld, w, rstd);
    ref->wide_forward(T, n, y.want, ld, w, rstd);
    compare("wide norm", k, y, 4e-6);
    k->wide_products(T, n, x, ld, w, rstd, dy, ld, sum.got);
    ref->wide_products(T, n, x, ld, w, rstd, dy, ld, sum.want);
    compare("wide products", k, sum, 1e-5);
    start_both(y, dy, T * ld);
    k->wide_backward(T, n, x, ld, w, rstd, average, y.got, ld, dw.got);
    ref->wide_backward(T, n, x, ld, w, rstd, average, y.want, ld, dw.want);
    compare("wide dx", k, y, 1e-5);
    compare("wide dw", k, dw, 1e-5);
    float *const single[] = {x, w, dy, rstd, average};
    for (size_t i = 0; i < COUNT(single); i++) ml_memory_free(single[i]);
    pair const pairs[] = {sum, y, dw};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
}

static void caps(const ml_kernels *k, int64_t T, int64_t n)
{
    const ml_kernels *ref = ml_kernels_reference();
    pair x = pair_of("x", 9), slope = pair_of("slope", 1), y = pair_of("y", 1);
    k->soft_cap(T * n, 3, x.got, slope.got);
    ref->soft_cap(T * n, 3, x.want, slope.want);
    compare("soft cap", k, x, 1e-6);
    compare("soft cap's slope", k, slope, 1e-6);
    k->multiply(T * n, slope.want, y.got);
    ref->multiply(T * n, slope.want, y.want);
    compare("multiply", k, y, 0);
    k->scale(T * n, 1.7f, y.got, y.got);
    ref->scale(T * n, 1.7f, y.want, y.want);
    compare("scale", k, y, 0);
    pair const pairs[] = {x, slope, y};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
}

/* Codes of slopes, which may round to the other side of a tie, and dx = dy·slope from them: exactly
 * dy or 0 where the slope is 1 or 0, else off by half a step. */
static void slopes(const ml_kernels *k, ml_activation a, int64_t T, int64_t n, const float *x,
                   const float *dy)
{
    const ml_kernels *ref = ml_kernels_reference();
    int64_t ld = n + 3;
    const float off = 0.5f / ML_SLOPE_STEPS + 1e-5f;
    uint8_t *code[2] = {calloc((size_t)(T * n), 1), calloc((size_t)(T * n), 1)};
    float *dx = fresh("dx", 1), *exact = fresh("exact", 1), *one = fresh("one", 0);
    for (int64_t i = 0; i < ROOM; i++) one[i] = 1;
    k->slopes_forward(a, T, n, x, ld, code[0]);
    ref->slopes_forward(a, T, n, x, ld, code[1]);
    k->slopes_backward(T, n, code[0], dy, ld, dx, ld);
    ref->activation_backward(a, T, n, x, ld, one, ld, exact, ld);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) {
            float slope = exact[t * ld + i], want = dy[t * ld + i] * slope;
            assert_true(abs(code[0][t * n + i] - code[1][t * n + i]) <= 1);
            assert_true(fabsf(dx[t * ld + i] - want) <= off * fabsf(dy[t * ld + i]));
            if (slope == 0 || slope == 1) assert_true(dx[t * ld + i] == want);
        }
    ml_memory_free(dx);
    ml_memory_free(exact);
    ml_memory_free(one);
    free(code[0]);
    free(code[1]);
}

/* The bounds that native/exponentials.c states; inputs from tiny to the far tails. */
static void activations(const ml_kernels *k, int64_t T, int64_t n)
{
    const ml_kernels *ref = ml_kernels_reference();
    int64_t ld = n + 3;
    float *x = fresh("x", 6), *up = fresh("up", 1), *dy = fresh("dy", 1);
    for (int64_t i = 0; i < ROOM; i += 5) x[i] *= 0.01f;
    for (int64_t i = 0; i < ROOM; i++)
        dy[i] = fmaxf(-1, fminf(1, dy[i])); /* so that the bound is the slope's own */
    x[0] = -200;
    pair y = pair_of("y", 1), z = pair_of("z", 1);
    for (ml_activation a = ML_GELU_TANH; a <= ML_TANH; a++) {
        k->activation_forward(a, T, n, x, ld, y.got, ld);
        ref->activation_forward(a, T, n, x, ld, y.want, ld);
        compare("activation", k, y, 3e-7);
        k->activation_backward(a, T, n, x, ld, dy, ld, y.got, ld);
        ref->activation_backward(a, T, n, x, ld, dy, ld, y.want, ld);
        compare("activation backward", k, y, 2e-6);
        slopes(k, a, T, n, x, dy);
        k->gated_forward(a, T, n, x, up, ld, y.got, ld);
        ref->gated_forward(a, T, n, x, up, ld, y.want, ld);
        compare("gated", k, y, 1e-6);
        k->gated_backward(a, T, n, x, up, ld, dy, ld, y.got, z.got, ld);
        ref->gated_backward(a, T, n, x, up, ld, dy, ld, y.want, z.want, ld);
        compare("gated dgate", k, y, 4e-6);
        compare("gated dup", k, z, 1e-6);
    }
    ml_memory_free(x);
    ml_memory_free(up);
    ml_memory_free(dy);
    release(y);
    release(z);
}

static void vectors(const ml_kernels *k, int64_t T, int64_t n)
{
    const ml_kernels *ref = ml_kernels_reference();
    int64_t ld = n + 1, all = T * n;
    float *x = fresh("x", 1);
    pair y = pair_of("y", 1), z = pair_of("z", 0.1), v = pair_of("v", 0.1);
    k->add(all, x, y.got);
    ref->add(all, x, y.want);
    k->add_bias(T, n, x, y.got, ld);
    ref->add_bias(T, n, x, y.want, ld);
    compare("add", k, y, 0);
    k->sum_rows(T, n, x, ld, y.got);
    ref->sum_rows(T, n, x, ld, y.want);
    compare("sum_rows", k, y, 1e-5);
    k->fp32_to_bf16(all, x, (uint16_t *)(void *)z.got);
    ref->fp32_to_bf16(all, x, (uint16_t *)(void *)z.want);
    assert_memory_equal(z.got, z.want, ROOM * sizeof(float));
    k->bf16_to_fp32(all, (const uint16_t *)(const void *)z.want, y.got);
    ref->bf16_to_fp32(all, (const uint16_t *)(const void *)z.want, y.want);
    compare("widen", k, y, 0);
    double want = ref->sum_squares(all, x);
    if (fabs(k->sum_squares(all, x) - want) > 1e-12 * want)
        fail_msg("sum_squares (%s)", k->vector_path);
    for (int64_t i = 0; i < ROOM; i++) v.want[i] = v.got[i] = fabsf(v.got[i]);
    const ml_adamw step = {.lr = 0.01,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = 1e-8,
                           .decay = 0.1,
                           .grad_scale = 0.5,
                           .t = 3};
    pair p = pair_of("p", 1), m = pair_of("m", 0.1);
    k->adamw(&step, all, p.got, x, m.got, v.got);
    ref->adamw(&step, all, p.want, x, m.want, v.want);
    compare("adamw p", k, p, 3e-6);
    compare("adamw m", k, m, 1e-6);
    compare("adamw v", k, v, 1e-6);
    ml_memory_free(x);
    pair const pairs[] = {y, z, v, p, m};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
}

static void rope(const ml_kernels *k, int64_t T, int64_t half)
{
    if (half > 100) return;
    enum { HEADS = 3 };
    int64_t ld = HEADS * 2 * half + 5;
    static int32_t position[T_MOST];
    for (int32_t t = 0; t < T; t++) position[t] = (3 * t) % 50;
    float *cosine = fresh("cos", 1), *sine = fresh("sin", 1);
    for (int kind = 0; kind < 8; kind++) {
        const ml_rope_shape shape = {HEADS, 2 * half, kind & 1 ? half / 2 * 2 : 2 * half, kind & 2};
        pair x = pair_of("x", 1);
        k->rope(&shape, T, x.got, ld, position, cosine, sine, kind & 4);
        ml_kernels_reference()->rope(&shape, T, x.want, ld, position, cosine, sine, kind & 4);
        compare("rope", k, x, 2e-6);
        release(x);
    }
    ml_memory_free(cosine);
    ml_memory_free(sine);
}

static void cross_entropy(const ml_kernels *k, int64_t C, int64_t V)
{
    const ml_kernels *ref = ml_kernels_reference();
    static int32_t target[3 * T_MOST];
    int64_t ld = V + 2, start[T_MOST + 1] = {0};
    for (int64_t c = 0; c < C; c++) start[c + 1] = start[c] + 1 + c % 3;
    for (int64_t i = 0; i < start[C]; i++) target[i] = (int32_t)((7 * i) % (2 * V));
    const ml_targets targets = {start, target, V / 2, NULL};
    pair z = pair_of("z", 3), top = pair_of("top", 1), sum = pair_of("sum", 1),
         picked = pair_of("picked", 1);
    k->xent_max(C, V, z.got, ld, top.got);
    ref->xent_max(C, V, z.want, ld, top.want);
    compare("xent_max", k, top, 0);
    k->xent_sum(C, V, z.got, ld, top.got, &targets, sum.got, picked.got);
    ref->xent_sum(C, V, z.want, ld, top.want, &targets, sum.want, picked.want);
    compare("xent_sum", k, sum, 4e-6);
    compare("xent_sum picked", k, picked, 1e-6); /* sums of up to three */
    pair logits = pair_of("z", 3);
    k->xent_backward(C, V, z.got, ld, top.got, sum.want, &targets, 0.1f, 2 * V, 0.3f);
    ref->xent_backward(C, V, z.want, ld, top.want, sum.want, &targets, 0.1f, 2 * V, 0.3f);
    compare("xent_backward", k, z, 6e-7);
    static float weight[3 * T_MOST];
    for (int64_t i = 0; i < start[C]; i++) weight[i] = 0.7f - 0.4f * (float)(i % 5);
    const ml_targets weighed = {start, target, V / 2, weight};
    k->xent_backward(C, V, logits.got, ld, top.got, sum.want, &weighed, 0.1f, 2 * V, 0.3f);
    ref->xent_backward(C, V, logits.want, ld, top.want, sum.want, &weighed, 0.1f, 2 * V, 0.3f);
    compare("xent_backward with weights", k, logits, 6e-7);
    release(logits);
    pair const pairs[] = {z, top, sum, picked};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
}

/* What is left out is what the reference leaves out, and the rest has the bits of xent_backward. */
static int64_t blocks_of_zeros, blocks_that_stay;

static void filter(const ml_kernels *k, int64_t C, int64_t V)
{
    const ml_kernels *ref = ml_kernels_reference();
    const float scale = 0.3f, least = 0x1p-12f;
    static int32_t target[T_MOST];
    int64_t ld = V + 2, start[T_MOST + 1];
    for (int64_t c = 0; c <= C; c++) start[c] = c;
    for (int64_t c = 0; c < C; c++) target[c] = (int32_t)((7 * c) % (4 * V));
    const ml_targets targets = {start, target, V, NULL};
    pair z = pair_of("z", 40), top = pair_of("top", 1), sum = pair_of("sum", 1),
         lost = pair_of("lost", 1);
    float *picked = fresh("picked", 1), *whole = copy_of(z.got), *odd = copy_of(z.got);
    ref->xent_max(C, V, z.want, ld, top.want);
    ref->xent_sum(C, V, z.want, ld, top.want, &targets, sum.want, picked);
    k->xent_backward(C, V, whole, ld, top.want, sum.want, &targets, 0, V, scale);
    int64_t got = k->xent_filter(C, V, z.got, ld, top.want, sum.want, &targets, scale, least,
                                 lost.got),
            want = ref->xent_filter(C, V, z.want, ld, top.want, sum.want, &targets, scale, least,
                                    lost.want);
    assert_int_equal(got, want);
    compare("xent_filter", k, z, 6e-7);
    compare("xent_filter's lost", k, lost, 1e-6);
    for (int64_t i = 0; i < C * ld; i++) assert_true(z.got[i] == 0 || z.got[i] == whole[i]);
    blocks_of_zeros += got;
    blocks_that_stay += (C + ML_FILTER_ROWS - 1) / ML_FILTER_ROWS *
                            ((V + ML_FILTER_COLUMNS - 1) / ML_FILTER_COLUMNS) -
                        got;
    odd[V - 1] = NAN; /* is no small probability */
    (void)k->xent_filter(C, V, odd, ld, top.want, sum.want, &targets, scale, 0.99f, lost.got);
    assert_true(isnan(odd[V - 1]));
    pair const pairs[] = {z, top, sum, lost, {picked, whole}};
    for (size_t i = 0; i < COUNT(pairs); i++) release(pairs[i]);
    ml_memory_free(odd);
}

static ml_kernels *created(const char *vector_path)
{
    ml_weight shape = {.rows = 8, .cols = 8};
    ml_kernels_options options = {.backend = "ref",
                                  .vector_path = vector_path,
                                  .tokens = T_MOST,
                                  .shapes = &shape,
                                  .nshapes = 1};
    ml_kernels *k = NULL;
    if (ml_kernels_create(&k, &options) != ML_OK) print_message("skipped: %s\n", ml_error_text());
    return k;
}

static void every_size(void (*body)(const ml_kernels *k, int64_t T, int64_t n))
{
    for (size_t p = 0; p < COUNT(vector_paths); p++) {
        ml_kernels *k = created(vector_paths[p]);
        if (!k) continue;
        for (size_t t = 0; t < COUNT(tokens); t++)
            for (size_t n = 0; n < COUNT(widths); n++) body(k, tokens[t], widths[n]);
        ml_kernels_destroy(k);
    }
}

static void test_norms(void **state)
{
    (void)state;
    every_size(norms);
}

static void test_activations(void **state)
{
    (void)state;
    every_size(activations);
}

static void test_vectors(void **state)
{
    (void)state;
    every_size(vectors);
}

static void test_head_norms(void **state)
{
    (void)state;
    every_size(head_norms);
}

static void test_wide_norms(void **state)
{
    (void)state;
    every_size(wide_norms);
}

static void test_caps(void **state)
{
    (void)state;
    every_size(caps);
}

static void test_rope(void **state)
{
    (void)state;
    every_size(rope);
}

static void test_filter(void **state)
{
    (void)state;
    every_size(filter);
    assert_true(blocks_of_zeros > 0 && blocks_that_stay > 0);
}

static void test_cross_entropy(void **state)
{
    (void)state;
    every_size(cross_entropy);
}

static void not_a_number_is_never_lost(const ml_kernels *k, int64_t T, int64_t n)
{
    const ml_kernels *ref = ml_kernels_reference();
    float *x = fresh("x", 1), *y = fresh("y", 1), sum[T_MOST], picked[T_MOST], top[T_MOST];
    int64_t start[T_MOST + 1] = {0}, last = T * n - 1;
    const ml_targets none = {start, NULL, 0, NULL};
    x[last] = NAN;
    assert_true(isnan(k->sum_squares(T * n, x)) && isnan(ref->sum_squares(T * n, x)));
    k->xent_max(T, n, x, n, top);
    k->xent_sum(T, n, x, n, top, &none, sum, picked);
    assert_true(isnan(sum[T - 1]));
    for (ml_activation a = ML_GELU_TANH; a <= ML_TANH; a++) {
        k->activation_forward(a, T, n, x, n, y, n);
        assert_true(isnan(y[last]));
    }
    x[last] = INFINITY;
    assert_true(isinf(k->sum_squares(T * n, x)));
    ml_memory_free(x);
    ml_memory_free(y);
}

static void test_not_a_number(void **state)
{
    (void)state;
    every_size(not_a_number_is_never_lost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),         cmocka_unit_test(test_activations),
        cmocka_unit_test(test_vectors),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_head_norms),    cmocka_unit_test(test_wide_norms),
        cmocka_unit_test(test_caps),          cmocka_unit_test(test_filter),
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_not_a_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
