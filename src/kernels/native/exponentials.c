/* What is made of e^x: activations, and cross-entropy.
 *
 * Activations have no branches, so that the compiler makes vector code of the rows. All errors are
 * within 3e-7·max(1, |x|).
 *   gelu (tanh) = x·σ(2u), u = √(2/π)·(x + 0.044715·x³): 1/2·(1 + tanh u) is σ(2u)
 *   gelu (erf) = x·Φ(x), Φ from erfc(z) = e^(−z²)·t·P(t), t = 1/(1 + z/2): one polynomial for all z
 *     ≥ 0
 *   tanh from e^(−2|x|), and near 0, where that cancels, its series */
#include "kernels/native/native.h"

static const float root_2_over_pi = 0.797884561f, cubic = 0.044715f, half_root_2 = 0.707106781f,
                   density_at_0 = 0.398942280f;

ML_INLINE float sigmoid(float x) { return 1.0f / (1.0f + ml_native_exp(-x)); }

/* Φ(x); *density = e^(−x²/2), which the derivative needs too. */
ML_INLINE float normal_cdf(float x, float *density)
{
    float z = (x < 0 ? -x : x) * half_root_2;
    float t = 1.0f / ml_fma(0.5f, z, 1.0f);
    *density = ml_native_exp(-0.5f * x * x);
    float p = -5.906890617e-02f;
    p = ml_fma(p, t, 2.845747281e-01f);
    p = ml_fma(p, t, -4.871994689e-01f);
    p = ml_fma(p, t, 2.780667333e-01f);
    p = ml_fma(p, t, -2.662541597e-02f);
    p = ml_fma(p, t, 2.026867819e-01f);
    p = ml_fma(p, t, 2.431037802e-01f);
    p = ml_fma(p, t, 2.823753067e-01f);
    p = ml_fma(p, t, 2.820864179e-01f);
    float tail = 0.5f * *density * t * p; /* Φ(−|x|) */
    return x < 0 ? tail : 1.0f - tail;
}

ML_INLINE float hyperbolic_tangent(float x)
{
    float z = x < 0 ? -x : x, e = ml_native_exp(-2 * z), q = x * x;
    float far = (1 - e) / (1 + e);
    float near = ml_fma(q, -17.0f / 315 + q * 62 / 2835, 2.0f / 15);
    near = ml_fma(z * q, ml_fma(q, near, -1.0f / 3), z);
    float y = z < 0.3f ? near : far;
    return x < 0 ? -y : y;
}

ML_INLINE float activate(ml_activation a, float x)
{
    float density;
    switch (a) {
    case ML_GELU_TANH:
        return x * sigmoid(2 * root_2_over_pi * ml_fma(cubic * x * x, x, x));
    case ML_GELU_ERF:
        return x * normal_cdf(x, &density);
    case ML_RELU:
        return x < 0 ? 0 : x;
    case ML_SILU:
        return x * sigmoid(x);
    case ML_TANH:
        return hyperbolic_tangent(x);
    }
    return 0;
}

ML_INLINE float slope_of(ml_activation a, float x)
{
    float density, s;
    switch (a) {
    case ML_GELU_TANH:
        s = sigmoid(2 * root_2_over_pi * ml_fma(cubic * x * x, x, x));
        return ml_fma(x * s * (1 - s) * 2 * root_2_over_pi, ml_fma(3 * cubic * x, x, 1), s);
    case ML_GELU_ERF:
        s = normal_cdf(x, &density);
        return ml_fma(x * density, density_at_0, s);
    case ML_RELU:
        return x > 0 ? 1 : 0;
    case ML_SILU:
        s = sigmoid(x);
        return ml_fma(x * s, 1 - s, s);
    case ML_TANH:
        s = hyperbolic_tangent(x);
        return ml_fma(-s, s, 1);
    }
    return 0;
}

/* Runs `loop` with the activation as a constant, so that each gets its own vector code. */
#define FOR_CONSTANT(a, loop) \
    switch (a) {              \
    case ML_GELU_TANH:        \
        loop(ML_GELU_TANH);   \
        break;                \
    case ML_GELU_ERF:         \
        loop(ML_GELU_ERF);    \
        break;                \
    case ML_RELU:             \
        loop(ML_RELU);        \
        break;                \
    case ML_SILU:             \
        loop(ML_SILU);        \
        break;                \
    case ML_TANH:             \
        loop(ML_TANH);        \
        break;                \
    }

static void forward_row(ml_activation a, int64_t n, const float *x, float *y)
{
#define LOOP(constant) \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) y[i] = activate(constant, x[i])
    FOR_CONSTANT(a, LOOP)
#undef LOOP
}

static void backward_row(ml_activation a, int64_t n, const float *x, const float *dy, float *dx)
{
#define LOOP(constant) \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * slope_of(constant, x[i])
    FOR_CONSTANT(a, LOOP)
#undef LOOP
}

/* A slope that is no number becomes the least one: the loss has told of it before. */
static void slope_row(ml_activation a, int64_t n, const float *x, uint8_t *code)
{
    const float steps = ML_SLOPE_STEPS, least = -(float)ML_SLOPE_ZERO / ML_SLOPE_STEPS,
                most = (float)(UINT8_MAX - ML_SLOPE_ZERO) / ML_SLOPE_STEPS;
#define LOOP(constant)                                                                          \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++)                                         \
    {                                                                                           \
        float s = slope_of(constant, x[i]);                                                     \
        s = s > least ? s : least;                                                              \
        code[i] = (uint8_t)(int32_t)(ml_fma(steps, s < most ? s : most, ML_SLOPE_ZERO) + 0.5f); \
    }
    FOR_CONSTANT(a, LOOP)
#undef LOOP
}

static void gated_forward_row(ml_activation a, int64_t n, const float *gate, const float *up,
                              float *y)
{
#define LOOP(constant) \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) y[i] = activate(constant, gate[i]) * up[i]
    FOR_CONSTANT(a, LOOP)
#undef LOOP
}

/* gate and up are read before dgate and dup are written: these may be the same memory. */
static void gated_backward_row(ml_activation a, int64_t n, const float *gate, const float *up,
                               const float *dy, float *dgate, float *dup)
{
#define LOOP(constant)                                  \
    _Pragma("omp simd") for (int64_t i = 0; i < n; i++) \
    {                                                   \
        float g = gate[i], u = up[i], d = dy[i];        \
        dgate[i] = d * u * slope_of(constant, g);       \
        dup[i] = d * activate(constant, g);             \
    }
    FOR_CONSTANT(a, LOOP)
#undef LOOP
}

static void activation_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                               float *y, int64_t ldy)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) forward_row(a, n, x + t * ldx, y + t * ldy);
}

static void activation_backward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                                const float *dy, int64_t lddy, float *dx, int64_t lddx)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) backward_row(a, n, x + t * ldx, dy + t * lddy, dx + t * lddx);
}

static void slopes_forward(ml_activation a, int64_t T, int64_t n, const float *x, int64_t ldx,
                           uint8_t *code)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) slope_row(a, n, x + t * ldx, code + t * n);
}

static void slopes_backward(int64_t T, int64_t n, const uint8_t *code, const float *dy,
                            int64_t lddy, float *dx, int64_t lddx)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++) {
        const uint8_t *row = code + t * n;
        const float *from = dy + t * lddy;
        float *to = dx + t * lddx;
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            to[i] = from[i] * ((float)((int32_t)row[i] - ML_SLOPE_ZERO) * (1.0f / ML_SLOPE_STEPS));
    }
}

static void gated_forward(ml_activation a, int64_t T, int64_t n, const float *gate, const float *up,
                          int64_t ldg, float *y, int64_t ldy)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        gated_forward_row(a, n, gate + t * ldg, up + t * ldg, y + t * ldy);
}

static void gated_backward(ml_activation a, int64_t T, int64_t n, const float *gate,
                           const float *up, int64_t ldg, const float *dy, int64_t lddy,
                           float *dgate, float *dup, int64_t lddg)
{
#pragma omp parallel for schedule(static) if (T * n >= ML_PARALLEL_FROM)
    for (int64_t t = 0; t < T; t++)
        gated_backward_row(a, n, gate + t * ldg, up + t * ldg, dy + t * lddy, dgate + t * lddg,
                           dup + t * lddg);
}

/* ---- cross-entropy over this rank's part of the vocabulary -------------------------------- */

/* Rows in parallel; long rows are summed in short runs in float, the runs in double. */
enum { RUN = 1024 };

static void xent_max(int64_t C, int64_t V, const float *z, int64_t ldz, float *rowmax)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) rowmax[c] = ml_native_max(V, z + c * ldz);
}

static float sum_row(int64_t V, const float *z, float top)
{
    double sum = 0;
    for (int64_t first = 0; first < V; first += RUN) {
        int64_t end = ml_min(V, first + RUN);
        float lane[ML_SUM_LANES] = {0};
        ML_FOR_LANES(end - first, lane[l] += ml_native_exp(z[first + i] - top));
        sum += (double)ml_sum_of_lanes(lane);
    }
    return (float)sum;
}

/* The column of the i-th target, or −1 where another rank has it. */
ML_INLINE int64_t column(const ml_targets *targets, int64_t i, int64_t V)
{
    int64_t v = targets->token[i] - targets->first;
    return v >= 0 && v < V ? v : -1;
}

static void xent_sum(int64_t C, int64_t V, const float *z, int64_t ldz, const float *rowmax,
                     const ml_targets *targets, float *sum, float *picked)
{
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        sum[c] = sum_row(V, z + c * ldz, rowmax[c]);
        picked[c] = 0;
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
            int64_t v = column(targets, i, V);
            if (v >= 0) picked[c] += z[c * ldz + v];
        }
    }
}

static void xent_backward(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                          const float *sum, const ml_targets *targets, float smoothing,
                          int64_t V_all, float scale)
{
    float hit = scale * (1 - smoothing);
#pragma omp parallel for schedule(static) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t c = 0; c < C; c++) {
        float *row = z + c * ldz, top = rowmax[c], weight = scale * ml_target_weights(targets, c);
        float factor = weight / sum[c], share = weight * smoothing / (float)V_all;
#pragma omp simd
        for (int64_t v = 0; v < V; v++)
            row[v] = ml_fma(factor, ml_native_exp(row[v] - top), -share);
        for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
            int64_t v = column(targets, i, V);
            if (v >= 0) row[v] = ml_fma(-hit, ml_target_weight(targets, i), row[v]);
        }
    }
}

/* Whether a target of these rows lies among columns [first, first + count). */
ML_INLINE bool has_target(const ml_targets *targets, int64_t row, int64_t rows, int64_t first,
                          int64_t count)
{
    bool found = false;
    for (int64_t i = targets->start[row]; i < targets->start[row + rows]; i++) {
        int64_t v = targets->token[i] - targets->first;
        found = found || (v >= first && v < first + count);
    }
    return found;
}

/* z → exp(z − top); whether one of them is not below `limit`, as NaN is not. */
ML_INLINE bool exponentials_of(int64_t count, float *z, float top, float limit)
{
    int reached = 0;
#pragma omp simd reduction(| : reached)
    for (int64_t v = 0; v < count; v++) {
        z[v] = ml_native_exp(z[v] - top);
        reached |= !(z[v] < limit);
    }
    return reached;
}

ML_INLINE float sum_of(int64_t count, const float *x)
{
    float lane[ML_SUM_LANES] = {0};
    ML_FOR_LANES(count, lane[l] += x[i]);
    return ml_sum_of_lanes(lane);
}

/* What xent_filter is to do, and with which rows. */
typedef struct filter {
    float *z;
    int64_t ldz;
    const float *rowmax, *sum;
    const ml_targets *targets;
    float scale, least, *lost;
} filter;

/* The block of these rows and columns: gradients without the targets' part, or zeros (true). */
static bool filter_block(const filter *f, int64_t row, int64_t rows, int64_t first, int64_t count)
{
    float *block = f->z + row * f->ldz + first;
    bool keep = has_target(f->targets, row, rows, first, count);
    for (int64_t r = 0; r < rows; r++) {
        float limit = f->least * f->sum[row + r];
        bool reached = exponentials_of(count, block + r * f->ldz, f->rowmax[row + r], limit);
        keep = keep || reached;
    }
    for (int64_t r = 0; r < rows; r++) {
        float *x = block + r * f->ldz, sum = f->sum[row + r];
        if (keep) {
            float factor = f->scale * ml_target_weights(f->targets, row + r) / sum;
#pragma omp simd
            for (int64_t v = 0; v < count; v++) x[v] *= factor;
        } else {
            f->lost[row + r] += sum_of(count, x) / sum;
            memset(x, 0, (size_t)count * sizeof *x);
        }
    }
    return !keep;
}

static int64_t xent_filter(int64_t C, int64_t V, float *z, int64_t ldz, const float *rowmax,
                           const float *sum, const ml_targets *targets, float scale, float least,
                           float *lost)
{
    const filter f = {z, ldz, rowmax, sum, targets, scale, least, lost};
    int64_t zeros = 0;
#pragma omp parallel for schedule(static) reduction(+ : zeros) if (C * V >= ML_PARALLEL_FROM)
    for (int64_t row = 0; row < C; row += ML_FILTER_ROWS) {
        int64_t rows = ml_min(ML_FILTER_ROWS, C - row);
        memset(lost + row, 0, (size_t)rows * sizeof *lost);
        for (int64_t v = 0; v < V; v += ML_FILTER_COLUMNS)
            zeros += filter_block(&f, row, rows, v, ml_min(ML_FILTER_COLUMNS, V - v));
        for (int64_t c = row; c < row + rows; c++)
            for (int64_t i = targets->start[c]; i < targets->start[c + 1]; i++) {
                int64_t v = column(targets, i, V);
                float *x = z + c * ldz + ml_max(v, 0);
                if (v >= 0) *x = ml_fma(-scale, ml_target_weight(targets, i), *x);
            }
    }
    return zeros;
}

void ML_NATIVE(native_exponentials)(ml_kernels *table)
{
    table->activation_forward = activation_forward;
    table->activation_backward = activation_backward;
    table->slopes_forward = slopes_forward;
    table->slopes_backward = slopes_backward;
    table->gated_forward = gated_forward;
    table->gated_backward = gated_backward;
    table->xent_max = xent_max;
    table->xent_sum = xent_sum;
    table->xent_backward = xent_backward;
    table->xent_filter = xent_filter;
}
