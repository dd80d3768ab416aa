/* mpilora bench gemm: the rate of a product with a weight by every path, beside the multiply-add
 * peak of the same run. */
#include <inttypes.h>

#include "cli/bench/bench.h"

enum { PATHS_MOST = 8 };
static const double seconds_wanted = 2, most_elements = 1e10;

typedef struct gemm_options {
    bool json;
    int64_t tokens, rows, cols;
    ml_dtype dtype;
} gemm_options;

typedef struct gemm {
    ml_weight w;
    float *full, *x, *y;
    uint16_t *fp32_to_bf16;
    ml_kernels *paths[PATHS_MOST];
    int64_t count;
} gemm;

/* A table for each path that "auto" would measure. */
static ml_status create_paths(gemm *g, ml_kernels_options *options)
{
    ml_status st = ML_OK;
    const ml_kernels_rate *rates;
    ml_kernels *chosen = NULL;
    ML_TRY(ml_kernels_create(&chosen, options));
    int64_t count = ml_kernels_rates(chosen, &rates);
    for (int64_t i = 0; i < count && i < PATHS_MOST; i++) {
        ml_kernels_options forced = *options;
        forced.backend = rates[i].path;
        ML_TRY(ml_kernels_create(&g->paths[g->count], &forced));
        g->count++;
    }
done:
    ml_kernels_destroy(chosen);
    return st;
}

static ml_status prepare_gemm(gemm *g, const gemm_options *o)
{
    ml_status st = ML_OK;
    int64_t n = o->rows * o->cols;
    g->w = (ml_weight){NULL, o->dtype, o->rows, o->cols};
    ml_kernels_options options = {
        .weight_dtype = g->w.dtype, .tokens = o->tokens, .shapes = &g->w, .nshapes = 1};
    ML_TRY(create_paths(g, &options));
    ML_TRY(bench_new_floats(&g->full, n, "the weight"));
    ML_TRY(bench_new_floats(&g->x, o->tokens * o->cols, "activations"));
    ML_TRY(bench_new_floats(&g->y, o->tokens * o->rows, "results"));
    g->w.data = g->full;
    if (g->w.dtype == ML_BF16) {
        ML_NEW(g->fp32_to_bf16, n, ML_MEM_OTHER, "the weight in bf16");
        g->paths[0]->fp32_to_bf16(n, g->full, g->fp32_to_bf16);
        g->w.data = g->fp32_to_bf16;
    }
done:
    return st;
}

static double run_gemm(const gemm *g, const ml_kernels *k, int64_t T, bool backward)
{
    double start = ml_seconds();
    if (backward)
        k->weight_backward(k, T, g->y, g->w.rows, &g->w, 0, g->x, g->w.cols);
    else
        k->weight_forward(k, T, g->x, g->w.cols, &g->w, 0, g->y, g->w.rows);
    return ml_seconds() - start;
}

static ml_status measure(const gemm_options *o)
{
    ml_status st = ML_OK;
    gemm g = {.count = 0};
    static bench_times forward[PATHS_MOST], backward[PATHS_MOST], peaks;
    bench_rate results[PATHS_MOST];
    ML_TRY(prepare_gemm(&g, o));
    double start = ml_seconds(),
           flops = 2e-9 * (double)o->tokens * (double)o->rows * (double)o->cols;
    for (int64_t round = -1; bench_goes_on(NULL, round, 3, start, seconds_wanted); round++) {
        bench_add(&peaks, ml_kernels_peak_gflops(g.paths[0]));
        for (int64_t p = 0; p < g.count; p++) {
            double f = run_gemm(&g, g.paths[p], o->tokens, false),
                   b = run_gemm(&g, g.paths[p], o->tokens, true);
            if (round < 0) continue;
            bench_add(&forward[p], f);
            bench_add(&backward[p], b);
        }
    }
    for (int64_t p = 0; p < g.count; p++) {
        results[p] = (bench_rate){.forward = flops / bench_median(&forward[p]),
                                  .backward = flops / bench_median(&backward[p])};
        snprintf(results[p].path, sizeof results[p].path, "%s", g.paths[p]->backend);
    }
    char title[128];
    snprintf(title, sizeof title, "%" PRId64 " tokens × W[%" PRId64 ", %" PRId64 "] %s", o->tokens,
             o->rows, o->cols, ml_dtype_name(o->dtype));
    bench_report_rates(o->json,
                       json_pack("{s:I, s:I, s:I, s:s}", "tokens", (json_int_t)o->tokens, "rows",
                                 (json_int_t)o->rows, "cols", (json_int_t)o->cols, "dtype",
                                 ml_dtype_name(o->dtype)),
                       title, bench_largest(&peaks), g.paths[0], results, g.count);
done:
    for (int64_t p = 0; p < g.count; p++) ml_kernels_destroy(g.paths[p]);
    ml_memory_free(g.full);
    ml_memory_free(g.x);
    ml_memory_free(g.y);
    ml_memory_free(g.fp32_to_bf16);
    return st;
}

ml_status bench_gemm(int argc, char **argv)
{
    gemm_options o = {.tokens = 2048, .rows = 2304, .cols = 768};
    const char *dtype = "bf16";
    const option table[] = {{"--json", OPTION_FLAG, &o.json}, {"--tokens", OPTION_INT, &o.tokens},
                            {"--rows", OPTION_INT, &o.rows},  {"--cols", OPTION_INT, &o.cols},
                            {"--dtype", OPTION_TEXT, &dtype}, {NULL, OPTION_FLAG, NULL}};
    ml_status st = options_read(
        argc, argv, table, 0, 0, NULL,
        "mpilora bench gemm [--json] [--tokens T] [--rows R] [--cols C] [--dtype bf16|fp32]");
    if (st == ML_OK) st = bench_check_dtype("--dtype", dtype, &o.dtype);
    const bench_size sizes[] = {{"--tokens", o.tokens, 1 << 24},
                                {"--rows", o.rows, 1 << 24},
                                {"--cols", o.cols, 1 << 24},
                                {NULL, 0, 0}};
    if (st == ML_OK) st = bench_check_sizes(sizes);
    if (st != ML_OK) return st;
    if ((double)o.rows * (double)o.cols > most_elements ||
        (double)o.tokens * (double)ml_max(o.rows, o.cols) > most_elements)
        return ml_fail(ML_USAGE,
                       "--tokens, --rows, --cols: a matrix of more than %.0f elements is too large "
                       "to be measured here",
                       most_elements);
    return measure(&o);
}
