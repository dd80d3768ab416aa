/* How fast the backends are on the run's own shapes, cut down so that all of it stays well
 * below a second, and whether a path computes what the reference does. */
#include <math.h>

#include "kernels/kernels_private.h"

enum {
    SHAPES_MOST = 3,
    ROUNDS = 3,
    TOKENS_MOST = 512,
    COLS_MOST = 1024,
    CHECK_TOKENS = 70,
    CHECK_ROWS = 70,
    CHECK_COLS = 65
};
static const double flops_most = 4e8; /* a product, for each thread */
static const double seconds_most = 0.6;

/* Matrices for one product: x[T, cols], w[rows, cols], y[T, rows], dx[T, cols] in one block. */
typedef struct sample {
    ml_weight w;
    int64_t T;
    float *x, *y, *dx;
} sample;

/* Some numbers in [−1/2, 1/2) that bf16 holds exactly. */
static float number_at(int64_t i) { return (float)((i * 7919) % 128 - 64) / 128; }

static ml_status make_sample(sample *s, int64_t T, int64_t rows, int64_t cols, ml_dtype dtype)
{
    int64_t weight_floats = ml_round_up(rows * cols, 16);
    float *block =
        ml_memory_alloc(ml_round_up(2 * T * cols, 16) + ml_round_up(T * rows, 16) + weight_floats,
                        sizeof *block, ML_MEM_OTHER, "matrices to measure products with");
    if (!block) return ML_RESOURCE;
    for (int64_t i = 0; i < rows * cols; i++) {
        if (dtype == ML_BF16)
            ((uint16_t *)(void *)block)[i] = ml_bf16_from_float(number_at(i));
        else
            block[i] = number_at(i);
    }
    s->w = (ml_weight){block, dtype, rows, cols};
    s->T = T;
    s->x = block + weight_floats;
    s->dx = s->x + T * cols;
    s->y = s->dx + T * cols;
    for (int64_t i = 0; i < 2 * T * cols; i++) s->x[i] = number_at(i + 1);
    for (int64_t i = 0; i < T * rows; i++) s->y[i] = number_at(i + 2);
    return ML_OK;
}

static void free_sample(sample *s)
{
    union {
        const void *borrowed;
        void *owned;
    } block = {s->w.data};
    ml_memory_free(block.owned);
    s->w.data = NULL;
}

/* The largest |a − b| against the size of the sums of n products of numbers of about 1/4. */
static bool agree(int64_t count, const float *a, const float *b, double tolerance, int64_t n)
{
    double bound = tolerance * (1 + sqrt((double)n));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= bound)) return false;
    return true;
}

ml_status ml_check_products(const ml_kernels *k, const ml_kernels_options *options, bool *right)
{
    ml_status st = ML_OK;
    const ml_kernels *ref = ml_kernels_reference();
    sample got = {.T = 0}, want = {.T = 0};
    const ml_weight *w = &options->shapes[0];
    int64_t T = ml_min(CHECK_TOKENS, options->tokens), rows = ml_min(CHECK_ROWS, w->rows),
            cols = ml_min(CHECK_COLS, w->cols);
    const double tolerance =
        options->weight_dtype == ML_BF16 ? 1e-2 : 1e-5; /* a path may narrow the activations, too */
    ML_TRY(make_sample(&got, T, rows, cols, options->weight_dtype));
    ML_TRY(make_sample(&want, T, rows, cols, options->weight_dtype));
    *right = true;
    for (int add = 0; add < 2; add++) {
        k->weight_forward(k, T, got.x, cols, &got.w, (float)add, got.y, rows);
        ref->weight_forward(ref, T, want.x, cols, &want.w, (float)add, want.y, rows);
        k->weight_backward(k, T, want.y, rows, &got.w, (float)add, got.dx, cols);
        ref->weight_backward(ref, T, want.y, rows, &want.w, (float)add, want.dx, cols);
        *right = *right && agree(T * rows, got.y, want.y, tolerance, cols) &&
                 agree(T * cols, got.dx, want.dx, tolerance, rows * cols);
    }
done:
    free_sample(&got);
    free_sample(&want);
    return st;
}

/* Up to SHAPES_MOST of the run's shapes with different sizes, largest first; returns how many. */
static int64_t pick_shapes(const ml_kernels_options *options, const ml_weight *picked[SHAPES_MOST])
{
    int64_t count = 0;
    for (; count < SHAPES_MOST; count++) {
        const ml_weight *best = NULL;
        for (int64_t i = 0; i < options->nshapes; i++) {
            const ml_weight *w = &options->shapes[i];
            bool smaller =
                count == 0 || w->rows * w->cols < picked[count - 1]->rows * picked[count - 1]->cols;
            if (smaller && (!best || w->rows * w->cols > best->rows * best->cols)) best = w;
        }
        if (!best) break;
        picked[count] = best;
    }
    return count;
}

static ml_status make_samples(const ml_kernels_options *options, int threads,
                              sample samples[SHAPES_MOST], int64_t *count)
{
    ml_status st = ML_OK;
    const ml_weight *picked[SHAPES_MOST];
    *count = pick_shapes(options, picked);
    for (int64_t i = 0; i < *count; i++) {
        int64_t T = ml_min(TOKENS_MOST, options->tokens), cols = ml_min(COLS_MOST, picked[i]->cols);
        int64_t most = (int64_t)(flops_most * threads / (2.0 * (double)(T * cols)));
        ML_TRY(make_sample(&samples[i], T, ml_min(picked[i]->rows, ml_max(most, 64)), cols,
                           options->weight_dtype));
    }
done:
    return st;
}

/* Seconds of one direction over all samples. */
static double time_once(const ml_kernels *k, const sample *samples, int64_t count, bool backward)
{
    double start = ml_seconds();
    for (int64_t i = 0; i < count; i++) {
        const sample *s = &samples[i];
        if (backward)
            k->weight_backward(k, s->T, s->y, s->w.rows, &s->w, 0, s->dx, s->w.cols);
        else
            k->weight_forward(k, s->T, s->x, s->w.cols, &s->w, 0, s->y, s->w.rows);
    }
    return ml_seconds() - start;
}

ml_status ml_measure_products(const ml_kernels_options *options, int threads, int64_t count,
                              const ml_kernels *tables, ml_kernels_rate *rates)
{
    ml_status st = ML_OK;
    sample samples[SHAPES_MOST] = {{.T = 0}};
    double seconds[ML_MAX_PATHS][2], flops = 0, start = ml_seconds();
    int64_t nsamples = 0;
    ML_TRY(make_samples(options, threads, samples, &nsamples));
    for (int64_t i = 0; i < nsamples; i++)
        flops += 2.0 * (double)(samples[i].T * samples[i].w.rows * samples[i].w.cols);
    for (int round = 0; round <= ROUNDS && (round < 2 || ml_seconds() - start < seconds_most);
         round++)
        for (int64_t p = 0; p < count; p++)
            for (int backward = 0; backward < 2; backward++) {
                double t = time_once(&tables[p], samples, nsamples, backward);
                bool first = round < 2; /* round 0 warms up */
                seconds[p][backward] = first || t < seconds[p][backward] ? t : seconds[p][backward];
            }
    for (int64_t p = 0; p < count; p++)
        rates[p] = (ml_kernels_rate){tables[p].backend, flops / seconds[p][0] * 1e-9,
                                     flops / seconds[p][1] * 1e-9};
done:
    for (int i = 0; i < SHAPES_MOST; i++) free_sample(&samples[i]);
    return st;
}
