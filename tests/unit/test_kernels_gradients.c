/* Every backward kernel of every vector path against central differences of its forward kernel.
 * The loss is Σ c·y with fixed random c, added up in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "mpilora/kernels.h"

enum {
    T = 5,
    D = 11,
    HEADS = 4,
    KV = 2,
    HEAD_DIM = 6,
    Q = HEADS * HEAD_DIM,
    KVD = KV * HEAD_DIM,
    V = 13,
    MOST = 512
};

static const char *const vector_paths[] = {"ref", "generic", "avx2", "avx512"};

/* What the loss functions read and the backward kernels fill. */
typedef struct bench {
    const ml_kernels *k;
    ml_activation activation;
    float x[MOST], w[MOST], b[MOST], u[MOST], y[MOST], c[MOST], mean[T], rstd[T], lse[MOST];
    float dx[MOST], dw[MOST], db[MOST], du[MOST];
    int64_t target_start[T + 1];
    int32_t target[2 * T];
    ml_targets targets;
    ml_weight weight;
} bench;

static void fill(bench *s, float *x, const char *name, double around)
{
    (void)s;
    ml_random_key key = ml_random_key_make(7, name);
    for (uint64_t i = 0; i < MOST; i++) x[i] = (float)(around + ml_random_normal(key, 0, i));
}

static void setup(bench *s, const ml_kernels *k)
{
    memset(s, 0, sizeof *s);
    s->k = k;
    fill(s, s->x, "x", 0.3);
    fill(s, s->w, "w", 0.5);
    fill(s, s->b, "b", 0);
    fill(s, s->u, "u", 0);
    fill(s, s->c, "c", 0);
    for (int t = 0; t < T; t++)
        s->target_start[t + 1] = s->target_start[t] + 1 + t % 2; /* one or two a row */
    for (int i = 0; i < 2 * T; i++) s->target[i] = 100 + (3 * i) % V;
    s->target[1] = 96; /* on another rank */
    s->targets = (ml_targets){s->target_start, s->target, 100, NULL};
    s->weight = (ml_weight){s->w, ML_FP32, 7, D};
}

static double weighted(const bench *s, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)s->c[i] * (double)y[i];
    return sum;
}

typedef double (*loss_function)(bench *s);

/* Each gradient[i] − before against the slope of the loss along x[i]. */
static void check(bench *s, const char *what, loss_function loss, float *x, int64_t n,
                  const float *gradient, float before)
{
    for (int64_t i = 0; i < n; i++) {
        const float step = 1.0f / 128, old = x[i];
        x[i] = old + step;
        double up = loss(s);
        x[i] = old - step;
        double down = loss(s);
        x[i] = old;
        double slope = (up - down) / (2 * (double)step), got = (double)gradient[i] - (double)before;
        if (fabs(slope - got) > 5e-4 * fmax(1, fabs(slope)))
            fail_msg("%s (%s): gradient %lld is %.7g, the differences say %.7g", what,
                     s->k->vector_path, (long long)i, got, slope);
    }
}

static double layernorm_loss(bench *s)
{
    s->k->layernorm_forward(T, D, s->x, s->w, s->b, 1e-5f, s->y, s->mean, s->rstd);
    return weighted(s, s->y, T * D);
}

static void set(float *x, float value)
{
    for (int i = 0; i < MOST; i++) x[i] = value;
}

static void layernorm(bench *s)
{
    (void)layernorm_loss(s);
    set(s->dw, 2);
    set(s->db, 2);
    s->k->layernorm_backward(T, D, s->x, s->w, s->mean, s->rstd, s->c, s->dx, false, s->dw, s->db);
    check(s, "layernorm dx", layernorm_loss, s->x, T * D, s->dx, 0);
    check(s, "layernorm dw", layernorm_loss, s->w, D, s->dw, 2);
    check(s, "layernorm db", layernorm_loss, s->b, D, s->db, 2);
    set(s->dx, 1);
    s->k->layernorm_backward(T, D, s->x, s->w, s->mean, s->rstd, s->c, s->dx, true, NULL, NULL);
    check(s, "layernorm dx, added", layernorm_loss, s->x, T * D, s->dx, 1);
}

static bool plus_one;

static double rmsnorm_loss(bench *s)
{
    s->k->rmsnorm_forward(T, D, s->x, s->w, plus_one, 1e-5f, s->y, s->rstd);
    return weighted(s, s->y, T * D);
}

static void rmsnorm(bench *s)
{
    plus_one = !plus_one;
    (void)rmsnorm_loss(s);
    set(s->dw, 2);
    s->k->rmsnorm_backward(T, D, s->x, s->w, plus_one, s->rstd, s->c, s->dx, false, s->dw);
    check(s, "rmsnorm dx", rmsnorm_loss, s->x, T * D, s->dx, 0);
    check(s, "rmsnorm dw", rmsnorm_loss, s->w, D, s->dw, 2);
    set(s->dx, 1);
    s->k->rmsnorm_backward(T, D, s->x, s->w, plus_one, s->rstd, s->c, s->dx, true, NULL);
    check(s, "rmsnorm dx, added", rmsnorm_loss, s->x, T * D, s->dx, 1);
}

static ml_rope_shape rope_shape = {HEADS, HEAD_DIM, HEAD_DIM, false};

static void rotate(bench *s, float *x, bool inverse)
{
    static const int32_t position[T] = {0, 1, 2, 0, 1};
    float cosine[3 * HEAD_DIM / 2], sine[3 * HEAD_DIM / 2];
    for (int i = 0; i < 3 * HEAD_DIM / 2; i++) {
        cosine[i] = cosf(0.7f * (float)i);
        sine[i] = sinf(0.7f * (float)i);
    }
    s->k->rope(&rope_shape, T, x, Q, position, cosine, sine, inverse);
}

/* HEADS heads of HEAD_DIM in rows of Q, with the first HEAD_DIM weights, or those of each head. */
static ml_headnorm head_norm = {.heads = HEADS, .head_dim = HEAD_DIM, .eps = 1e-5f};

static double headnorm_loss(bench *s)
{
    memcpy(s->y, s->x, sizeof(float) * (size_t)(T * Q));
    s->k->headnorm_forward(&head_norm, T, s->y, Q);
    return weighted(s, s->y, T * Q);
}

static void headnorm_of_kind(bench *s, int kind)
{
    head_norm.centred = kind & 1;
    head_norm.plus_one = kind & 2;
    head_norm.own = kind & 4;
    head_norm.w = s->w;
    head_norm.b = kind & 1 ? s->b : NULL;
    int64_t weights = head_norm.own ? Q : HEAD_DIM;
    memcpy(s->dx, s->c, sizeof(float) * (size_t)(T * Q));
    set(s->dw, 0);
    set(s->db, 0);
    s->k->headnorm_backward(&head_norm, T, s->x, Q, s->dx, Q, s->dw, kind & 1 ? s->db : NULL);
    check(s, "headnorm dx", headnorm_loss, s->x, T * Q, s->dx, 0);
    check(s, "headnorm dw", headnorm_loss, s->w, weights, s->dw, 0);
    if (head_norm.b) check(s, "headnorm db", headnorm_loss, s->b, weights, s->db, 0);
}

static void headnorm(bench *s)
{
    for (int kind = 0; kind < 8; kind++) headnorm_of_kind(s, kind);
}

/* One norm over rows of Q in its steps, as one rank takes them. */
static double widenorm_loss(bench *s)
{
    memcpy(s->y, s->x, sizeof(float) * (size_t)(T * Q));
    s->k->wide_squares(T, Q, s->y, Q, s->rstd);
    for (int t = 0; t < T; t++) s->rstd[t] = 1 / sqrtf(s->rstd[t] / Q + 1e-5f);
    s->k->wide_forward(T, Q, s->y, Q, s->w, s->rstd);
    return weighted(s, s->y, T * Q);
}

static void widenorm(bench *s)
{
    (void)widenorm_loss(s);
    memcpy(s->dx, s->c, sizeof(float) * (size_t)(T * Q));
    set(s->dw, 0);
    s->k->wide_products(T, Q, s->x, Q, s->w, s->rstd, s->dx, Q, s->mean);
    for (int t = 0; t < T; t++) s->mean[t] /= Q;
    s->k->wide_backward(T, Q, s->x, Q, s->w, s->rstd, s->mean, s->dx, Q, s->dw);
    check(s, "widenorm dx", widenorm_loss, s->x, T * Q, s->dx, 0);
    check(s, "widenorm dw", widenorm_loss, s->w, Q, s->dw, 0);
}

static double soft_cap_loss(bench *s)
{
    memcpy(s->y, s->x, sizeof(float) * (size_t)(T * Q));
    s->k->soft_cap(T * Q, 1.5f, s->y, s->dx);
    return weighted(s, s->y, T * Q);
}

static void soft_cap(bench *s)
{
    (void)soft_cap_loss(s);
    memcpy(s->dw, s->c, sizeof(float) * (size_t)(T * Q));
    s->k->multiply(T * Q, s->dx, s->dw);
    check(s, "soft cap", soft_cap_loss, s->x, T * Q, s->dw, 0);
}

static double rope_loss(bench *s)
{
    memcpy(s->y, s->x, sizeof s->y);
    rotate(s, s->y, false);
    return weighted(s, s->y, T * Q);
}

static void rope(bench *s)
{
    for (int kind = 0; kind < 4; kind++) { /* the whole head or a part of it, both layouts */
        rope_shape.rotated = kind & 1 ? HEAD_DIM - 2 : HEAD_DIM;
        rope_shape.neighbours = kind & 2;
        memcpy(s->dx, s->c, sizeof s->dx);
        rotate(s, s->dx, true);
        check(s, "rope", rope_loss, s->x, T * Q, s->dx, 0);
    }
}

static double activation_loss(bench *s)
{
    s->k->activation_forward(s->activation, T, D, s->x, D, s->y, D);
    return weighted(s, s->y, T * D);
}

static double gated_loss(bench *s)
{
    s->k->gated_forward(s->activation, T, D, s->x, s->u, D, s->y, D);
    return weighted(s, s->y, T * D);
}

static void activations(bench *s)
{
    for (int i = 0; i < MOST; i++)
        if (fabsf(s->x[i]) < 0.02f) s->x[i] = 0.02f; /* the corner of relu */
    for (s->activation = ML_GELU_TANH; s->activation <= ML_TANH; s->activation++) {
        s->k->activation_backward(s->activation, T, D, s->x, D, s->c, D, s->dx, D);
        check(s, "activation", activation_loss, s->x, T * D, s->dx, 0);
        memcpy(s->dx, s->c, sizeof s->dx);
        s->k->activation_backward(s->activation, T, D, s->x, D, s->dx, D, s->dx, D);
        check(s, "activation in place", activation_loss, s->x, T * D, s->dx, 0);
        s->k->gated_backward(s->activation, T, D, s->x, s->u, D, s->c, D, s->dx, s->du, D);
        check(s, "gated dgate", gated_loss, s->x, T * D, s->dx, 0);
        check(s, "gated dup", gated_loss, s->u, T * D, s->du, 0);
    }
}

enum { BIAS_STRIDE = T + ML_KEY_BIAS_BEYOND };
static float key_bias[HEADS * BIAS_STRIDE];
static ml_attention_shape attention_shape = {
    .heads = HEADS, .kv_heads = KV, .head_dim = HEAD_DIM, .scale = 0.4f};
static const int64_t starts[] = {0, 2, 4, T}, shared[] = {0, 1, 0};
static const ml_sequences trees = {.count = 3, .start = starts, .shared = shared},
                          apart = {.count = 3, .start = starts};

static const ml_sequences *attention_sequences(void)
{
    return attention_shape.both_ways ? &apart : &trees;
}

static double attention_loss(bench *s)
{
    s->k->attention_forward(s->k, &attention_shape, attention_sequences(), s->x, Q, s->w, s->u, KVD,
                            s->y, Q, s->lse);
    return weighted(s, s->y, T * Q);
}

static void attention_with(bench *s, int64_t window)
{
    attention_shape.window = window;
    (void)attention_loss(s);
    const ml_attention_kept kept = {.q = s->x,
                                    .key = s->w,
                                    .value = s->u,
                                    .o = s->y,
                                    .ldq = Q,
                                    .ldkv = KVD,
                                    .ldo = Q,
                                    .lse = s->lse};
    s->k->attention_backward(s->k, &attention_shape, attention_sequences(), &kept, s->c, Q, s->dx,
                             Q, s->dw, s->du, KVD);
    check(s, "attention dq", attention_loss, s->x, T * Q, s->dx, 0);
    check(s, "attention dk", attention_loss, s->w, T * KVD, s->dw, 0);
    check(s, "attention dv", attention_loss, s->u, T * KVD, s->du, 0);
}

static void attention(bench *s)
{
    const int64_t windows[] = {0, 1, 2, T};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        attention_shape.cap = i % 2 ? 0.7f : 0;
        attention_with(s, windows[i]);
        attention_shape.both_ways = true;
        attention_with(s, windows[i]);
        attention_shape.both_ways = false;
    }
    for (int64_t i = 0; i < HEADS * BIAS_STRIDE; i++) key_bias[i] = 0.3f * (float)(i % 7);
    attention_shape.cap = 0;
    attention_shape.key_bias = key_bias;
    attention_shape.key_bias_stride = BIAS_STRIDE;
    attention_with(s, 0);
    attention_shape.key_bias = NULL;
}

enum { SMOOTHING_PERCENT = 10 };

/* 0.7 · Σ over targets of (log Σ exp z − 0.9·z[target] − 0.1·average z) over the whole vocabulary
 * of V. */
static double cross_entropy_loss(bench *s)
{
    float rowmax[T], sum[T], picked[T];
    double loss = 0, smoothing = SMOOTHING_PERCENT / 100.0;
    s->k->xent_max(T, V, s->x, V, rowmax);
    s->k->xent_sum(T, V, s->x, V, rowmax, &s->targets, sum, picked);
    for (int t = 0; t < T; t++) {
        double count = (double)(s->target_start[t + 1] - s->target_start[t]), average = 0;
        for (int v = 0; v < V; v++) average += (double)s->x[t * V + v] / V;
        loss += count * ((double)rowmax[t] + log((double)sum[t]) - smoothing * average) -
                (1 - smoothing) * (double)picked[t];
    }
    return 0.7 * loss;
}

static void cross_entropy(bench *s)
{
    float sum[T], picked[T], rowmax[T];
    s->k->xent_max(T, V, s->x, V, rowmax);
    s->k->xent_sum(T, V, s->x, V, rowmax, &s->targets, sum, picked);
    memcpy(s->dx, s->x, sizeof s->dx);
    s->k->xent_backward(T, V, s->dx, V, rowmax, sum, &s->targets, SMOOTHING_PERCENT / 100.0f, V,
                        0.7f);
    check(s, "cross-entropy", cross_entropy_loss, s->x, T * V, s->dx, 0);
}

static double weight_loss(bench *s)
{
    s->k->weight_forward(s->k, T, s->x, D, &s->weight, 0, s->y, s->weight.rows);
    return weighted(s, s->y, T * s->weight.rows);
}

static void weight_product(bench *s)
{
    s->k->weight_backward(s->k, T, s->c, s->weight.rows, &s->weight, 0, s->dx, D);
    check(s, "weight product", weight_loss, s->x, T * D, s->dx, 0);
}

static void every_path(void (*body)(bench *s))
{
    static bench s;
    for (size_t i = 0; i < sizeof vector_paths / sizeof *vector_paths; i++) {
        ml_weight shape = {.rows = 7, .cols = D};
        ml_kernels_options options = {.backend = "ref",
                                      .vector_path = vector_paths[i],
                                      .tokens = T,
                                      .shapes = &shape,
                                      .nshapes = 1,
                                      .head_dim = HEAD_DIM,
                                      .heads = HEADS,
                                      .kv_heads = KV};
        ml_kernels *k;
        if (ml_kernels_create(&k, &options) != ML_OK) {
            print_message("skipped: %s\n", ml_error_text());
            continue;
        }
        setup(&s, k);
        body(&s);
        ml_kernels_destroy(k);
    }
}

#define TEST_ON_EVERY_PATH(name)          \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        every_path(name);                 \
    }

TEST_ON_EVERY_PATH(layernorm)
TEST_ON_EVERY_PATH(rmsnorm)
TEST_ON_EVERY_PATH(headnorm)
TEST_ON_EVERY_PATH(widenorm)
TEST_ON_EVERY_PATH(soft_cap)
TEST_ON_EVERY_PATH(rope)
TEST_ON_EVERY_PATH(activations)
TEST_ON_EVERY_PATH(attention)
TEST_ON_EVERY_PATH(cross_entropy)
TEST_ON_EVERY_PATH(weight_product)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layernorm),     cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_headnorm),      cmocka_unit_test(test_widenorm),
        cmocka_unit_test(test_soft_cap),      cmocka_unit_test(test_rope),
        cmocka_unit_test(test_activations),   cmocka_unit_test(test_attention),
        cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_weight_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
