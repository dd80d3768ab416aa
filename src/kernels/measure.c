/* How fast tables of kernels are on the run's own shapes, in rounds in which each has its turn, and
 * whether a path computes what the reference does. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/kernels_private.h"

enum { SHAPES_MOST = 3, ROUNDS_MOST = 64, CHECK_TOKENS = 70, CHECK_ROWS = 70, CHECK_COLS = 65 };

/* Matrices for one product: x[T, cols], w[rows, cols], y[T, rows], dx[T, cols] in one block. */
typedef struct sample {
    ml_weight w;
    int64_t T;
    float *x, *y, *dx;
} sample;

/* Some numbers in [−1/2, 1/2) that bf16 holds exactly. */
static float number_at(int64_t i) { return (float)((i * 7919) % 128 - 64) / 128; }

/* Codes of all kinds under factors that make weights of up to about 1/2: the upper byte of an fp16,
 * 2^−13 where a block has scales of its own beside it, else 2^−8; 2^−6 in E8M0. */
static void fill_blocks(const ml_block_format *f, int64_t count, uint8_t *blocks)
{
    for (int64_t i = 0; i < count * f->bytes; i++) blocks[i] = (uint8_t)(i * 7919 >> 3);
    for (int64_t i = 0; i < count; i++) {
        uint8_t *block = blocks + i * f->bytes;
        if (f->dtype == ML_MXFP4) block[0] = 121;
        for (int j = 0; j < 2; j++)
            if (f->scales[j] >= 0) block[f->scales[j] + 1] = f->weights > 32 ? 0x08 : 0x1c;
    }
}

static void fill_weight(ml_dtype dtype, int64_t count, void *weight)
{
    const ml_block_format *f = ml_block_format_of(dtype);
    if (f->weights > 1) fill_blocks(f, count / f->weights, weight);
    for (int64_t i = 0; f->weights == 1 && i < count; i++) {
        if (dtype == ML_BF16)
            ((uint16_t *)weight)[i] = ml_bf16_from_float(number_at(i));
        else
            ((float *)weight)[i] = number_at(i);
    }
}

static int64_t whole_blocks(int64_t cols, ml_dtype dtype)
{
    return ml_round_up(cols, ml_block_format_of(dtype)->weights);
}

static ml_status make_sample(sample *s, int64_t T, int64_t rows, int64_t cols, ml_dtype dtype)
{
    int64_t weight_floats = ml_round_up(rows * cols, 16);
    float *block =
        ml_memory_alloc(ml_round_up(2 * T * cols, 16) + ml_round_up(T * rows, 16) + weight_floats,
                        sizeof *block, ML_MEM_OTHER, "matrices to measure products with");
    if (!block) return ML_RESOURCE;
    fill_weight(dtype, rows * cols, block);
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
            cols = whole_blocks(ml_min(CHECK_COLS, w->cols), options->weight_dtype);
    const double tolerance = options->weight_dtype != ML_FP32 && !options->exact
                                 ? 1e-2
                                 : 1e-5; /* a path may narrow the activations, too */
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

/* Up to `most` of the run's shapes with different sizes, largest first; returns how many. */
static int64_t pick_shapes(const ml_kernels_options *options, int64_t most,
                           const ml_weight *picked[SHAPES_MOST])
{
    int64_t count = 0;
    for (; count < most; count++) {
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

/* What one measurement holds. */
typedef struct trial {
    sample samples[SHAPES_MOST];
    int64_t nsamples, count; /* count: of tables */
    const ml_kernels *const *tables;
    bool one_thread;
    double (*seconds)[2][ROUNDS_MOST]; /* [count] tables, forward and backward, rounds */
} trial;

static int64_t cut(int64_t size, int64_t most) { return most > 0 ? ml_min(size, most) : size; }

static ml_status prepare(trial *t, const ml_kernels_options *options,
                         const ml_kernels_effort *effort)
{
    ml_status st = ML_OK;
    const ml_weight *picked[SHAPES_MOST];
    int64_t least_rows = 64;
    ML_NEW(t->seconds, t->count, ML_MEM_OTHER, "times of products");
    t->nsamples = pick_shapes(options, cut(SHAPES_MOST, effort->shapes), picked);
    for (int64_t i = 0; i < t->nsamples; i++) {
        int64_t T = cut(options->tokens, effort->tokens), rows = picked[i]->rows,
                cols = whole_blocks(cut(picked[i]->cols, effort->cols), options->weight_dtype);
        double most = effort->flops / (2.0 * (double)(T * cols));
        if (effort->flops > 0) rows = ml_min(rows, ml_max((int64_t)most, least_rows));
        ML_TRY(make_sample(&t->samples[i], T, rows, cols, options->weight_dtype));
    }
done:
    return st;
}

/* By the clock, or of the processor for this process: what it gives to others does not count. */
static double seconds_now(const trial *t)
{
    struct timespec now;
    if (!t->one_thread) return ml_seconds();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Of the libraries, and of each table, which were all made for the same number. */
static void use_threads(const trial *t, int threads)
{
    omp_set_num_threads(threads);
    for (int64_t p = 0; p < t->count; p++) ml_kernels_owner_of(t->tables[p])->threads = threads;
}

/* Seconds of one direction over all samples. */
static double time_once(const trial *t, const ml_kernels *k, bool backward)
{
    double start = seconds_now(t);
    for (int64_t i = 0; i < t->nsamples; i++) {
        const sample *s = &t->samples[i];
        if (backward)
            k->weight_backward(k, s->T, s->y, s->w.rows, &s->w, 0, s->dx, s->w.cols);
        else
            k->weight_forward(k, s->T, s->x, s->w.cols, &s->w, 0, s->y, s->w.rows);
    }
    return seconds_now(t) - start;
}

/* Every second round in reverse order, so that none always runs behind the same other. */
static void run_round(trial *t, int round)
{
    for (int64_t i = 0; i < t->count; i++) {
        int64_t p = round % 2 ? t->count - 1 - i : i;
        for (int backward = 0; backward < 2; backward++)
            t->seconds[p][backward][round] = time_once(t, t->tables[p], backward);
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of rates: the longest time is the least of them. */
static ml_kernels_spread spread_of(double *seconds, int rounds, double gflop)
{
    qsort(seconds, (size_t)rounds, sizeof *seconds, ascending);
    double middle = 0.5 * (seconds[rounds / 2] + seconds[(rounds - 1) / 2]);
    return (ml_kernels_spread){gflop / middle, gflop / seconds[rounds - 1], gflop / seconds[0]};
}

ml_status ml_kernels_measure(const ml_kernels_options *options, const ml_kernels_effort *effort,
                             int64_t count, const ml_kernels *const *tables, ml_kernels_rate *rates)
{
    ml_status st = ML_OK;
    trial t = {.count = count, .tables = tables, .one_thread = effort->one_thread};
    int rounds = 0, threads = omp_get_max_threads();
    double gflop = 0, start = ml_seconds();
    ML_TRY(prepare(&t, options, effort));
    for (int64_t i = 0; i < t.nsamples; i++)
        gflop += 2e-9 * (double)(t.samples[i].T * t.samples[i].w.rows * t.samples[i].w.cols);
    if (t.one_thread) use_threads(&t, 1);
    run_round(&t, 0); /* warms up: its times are overwritten */
    while (rounds < effort->rounds ||
           (rounds < ROUNDS_MOST && ml_seconds() - start < effort->seconds))
        run_round(&t, rounds++);
    if (t.one_thread) use_threads(&t, threads);
    for (int64_t p = 0; p < count; p++) {
        rates[p].forward = spread_of(t.seconds[p][0], rounds, gflop);
        rates[p].backward = spread_of(t.seconds[p][1], rounds, gflop);
    }
done:
    for (int64_t i = 0; i < t.nsamples; i++) free_sample(&t.samples[i]);
    ml_memory_free(t.seconds);
    return st;
}
